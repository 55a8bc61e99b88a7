"""The shelf of all workers: what one puts there another finds, and what happens without it."""

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

ME, OTHER = b"me", b"other"
TTL = 3600.0


class Watched(SqliteDatabase):
    """Counts how often it is asked, and fails as long as it is told to."""

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
def database(tmp_path: Path) -> Iterator[Watched]:
    made = Watched(tmp_path / "state.db")
    made.prepare()
    yield made
    made.close()


def worker(database: SqliteDatabase, secret: str = "s") -> DatabaseBackend:
    return DatabaseBackend(database, TokenCipher([secret]), TTL)


def age(database: Watched, seconds: float) -> None:
    """Have all that is stored been used so long ago."""
    at = sa.text("UPDATE thoughts SET used = :used").bindparams(used=time.time() - seconds)
    database.write(lambda c: c.execute(at))


def used(database: Watched) -> float:
    """How long ago what is stored was used."""
    found = database.read(lambda c: c.scalar(sa.text("SELECT min(used) FROM thoughts")))
    return float(time.time() - found)


def test_what_one_worker_keeps_another_finds(database: Watched) -> None:
    one, two = worker(database), worker(database)
    one.store(ME, {b"a": b'["x"]', b"b": b"[1]"})

    assert two.find(ME, [b"a", b"b", b"c"]) == {b"a": b'["x"]', b"b": b"[1]"}
    assert two.find(OTHER, [b"a"]) == {}
    assert database.writes == 1


def test_what_is_known_here_is_not_asked_for(database: Watched) -> None:
    one, two = worker(database), worker(database)
    one.store(ME, {b"a": b"[1]"})
    assert one.find(ME, [b"a"])
    assert one.find(ME, []) == {}
    assert database.reads == 0
    assert two.find(ME, [b"a"]) == two.find(ME, [b"a"])
    assert database.reads == 1


def test_what_is_stored_cannot_be_read_without_the_secret(database: Watched) -> None:
    worker(database).store(ME, {b"a": b'["a certain text"]'})

    data = database.read(lambda c: c.scalar(sa.text("SELECT data FROM thoughts")))
    assert b"certain" not in data
    assert worker(database, "another").find(ME, [b"a"]) == {}


def test_what_was_moved_to_another_place_is_not_opened(database: Watched) -> None:
    worker(database).store(ME, {b"a": b"[1]"})
    moved = sa.text("UPDATE thoughts SET owner = :owner").bindparams(owner=OTHER.hex())
    database.write(lambda c: c.execute(moved))

    assert worker(database).find(OTHER, [b"a"]) == {}


def test_what_was_not_used_for_long_is_not_found(database: Watched) -> None:
    worker(database).store(ME, {b"a": b"[1]"})
    age(database, TTL + 1)

    assert worker(database).find(ME, [b"a"]) == {}


def test_what_is_in_use_stays(database: Watched) -> None:
    worker(database).store(ME, {b"a": b"[1]"})
    age(database, TTL / 5)
    two = worker(database)
    assert two.find(ME, [b"a"])
    assert used(database) > TTL / 6  # it is noted now and then

    age(database, TTL / 2)
    assert worker(database).find(ME, [b"a"])
    assert used(database) < 60


def test_who_has_known_it_for_long_says_that_it_is_in_use(
    database: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = worker(database)
    one.store(ME, {b"a": b"[1]"})
    later = time.time() + TTL / 2
    with monkeypatch.context() as patch:
        patch.setattr(reasoning_cache.time, "time", lambda: later)
        assert one.find(ME, [b"a"])
        assert one.find(ME, [b"a"])
    assert used(database) < -TTL / 3
    assert database.reads == 2  # of which one is that of this test


def test_a_store_that_fails_costs_nothing_but_what_it_has(
    database: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = worker(database), worker(database)
    one.store(ME, {b"a": b"[1]"})
    database.fails = True
    two.store(ME, {b"b": b"[2]"})
    assert two.find(ME, [b"a", b"b"]) == {b"b": b"[2]"}
    assert (database.reads, database.writes) == (0, 2)  # it rests, and is not asked again

    database.fails = False
    assert two.find(ME, [b"a"]) == {}
    now = time.monotonic()
    monkeypatch.setattr(reasoning_cache.time, "monotonic", lambda: now + 60)
    assert two.find(ME, [b"a"]) == {b"a": b"[1]"}


def test_store_that_hangs_is_left_alone_until_it_answers(
    database: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reasoning_cache, "MAX_WAIT_SECONDS", 0.03)
    worker(database).store(ME, {b"a": b'["x"]'})
    one = worker(database)
    database.free.clear()

    for _ in range(20):
        assert one.find(ME, [b"a"]) == {}
    assert database.reads == 1
    database.free.set()

    deadline = time.monotonic() + 5  # sooner than a store that has failed is asked again
    while one.find(ME, [b"a"]) != {b"a": b'["x"]'}:
        assert time.monotonic() < deadline
        time.sleep(0.01)
