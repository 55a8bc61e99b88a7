"""Files brought to an upstream that takes them only by id: each content once, and not for ever.

What is known here is known to this process alone; a file that was uploaded stays until nobody has
used it for ``max_age`` seconds, and is then deleted there.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Protocol

from forwarder.core.data_urls import Blob
from forwarder.core.errors import ForwarderError

log = logging.getLogger("forwarder.media")

MAX_UPLOADS = 1000
"""Files remembered for one upstream; the one not used for longest goes first."""

UploadKey = tuple[str | None, bytes]


class FileStore(Protocol):
    """An upstream, as far as it keeps files."""

    def upload(self, blob: Blob, client_key: str | None) -> str: ...

    def delete_file(self, file_id: str, client_key: str | None) -> None: ...


@dataclass
class UploadedFile:
    """One content; whoever has the lock uploads it."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    id: str | None = None
    used: float = 0.0


class UploadCache:
    """The files at one upstream, by content and by the key that they were uploaded with."""

    def __init__(self, store: FileStore, max_age: float, most: int = MAX_UPLOADS) -> None:
        self._store = store
        self._max_age = max_age
        self._most = most
        self._known: OrderedDict[UploadKey, UploadedFile] = OrderedDict()
        self._lock = threading.Lock()
        self._sweeper: threading.Timer | None = None

    def get_file_id(self, blob: Blob, client_key: str | None = None) -> str:
        """The upstream's id of this content, uploaded unless it is there.

        ``client_key`` is the key to use, ``None`` for the forwarder's.  Raises ForwarderError.
        """
        key = client_key, hashlib.sha256(blob.data).digest()
        with self._lock:
            entry = self._known.setdefault(key, UploadedFile())
            entry.used = time.monotonic()
            self._known.move_to_end(key)
        with entry.lock:
            if entry.id is None:
                entry.id = self._store.upload(blob, client_key)
            file_id = entry.id
        self._schedule_sweep()
        return file_id

    def sweep(self) -> None:
        """Delete what nobody has used for long, and what is too much."""
        with self._lock:
            if self._sweeper is not None:
                self._sweeper.cancel()
                self._sweeper = None
            old = self._pop_expired()
        for (client_key, _), entry in old:
            if entry.id is not None:
                self._delete_file(entry.id, client_key)
        self._schedule_sweep()

    def _pop_expired(self) -> list[tuple[UploadKey, UploadedFile]]:
        limit = time.monotonic() - self._max_age
        old = []
        while self._known:
            first = next(iter(self._known.values()))
            if first.used > limit and len(self._known) <= self._most:
                break
            old.append(self._known.popitem(last=False))
        return old

    def _delete_file(self, file_id: str, client_key: str | None) -> None:
        try:
            self._store.delete_file(file_id, client_key)
        except ForwarderError as error:  # it may be gone already; nobody waits for it
            log.warning("an uploaded file could not be deleted: %s", error.message)

    def _schedule_sweep(self) -> None:
        """As soon as something is too old; at once when there is too much."""
        with self._lock:
            too_many = len(self._known) > self._most
            if not self._known or (self._sweeper is not None and not too_many):
                return
            oldest = next(iter(self._known.values())).used
            wait = 0.0 if too_many else max(0.0, oldest + self._max_age - time.monotonic())
            if self._sweeper is not None:
                self._sweeper.cancel()
            self._sweeper = threading.Timer(wait, self.sweep)
            self._sweeper.daemon = True
            self._sweeper.start()
