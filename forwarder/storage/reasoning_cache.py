"""Reasoning cache in the database, shared by all workers, with a cache in this process in front.

The next turn of a conversation may reach any worker. A database that fails or is slow is not used
for a while; requests continue with the values that this process has.

A mark is a key that exists once an owner has values. Most models produce no reasoning to cache.
Therefore the process remembers which marks are missing until another worker sets one, so that most
requests need no query.
"""

from __future__ import annotations

import struct
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import NamedTuple, TypeVar

import orjson
from cachetools import TTLCache

from forwarder.core.blocking_work import spawn
from forwarder.core.encryption import TokenCipher
from forwarder.core.errors import StoreUnavailable
from forwarder.core.storage_breaker import wait_for_event
from forwarder.middleware.reasoning_cache.memory_backend import MemoryBackend, add_mark
from forwarder.storage.db import Database
from forwarder.storage.db.change_notifier import FileChangeNotifier
from forwarder.storage.db.database import SqliteDatabase
from forwarder.storage.db.reasoning import StoredReasoning
from forwarder.storage.repositories.reasoning import ReasoningRepository

T = TypeVar("T")

PAUSE_SECONDS = 10.0
"""Seconds without database access after a failure or timeout."""

MAX_WAIT_SECONDS = 0.25
"""Seconds that a request waits for the database; the cached value is optional."""

MISSING_MARK_SECONDS = 60.0
"""Seconds until a missing mark is looked up again: workers of an older version announce none."""

MAX_MISSING_MARKS = 10_000

_TIMESTAMP = struct.Struct("d")


class CachedValue(NamedTuple):
    """A value, and its last use as recorded in the database, in Unix seconds."""

    noted_at: float
    value: bytes


class StoreAccess:
    """The time until which read or write access to the database is paused."""

    paused_until = 0.0

    @property
    def is_paused(self) -> bool:
        return time.monotonic() < self.paused_until


class DatabaseBackend:
    """Keeps values until ``ttl`` seconds after their last use.

    The last use of a row is updated at most every ``ttl / 4`` seconds.

    Values are encrypted in the database: they contain model output, possibly of clients that asked
    not to store anything.
    """

    def __init__(self, database: Database, cipher: TokenCipher, ttl: float) -> None:
        self._cipher = cipher
        self._ttl = ttl
        self._memory = MemoryBackend(ttl)
        self._reasoning = ReasoningRepository(database)
        self._read_access = StoreAccess()
        self._write_access = StoreAccess()
        self._missing_marks = (
            MissingMarks(database) if isinstance(database, SqliteDatabase) else None
        )

    def find(self, owner: bytes, keys: Iterable[bytes]) -> dict[bytes, bytes]:
        """Return the cached values of an owner, by key."""
        keys = list(keys)
        known = {k: unpack_value(v) for k, v in self._memory.find(owner, keys).items()}
        stale_before = time.time() - self._ttl / 4
        lookups = {
            key.hex(): key for key in keys if key not in known or known[key].noted_at < stale_before
        }
        for name, row in self._read_store(owner.hex(), lookups, stale_before).items():
            value = self._decrypt(owner, lookups[name], row.data)
            if value is not None:
                known[lookups[name]] = cached = CachedValue(row.used, value)
                self._memory.put(owner + lookups[name], _TIMESTAMP.pack(cached.noted_at) + value)
        return {key: cached.value for key, cached in known.items()}

    def has_mark(self, owner: bytes, mark: bytes) -> bool:
        """Return whether an owner has the mark."""
        if self._missing_marks is None:
            return bool(self.find(owner, [mark]))
        version = self._missing_marks.read_version()
        if self._missing_marks.contains(owner + mark, version):
            return False
        has_mark = bool(self.find(owner, [mark]))
        if not has_mark and not self._read_access.is_paused:
            self._missing_marks.add(owner + mark, version)
        return has_mark

    def store(self, owner: bytes, values: Mapping[bytes, bytes], mark: bytes | None = None) -> None:
        """Store an owner's values in this process and, if possible, in the database."""
        now = _TIMESTAMP.pack(time.time())
        is_new_mark = mark is not None and not self._memory.find(owner, [mark])
        values = add_mark(values, mark)
        self._memory.store(owner, {key: now + value for key, value in values.items()})
        sealed = {key.hex(): self._encrypt(owner, key, value) for key, value in values.items()}

        def add() -> None:
            self._reasoning.add(owner.hex(), sealed)
            if is_new_mark and self._missing_marks is not None:
                self._missing_marks.announce_mark()

        self._try_access(self._write_access, add)

    def _read_store(
        self, owner: str, names: Iterable[str], stale_before: float
    ) -> dict[str, StoredReasoning]:
        """Read values from the database.

        Records the use of those that were last used before ``stale_before``.
        """
        if not names:
            return {}
        now = time.time()
        rows = self._try_access(
            self._read_access, lambda: self._reasoning.find(owner, names, now - self._ttl)
        )
        if rows is None:
            return {}
        old = [name for name, row in rows.items() if row.used < stale_before]
        if old:
            self._try_access(self._write_access, lambda: self._reasoning.touch(owner, old))
        return rows | {name: rows[name]._replace(used=now) for name in old}

    def _try_access(self, access: StoreAccess, work: Callable[[], T]) -> T | None:
        """Run ``work``. Returns None if access is paused, fails or takes too long.

        Work that finishes after the timeout still takes effect.
        """
        if access.is_paused:
            return None
        results: list[T] = []
        ended = threading.Event()

        def run_attempt() -> None:
            try:
                results.append(work())
                access.paused_until = 0.0
            except StoreUnavailable:  # the database logged it
                self._read_access.paused_until = self._write_access.paused_until = (
                    time.monotonic() + PAUSE_SECONDS
                )
            finally:
                ended.set()

        spawn(run_attempt)
        if not wait_for_event(ended, MAX_WAIT_SECONDS):
            access.paused_until = time.monotonic() + PAUSE_SECONDS
        return results[0] if results else None

    def _encrypt(self, owner: bytes, key: bytes, value: bytes) -> bytes:
        """Encrypt a value together with its owner and key: it is not valid in another row."""
        return self._cipher.encrypt([(owner + key).hex(), orjson.loads(value)]).encode()

    def _decrypt(self, owner: bytes, key: bytes, data: bytes) -> bytes | None:
        """Decrypt a value. None if it belongs to another row, or if its secret is unknown."""
        place, value = self._cipher.decrypt(data.decode()) or (None, None)
        return orjson.dumps(value) if place == (owner + key).hex() else None


class MissingMarks:
    """The marks that are known to be missing from an SQLite database.

    The version changes whenever a worker sets a mark; then all marks are looked up again.
    """

    def __init__(self, database: SqliteDatabase) -> None:
        self._changes = FileChangeNotifier(
            database.path.with_name(f"{database.path.name}.reasoning")
        )
        self._versions: TTLCache[bytes, object] = TTLCache(MAX_MISSING_MARKS, MISSING_MARK_SECONDS)
        self._lock = threading.Lock()

    def read_version(self) -> object:
        """Return the current version. Read it before looking up a mark."""
        return self._changes.read_version()

    def contains(self, key: bytes, version: object) -> bool:
        """Return whether the mark is known to be missing at this version."""
        with self._lock:
            return key in self._versions and self._versions[key] == version

    def add(self, key: bytes, version: object) -> None:
        """Remember that the mark was missing at this version."""
        with self._lock:
            self._versions[key] = version

    def announce_mark(self) -> None:
        """Tell all workers that a mark was set."""
        with suppress(OSError):  # then they find it after MISSING_MARK_SECONDS
            self._changes.publish_change()


def unpack_value(packed: bytes) -> CachedValue:
    (noted_at,) = _TIMESTAMP.unpack_from(packed)
    return CachedValue(noted_at, packed[_TIMESTAMP.size :])
