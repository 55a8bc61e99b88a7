"""Multipart forms: files are written to disk, and memory is reserved for the other fields.

Werkzeug keeps files of up to 500 kB in memory. Many of them in one form would take as much memory
as a large body, without counting towards FORWARDER_MAX_BODY_MEMORY.
"""

from __future__ import annotations

from tempfile import SpooledTemporaryFile
from typing import IO, Any

from flask import Request

from forwarder.core.body_memory import BodyReservation
from forwarder.core.form_disk_limit import FormDiskReservation

MAX_FORM_PARTS = 100
"""Fields and files of one form; each file is an open file of the process."""


class FormFile(SpooledTemporaryFile[bytes]):
    """A temporary file on disk. Bytes written to it are subtracted from ``reservation``."""

    def __init__(self, reservation: BodyReservation, space: FormDiskReservation) -> None:
        super().__init__(max_size=1)  # 0 would keep it in memory
        self._reservation = reservation
        self._space = space

    def write(self, data: Any) -> int:
        """Write to the disk and return the number of bytes. Raises Overloaded without space."""
        self._space.take(len(data))
        count: int = super().write(data)
        self._reservation.grow(-count)
        return count


class FormStream:
    """A request stream that reserves memory for each piece that is read."""

    def __init__(self, stream: Any, reservation: BodyReservation) -> None:
        self._stream = stream
        self._reservation = reservation

    def read(self, size: int = -1) -> bytes:
        """Read up to ``size`` bytes. Raises Overloaded if there is no memory for them."""
        data: bytes = self._stream.read(size)
        self._reservation.grow(len(data))
        return data


class FormRequest(Request):
    """A Flask request that reads its form by `read_form`."""

    _reservation: BodyReservation
    _space: FormDiskReservation

    def read_form(self, reservation: BodyReservation, space: FormDiskReservation) -> None:
        """Parse the multipart form.

        Raises Overloaded if its fields need too much memory, or its files too much disk space.
        """
        self._reservation, self._space = reservation, space
        self.stream = FormStream(self.stream, reservation)  # type: ignore[assignment]
        self._on_disk: list[FormFile] = []
        try:
            _ = self.form
        except BaseException:
            for file in self._on_disk:  # the request does not know them yet
                file.close()
            raise

    def _get_file_stream(
        self,
        total_content_length: int | None,
        content_type: str | None,
        filename: str | None = None,
        content_length: int | None = None,
    ) -> IO[bytes]:
        file = FormFile(self._reservation, self._space)
        self._on_disk.append(file)
        return file
