"""Uploads files to an upstream that accepts them only by id, each content once.

The cache of uploaded files is local to this process. A file that has not been used for ``max_age``
seconds is deleted at the upstream.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Protocol

from forwarder.core.cancellation import CancelToken
from forwarder.core.data_urls import Blob
from forwarder.core.errors import ForwarderError
from forwarder.upstream.resilience.classify import describe_failure

log = logging.getLogger("forwarder.media")

MAX_UPLOADS = 1000
"""Maximum number of cached files at one upstream; the least recently used is deleted first."""

UploadKey = tuple[str | None, bytes]


class UpstreamFileStore(Protocol):
    """The file operations of an upstream."""

    def upload(self, blob: Blob, client_key: str | None, token: CancelToken) -> str: ...

    def delete_file(self, file_id: str, client_key: str | None) -> None: ...


@dataclass
class UploadedFile:
    """One file; ``lock`` is held during its upload, ``used_at`` is a monotonic time."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    id: str | None = None
    used_at: float = 0.0


class UploadCache:
    """The files uploaded to one upstream, by content and by the key used for the upload."""

    def __init__(
        self, store: UpstreamFileStore, max_age: float, max_files: int = MAX_UPLOADS
    ) -> None:
        self._store = store
        self._max_age = max_age
        self._max_files = max_files
        self._files: OrderedDict[UploadKey, UploadedFile] = OrderedDict()
        self._lock = threading.Lock()
        self._sweeper: threading.Timer | None = None
        self._is_closed = False

    def get_file_id(self, blob: Blob, token: CancelToken, client_key: str | None = None) -> str:
        """Return the upstream's id of a file; upload it if it is not cached.

        ``client_key`` is the API key to use, ``None`` for the configured one. Raises
        ForwarderError if the upload fails, also because the client of ``token`` disconnects.
        """
        key = client_key, hashlib.sha256(blob.data).digest()
        with self._lock:
            entry = self._files.setdefault(key, UploadedFile())
            entry.used_at = time.monotonic()
            self._files.move_to_end(key)
        with entry.lock:
            if entry.id is None:
                entry.id = self._store.upload(blob, client_key, token)
            file_id = entry.id
        self._schedule_sweep()
        return file_id

    def close(self) -> None:
        """Schedule no further sweep; uploaded files stay at the upstream."""
        with self._lock:
            self._is_closed = True
            if self._sweeper is not None:
                self._sweeper.cancel()
                self._sweeper = None

    def sweep(self) -> None:
        """Delete files that are unused for too long or exceed the maximum number."""
        with self._lock:
            if self._sweeper is not None:
                self._sweeper.cancel()
                self._sweeper = None
            expired = self._pop_expired()
        for (client_key, _), entry in expired:
            if entry.id is not None:
                self._delete_file(entry.id, client_key)
        self._schedule_sweep()

    def _pop_expired(self) -> list[tuple[UploadKey, UploadedFile]]:
        limit = time.monotonic() - self._max_age
        expired = []
        while self._files:
            first = next(iter(self._files.values()))
            if first.used_at > limit and len(self._files) <= self._max_files:
                break
            expired.append(self._files.popitem(last=False))
        return expired

    def _delete_file(self, file_id: str, client_key: str | None) -> None:
        try:
            self._store.delete_file(file_id, client_key)
        except ForwarderError as error:  # no request depends on the deletion
            log.warning({"event": "upload_delete_failed", **describe_failure(error)})

    def _schedule_sweep(self) -> None:
        """Schedule the next sweep for the oldest file; at once if there are too many files."""
        with self._lock:
            too_many = len(self._files) > self._max_files
            is_scheduled = self._sweeper is not None and not too_many
            if not self._files or is_scheduled or self._is_closed:
                return
            oldest = next(iter(self._files.values())).used_at
            wait = 0.0 if too_many else max(0.0, oldest + self._max_age - time.monotonic())
            if self._sweeper is not None:
                self._sweeper.cancel()
            self._sweeper = threading.Timer(wait, self.sweep)
            self._sweeper.daemon = True
            self._sweeper.start()
