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

from forwarder.core.backend_breaker import wait_for
from forwarder.core.concurrency import spawn
from forwarder.core.encryption import Sealer
from forwarder.core.errors import StoreUnavailable
from forwarder.middleware.reasoning_cache.memory_backend import LocalShelf
from forwarder.storage.db import Database, reasoning
from forwarder.storage.db.reasoning import Thought
from forwarder.storage.db.write_batching import Work

T = TypeVar("T")

_REST = 10.0
"""Seconds for which a store that has failed, or does not answer in time, is not asked."""

_MAX_WAIT = 0.25
"""Seconds that an answer waits for the store, which it can do without."""

_TIME = struct.Struct("d")


class _Near(NamedTuple):
    """A value that is known here, and when the store last noted its use, in Unix seconds."""

    noted: float
    value: bytes


class _Access:
    """Reading, or writing, and until when it is left alone."""

    def __init__(self, do: Callable[[Work[Any]], Any]) -> None:
        self.do = do
        self.rests_until = 0.0


class StoredShelf:
    """Keeps values until ``ttl`` seconds after their last use; that is noted now and then.

    In the store they are sealed: they hold what clients and models have said, and clients may have
    asked for nothing to be stored.
    """

    def __init__(self, database: Database, sealer: Sealer, ttl: float) -> None:
        self._sealer = sealer
        self._ttl = ttl
        self._near = LocalShelf(ttl)
        self._reading = _Access(database.read)
        self._writing = _Access(database.write)

    def find(self, owner: bytes, keys: Iterable[bytes]) -> dict[bytes, bytes]:
        """What is there of an owner's."""
        keys = list(keys)
        near = {k: _near(v) for k, v in self._near.find(owner, keys).items()}
        late = time.time() - self._ttl / 4
        asked = {key.hex(): key for key in keys if key not in near or near[key].noted < late}
        for name, thought in self._far(owner.hex(), asked, late).items():
            value = self._opened(owner, asked[name], thought.data)
            if value is not None:
                near[asked[name]] = found = _Near(thought.used, value)
                self._near.put(owner + asked[name], _TIME.pack(found.noted) + value)
        return {key: found.value for key, found in near.items()}

    def keep(self, owner: bytes, values: Mapping[bytes, bytes]) -> None:
        """Keep an owner's values: in the store, when this returns, if that is possible."""
        now = _TIME.pack(time.time())
        self._near.keep(owner, {key: now + value for key, value in values.items()})
        sealed = {key.hex(): self._sealed(owner, key, value) for key, value in values.items()}
        self._tried(self._writing, lambda c: reasoning.add(c, owner.hex(), sealed))

    def _far(self, owner: str, names: Iterable[str], late: float) -> dict[str, Thought]:
        """What the store has; of what was last used before ``late`` the use is noted."""
        if not names:
            return {}
        now = time.time()
        found = self._tried(
            self._reading, lambda c: reasoning.find(c, owner, names, now - self._ttl)
        )
        if found is None:
            return {}
        old = [name for name, thought in found.items() if thought.used < late]
        if old:
            self._tried(self._writing, lambda c: reasoning.touch(c, owner, old))
        return found | {name: found[name]._replace(used=now) for name in old}

    def _tried(self, access: _Access, work: Work[T]) -> T | None:
        """What the store does; None if it has failed recently, fails now or hangs.

        The work of a store that answers too late still takes effect.
        """
        if time.monotonic() < access.rests_until:
            return None
        done: list[T] = []
        ended = threading.Event()

        def attempt() -> None:
            try:
                done.append(access.do(work))
                access.rests_until = 0.0
            except StoreUnavailable:  # which is in the log
                self._reading.rests_until = self._writing.rests_until = time.monotonic() + _REST
            finally:
                ended.set()

        spawn(attempt)
        if not wait_for(ended, _MAX_WAIT):
            access.rests_until = time.monotonic() + _REST
        return done[0] if done else None

    def _sealed(self, owner: bytes, key: bytes, value: bytes) -> bytes:
        """A value that can be opened in its place alone."""
        return self._sealer.seal([(owner + key).hex(), orjson.loads(value)]).encode()

    def _opened(self, owner: bytes, key: bytes, data: bytes) -> bytes | None:
        """The value again; None of what was sealed elsewhere, or with a secret that is lost."""
        place, value = self._sealer.unseal(data.decode()) or (None, None)
        return orjson.dumps(value) if place == (owner + key).hex() else None


def _near(kept: bytes) -> _Near:
    (noted,) = _TIME.unpack_from(kept)
    return _Near(noted, kept[_TIME.size :])
