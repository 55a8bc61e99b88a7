"""A shelf in the store, for all workers, with one in this process in front of it.

A conversation's next turn may come to any worker.  What is known here is not asked for there, and
a store that fails is left alone for a while: requests go on with what this process knows.
"""

from __future__ import annotations

import struct
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, TypeVar

import orjson

from forwarder.core.backend_breaker import wait_for_event
from forwarder.core.concurrency import spawn
from forwarder.core.encryption import TokenCipher
from forwarder.core.errors import StoreUnavailable
from forwarder.middleware.reasoning_cache.memory_backend import MemoryBackend
from forwarder.storage.db import Database, reasoning
from forwarder.storage.db.reasoning import StoredReasoning
from forwarder.storage.db.write_batching import DatabaseWork

T = TypeVar("T")

PAUSE_SECONDS = 10.0
"""Seconds for which a store that has failed, or does not answer in time, is not asked."""

MAX_WAIT_SECONDS = 0.25
"""Seconds that an answer waits for the store, which it can do without."""

_TIMESTAMP = struct.Struct("d")


class CachedValue(NamedTuple):
    """A value that is known here, and when the store last noted its use, in Unix seconds."""

    noted_at: float
    value: bytes


class StoreAccess:
    """Reading, or writing, and until when it is left alone."""

    def __init__(self, run_work: Callable[[DatabaseWork[Any]], Any]) -> None:
        self.do = run_work
        self.paused_until = 0.0


class DatabaseBackend:
    """Keeps values until ``ttl`` seconds after their last use; that is noted now and then.

    In the store they are sealed: they hold what clients and models have said, and clients may have
    asked for nothing to be stored.
    """

    def __init__(self, database: Database, sealer: TokenCipher, ttl: float) -> None:
        self._cipher = sealer
        self._ttl = ttl
        self._memory = MemoryBackend(ttl)
        self._read_access = StoreAccess(database.read)
        self._write_access = StoreAccess(database.write)

    def find(self, owner: bytes, keys: Iterable[bytes]) -> dict[bytes, bytes]:
        """What is there of an owner's."""
        keys = list(keys)
        near = {k: unpack_value(v) for k, v in self._memory.find(owner, keys).items()}
        late = time.time() - self._ttl / 4
        asked = {key.hex(): key for key in keys if key not in near or near[key].noted_at < late}
        for name, thought in self._read_store(owner.hex(), asked, late).items():
            value = self._decrypt(owner, asked[name], thought.data)
            if value is not None:
                near[asked[name]] = found = CachedValue(thought.used, value)
                self._memory.put(owner + asked[name], _TIMESTAMP.pack(found.noted_at) + value)
        return {key: found.value for key, found in near.items()}

    def store(self, owner: bytes, values: Mapping[bytes, bytes]) -> None:
        """Keep an owner's values: in the store, when this returns, if that is possible."""
        now = _TIMESTAMP.pack(time.time())
        self._memory.store(owner, {key: now + value for key, value in values.items()})
        sealed = {key.hex(): self._encrypt(owner, key, value) for key, value in values.items()}
        self._try_access(self._write_access, lambda c: reasoning.add(c, owner.hex(), sealed))

    def _read_store(
        self, owner: str, names: Iterable[str], late: float
    ) -> dict[str, StoredReasoning]:
        """What the store has; of what was last used before ``late`` the use is noted."""
        if not names:
            return {}
        now = time.time()
        found = self._try_access(
            self._read_access, lambda c: reasoning.find(c, owner, names, now - self._ttl)
        )
        if found is None:
            return {}
        old = [name for name, thought in found.items() if thought.used < late]
        if old:
            self._try_access(self._write_access, lambda c: reasoning.touch(c, owner, old))
        return found | {name: found[name]._replace(used=now) for name in old}

    def _try_access(self, access: StoreAccess, work: DatabaseWork[T]) -> T | None:
        """What the store does; None if it has failed recently, fails now or hangs.

        The work of a store that answers too late still takes effect.
        """
        if time.monotonic() < access.paused_until:
            return None
        done: list[T] = []
        ended = threading.Event()

        def run_attempt() -> None:
            try:
                done.append(access.do(work))
                access.paused_until = 0.0
            except StoreUnavailable:  # which is in the log
                self._read_access.paused_until = self._write_access.paused_until = (
                    time.monotonic() + PAUSE_SECONDS
                )
            finally:
                ended.set()

        spawn(run_attempt)
        if not wait_for_event(ended, MAX_WAIT_SECONDS):
            access.paused_until = time.monotonic() + PAUSE_SECONDS
        return done[0] if done else None

    def _encrypt(self, owner: bytes, key: bytes, value: bytes) -> bytes:
        """A value that can be opened in its place alone."""
        return self._cipher.encrypt([(owner + key).hex(), orjson.loads(value)]).encode()

    def _decrypt(self, owner: bytes, key: bytes, data: bytes) -> bytes | None:
        """The value again; None of what was sealed elsewhere, or with a secret that is lost."""
        place, value = self._cipher.decrypt(data.decode()) or (None, None)
        return orjson.dumps(value) if place == (owner + key).hex() else None


def unpack_value(kept: bytes) -> CachedValue:
    (noted,) = _TIMESTAMP.unpack_from(kept)
    return CachedValue(noted, kept[_TIMESTAMP.size :])
