"""The reasoning cache in the database: sharing between workers, and behaviour without the database."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from forwarder.core.encryption import TokenCipher
from forwarder.core.errors import StoreUnavailable
from forwarder.storage import reasoning_cache
from forwarder.storage.db.database import SqliteDatabase
from forwarder.storage.reasoning_cache import DatabaseBackend

OWNER, OTHER_OWNER = b"me", b"other"
TTL = 3600.0


class WatchedDatabase(SqliteDatabase):
    """Counts reads and writes, and fails on demand."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.reads = self.writes = 0
        self.fails = False
        self.free = threading.Event()
        self.free.set()

    def read(self, work: Any) -> Any:
        self.reads += 1
        self.free.wait(20)
        if self.fails:
            raise StoreUnavailable
        return super().read(work)

    def write(self, work: Any) -> Any:
        self.writes += 1
        if self.fails:
            raise StoreUnavailable
        return super().write(work)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[WatchedDatabase]:
    watched = WatchedDatabase(tmp_path / "state.db")
    watched.prepare()
    yield watched
    watched.close()


def new_worker(database: SqliteDatabase, secret: str = "s") -> DatabaseBackend:
    return DatabaseBackend(database, TokenCipher([secret]), TTL)


def set_age(database: WatchedDatabase, seconds: float) -> None:
    """Set the last use of all values to ``seconds`` ago."""
    at = sa.text("UPDATE thoughts SET used = :used").bindparams(used=time.time() - seconds)
    database.write(lambda c: c.execute(at))


def read_use(database: WatchedDatabase) -> float:
    """Return the seconds since the last use of the stored value."""
    used_at = database.read(lambda c: c.scalar(sa.text("SELECT min(used) FROM thoughts")))
    return float(time.time() - used_at)


def test_value_is_shared_between_workers(database: WatchedDatabase) -> None:
    first, second = new_worker(database), new_worker(database)
    first.store(OWNER, {b"a": b'["x"]', b"b": b"[1]"})

    assert second.find(OWNER, [b"a", b"b", b"c"]) == {b"a": b'["x"]', b"b": b"[1]"}
    assert second.find(OTHER_OWNER, [b"a"]) == {}
    assert database.writes == 1


def test_known_value_needs_no_query(database: WatchedDatabase) -> None:
    first, second = new_worker(database), new_worker(database)
    first.store(OWNER, {b"a": b"[1]"})
    assert first.find(OWNER, [b"a"])
    assert first.find(OWNER, []) == {}
    assert database.reads == 0
    assert second.find(OWNER, [b"a"]) == second.find(OWNER, [b"a"])
    assert database.reads == 1


def test_stored_value_is_encrypted(database: WatchedDatabase) -> None:
    new_worker(database).store(OWNER, {b"a": b'["a certain text"]'})

    data = database.read(lambda c: c.scalar(sa.text("SELECT data FROM thoughts")))
    assert b"certain" not in data
    assert new_worker(database, "another").find(OWNER, [b"a"]) == {}


def test_value_moved_to_another_row_is_ignored(database: WatchedDatabase) -> None:
    new_worker(database).store(OWNER, {b"a": b"[1]"})
    moved = sa.text("UPDATE thoughts SET owner = :owner").bindparams(owner=OTHER_OWNER.hex())
    database.write(lambda c: c.execute(moved))

    assert new_worker(database).find(OTHER_OWNER, [b"a"]) == {}


def test_expired_value_is_not_found(database: WatchedDatabase) -> None:
    new_worker(database).store(OWNER, {b"a": b"[1]"})
    set_age(database, TTL + 1)

    assert new_worker(database).find(OWNER, [b"a"]) == {}


def test_used_value_does_not_expire(database: WatchedDatabase) -> None:
    new_worker(database).store(OWNER, {b"a": b"[1]"})
    set_age(database, TTL / 5)
    second = new_worker(database)
    assert second.find(OWNER, [b"a"])
    assert read_use(database) > TTL / 6  # recorded only from time to time

    set_age(database, TTL / 2)
    assert new_worker(database).find(OWNER, [b"a"])
    assert read_use(database) < 60


def test_use_of_a_known_value_is_recorded(
    database: WatchedDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = new_worker(database)
    first.store(OWNER, {b"a": b"[1]"})
    later = time.time() + TTL / 2
    with monkeypatch.context() as patch:
        patch.setattr(reasoning_cache.time, "time", lambda: later)
        assert first.find(OWNER, [b"a"])
        assert first.find(OWNER, [b"a"])
    assert read_use(database) < -TTL / 3
    assert database.reads == 2  # one of them is this test's own


def test_database_failure_pauses_access(
    database: WatchedDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = new_worker(database), new_worker(database)
    first.store(OWNER, {b"a": b"[1]"})
    database.fails = True
    second.store(OWNER, {b"b": b"[2]"})
    assert second.find(OWNER, [b"a", b"b"]) == {b"b": b"[2]"}
    assert (database.reads, database.writes) == (0, 2)  # access is paused

    database.fails = False
    assert second.find(OWNER, [b"a"]) == {}
    now = time.monotonic()
    monkeypatch.setattr(reasoning_cache.time, "monotonic", lambda: now + 60)
    assert second.find(OWNER, [b"a"]) == {b"a": b"[1]"}


def test_hanging_database_pauses_access(
    database: WatchedDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reasoning_cache, "MAX_WAIT_SECONDS", 0.03)
    new_worker(database).store(OWNER, {b"a": b'["x"]'})
    first = new_worker(database)
    database.free.clear()

    for _ in range(20):
        assert first.find(OWNER, [b"a"]) == {}
    assert database.reads == 1
    database.free.set()

    deadline = time.monotonic() + 5  # shorter than the pause after a failure
    while first.find(OWNER, [b"a"]) != {b"a": b'["x"]'}:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_missing_mark_is_looked_up_once(database: WatchedDatabase) -> None:
    first = new_worker(database)

    assert not first.has_mark(OWNER, b"mark")
    assert not first.has_mark(OWNER, b"mark")
    assert database.reads == 1
    assert not first.has_mark(OTHER_OWNER, b"mark")
    assert database.reads == 2


def test_mark_of_another_worker_is_seen_at_once(database: WatchedDatabase) -> None:
    first, second = new_worker(database), new_worker(database)
    assert not first.has_mark(OWNER, b"mark")

    second.store(OWNER, {b"a": b"[1]"}, b"mark")

    assert first.has_mark(OWNER, b"mark")
    assert second.has_mark(OWNER, b"mark")
    assert first.find(OWNER, [b"a"]) == {b"a": b"[1]"}


def test_second_value_announces_no_mark(database: WatchedDatabase) -> None:
    first, second = new_worker(database), new_worker(database)
    first.store(OWNER, {b"a": b"[1]"}, b"mark")
    assert not second.has_mark(OTHER_OWNER, b"mark")
    reads = database.reads

    first.store(OWNER, {b"b": b"[2]"}, b"mark")

    assert not second.has_mark(OTHER_OWNER, b"mark")
    assert database.reads == reads


def test_mark_is_not_missing_because_the_database_failed(
    database: WatchedDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    new_worker(database).store(OWNER, {b"a": b"[1]"}, b"mark")
    second = new_worker(database)
    database.fails = True
    assert not second.has_mark(OWNER, b"mark")

    database.fails = False
    later = time.monotonic() + reasoning_cache.PAUSE_SECONDS + 1
    monkeypatch.setattr(reasoning_cache.time, "monotonic", lambda: later)
    assert second.has_mark(OWNER, b"mark")
