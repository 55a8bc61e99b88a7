"""The disk space of form files: a limit for all forms of a process.

The files of a form are temporary files, so many forms at once could fill the disk.
"""

from __future__ import annotations

from forwarder.core.errors import Overloaded


class FormDiskLimit:
    """The disk space of all form files of a process: ``used`` of ``max_bytes`` bytes.

    It has no lock: a worker runs requests in greenlets, which never switch while one is counted.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.used = 0


class FormDiskReservation:
    """The disk space of the files of one form."""

    def __init__(self, disk: FormDiskLimit) -> None:
        self._disk = disk
        self._size = 0

    def take(self, size: int) -> None:
        """Count ``size`` more bytes.  Raises Overloaded if there is no space for them."""
        if self._disk.used + size > self._disk.max_bytes:
            raise Overloaded(
                "The files of running form requests use all space that is available to them "
                f"({self._disk.max_bytes} bytes, limit: FORWARDER_MAX_FORM_FILES)."
            )
        self._disk.used += size
        self._size += size

    def release(self) -> None:
        """Release the space: the request has ended."""
        self._disk.used -= self._size
        self._size = 0
