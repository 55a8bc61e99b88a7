"""Pruning by age and size."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import partial

import pytest

from forwarder.storage.db import (
    completions,
    conversations,
    files,
    reasoning,
    responses,
    retention,
    vector_stores,
)
from forwarder.storage.db.completions import StoredCompletion
from forwarder.storage.db.conversations import Conversation
from forwarder.storage.db.database import SqliteDatabase
from forwarder.storage.db.responses import StoredResponse
from forwarder.storage.db.retention import Pruner
from forwarder.storage.db.tables import metadata
from tests.helpers.check_cases import check_each

DAY = 86400.0
HUGE = 2**40


def test_all_tables_with_retention_columns_are_pruned() -> None:
    tables = {table for table in metadata.tables.values() if "used" in table.columns}
    assert tables == {*retention.PRUNED_TABLES}


def add_response(
    database: SqliteDatabase, name: str, age: float, status: str = "completed", size: int = 0
) -> None:
    created = time.time() - age
    body = {"id": name, "text": [hash((name, i)) for i in range(size // 20)]}
    one = StoredResponse(name, status, [], body, created, worker="w", lease=time.time() - 1)
    database.write(lambda c: responses.add(c, "o", one, []))


def list_existing(database: SqliteDatabase) -> list[str]:
    names = "abcde"
    return [n for n in names if database.read(lambda c, n=n: responses.find(c, "o", n))]  # type: ignore[misc]


def test_unused_rows_are_pruned_by_age(database: SqliteDatabase) -> None:
    add_response(database, "a", 40 * DAY)
    add_response(database, "b", 20 * DAY)
    old = time.time() - 40 * DAY
    database.write(lambda c: conversations.create(c, "o", Conversation("c", old, {})))
    database.write(lambda c: completions.add(c, "o", StoredCompletion("d", old, "m", {}, [], {})))

    Pruner(database, None, HUGE).prune()
    assert list_existing(database) == ["a", "b"]
    Pruner(database, 30 * DAY, HUGE).prune()
    assert list_existing(database) == ["b"]
    assert database.read(lambda c: conversations.find(c, "o", "c")) is None
    assert database.read(lambda c: completions.find(c, "o", "d")) is None


def test_reasoning_has_its_own_maximum_age(database: SqliteDatabase) -> None:
    def list_known() -> list[str]:
        return sorted(database.read(lambda c: reasoning.find(c, "o", ["a", "b"], 0.0)))

    database.write(lambda c: reasoning.add(c, "o", {"a": b"x"}))
    database.write(lambda c: c.exec_driver_sql("UPDATE thoughts SET used = used - 100"))
    database.write(lambda c: reasoning.add(c, "o", {"b": b"x"}))
    Pruner(database, 1.0, HUGE, 200.0).prune()
    assert list_known() == ["a", "b"]
    Pruner(database, None, HUGE, 50.0).prune()
    assert list_known() == ["b"]
    Pruner(database, None, 0, 50.0).prune()
    assert list_known() == []


def test_oldest_rows_are_pruned_by_size(database: SqliteDatabase) -> None:
    for i, name in enumerate("abcd"):
        add_response(database, name, (4 - i) * DAY, size=20_000)

    Pruner(database, None, 25_000).prune()
    assert list_existing(database) == ["c", "d"]
    Pruner(database, None, 1).prune()
    assert list_existing(database) == []
    free_pages = database.read(lambda c: c.exec_driver_sql("PRAGMA freelist_count").scalar())
    assert free_pages == 0


def test_one_worker_prunes(database: SqliteDatabase) -> None:
    other = SqliteDatabase(database.path)
    pruners = [Pruner(one, None, HUGE) for one in (database, other, database)]

    assert [p.prune_if_due() for p in pruners] == [False] * 3  # the first pruning is not due yet
    later = "UPDATE chores SET due = 0"
    database.write(lambda c: c.exec_driver_sql(later))
    assert [p.prune_if_due() for p in pruners] == [True, False, False]
    other.close()


def test_pruning_stops_when_the_database_is_closed(
    database: SqliteDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "PRUNE_SECONDS", 0.04)
    add_response(database, "a", 40 * DAY)
    started_loops: list[Callable[[], object]] = []
    monkeypatch.setattr(retention, "spawn", started_loops.append)
    Pruner(database, 30 * DAY, HUGE).start()

    thread = threading.Thread(target=started_loops[0], daemon=True)
    thread.start()
    deadline = time.monotonic() + 10
    while list_existing(database) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert list_existing(database) == []
    assert thread.is_alive()
    database.close()
    thread.join(10)
    assert not thread.is_alive()


# -- owners ---------------------------------------------------------------------------------------


def store_as(database: SqliteDatabase, owner: str, name: str, age: float, size: int) -> None:
    body = {"id": name, "text": [hash((owner, name, i)) for i in range(size // 20)]}
    one = StoredResponse(name, "completed", [], body, time.time() - age)
    database.write(lambda c: responses.add(c, owner, one, []))


def list_stored(database: SqliteDatabase, owner: str) -> list[str]:
    query = f"SELECT id FROM responses WHERE owner = '{owner}' ORDER BY used"
    return [row[0] for row in database.read(lambda c: c.exec_driver_sql(query).all())]


def test_pruning_by_size_is_fair_between_owners(database: SqliteDatabase) -> None:
    store_as(database, "quiet", "old", 20 * DAY, 20_000)
    for i in range(12):
        store_as(database, "loud", f"l{i}", 12.0 - i, 20_000)

    Pruner(database, None, 60_000).prune()
    assert list_stored(database, "quiet") == ["old"]
    remaining = list_stored(database, "loud")
    assert remaining == [f"l{i}" for i in range(12 - len(remaining), 12)]
    assert 2 <= len(remaining) < 6


@check_each(
    ("sizes", "share"),
    [([100], 90), ([10, 100], 80), ([50, 50], 45), ([1, 2, 1000, 1000], 43), ([], 0)],
)
def test_shares_are_fair(sizes: list[int], share: int) -> None:
    assert retention.compute_share(sizes, 90) == share


def test_large_writes_trigger_pruning(
    database: SqliteDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "PRUNE_SECONDS", 0.4)
    pruner, limit = Pruner(database, None, 60_000), 60_000
    assert database.written_bytes == 0
    for i in range(12):
        store_as(database, "loud", f"l{i}", 12.0 - i, 20_000)
    assert database.written_bytes > limit
    monkeypatch.setattr(pruner, "prune_if_due", database.close)
    pruner._run_loop()
    remaining = list_stored(database, "loud")
    assert 1 <= len(remaining) < 12
    assert database.written_bytes == 0


# -- the clock ------------------------------------------------------------------------------------


def test_clock_jump_suspends_pruning_by_age(
    database: SqliteDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    pruner = Pruner(database, 30 * DAY, HUGE)
    pruner.prune_if_due()
    # Simulate a clock that was set forward by 40 days after the last pruning.
    add_response(database, "a", 40 * DAY)
    set_due = "UPDATE chores SET due = due - 86400.0 * 40 WHERE name = 'prune'"
    database.write(lambda c: c.exec_driver_sql(set_due))
    assert pruner.prune_if_due()
    assert list_existing(database) == ["a"]

    set_due = "UPDATE chores SET due = due - 301 WHERE name = 'prune'"
    database.write(lambda c: c.exec_driver_sql(set_due))
    assert pruner.prune_if_due()
    assert list_existing(database) == ["a"]  # the clock is not trusted yet

    for name, seconds in (("clock", DAY), ("prune", 301)):
        set_due = f"UPDATE chores SET due = due - {seconds} WHERE name = '{name}'"
        database.write(lambda c, set_due=set_due: c.exec_driver_sql(set_due))  # type: ignore[misc]
    assert pruner.prune_if_due()
    assert list_existing(database) == []


def test_clock_set_back_does_not_stop_pruning(database: SqliteDatabase) -> None:
    pruner = Pruner(database, 30 * DAY, HUGE)
    pruner.prune_if_due()
    set_due = "UPDATE chores SET due = due + 86400.0 * 400 WHERE name = 'prune'"
    database.write(lambda c: c.exec_driver_sql(set_due))
    assert pruner.prune_if_due()
    assert not pruner.prune_if_due()


def test_files_and_vector_stores_are_pruned(database: SqliteDatabase) -> None:
    old, now = time.time() - 40 * DAY, time.time()
    for name, created, expires in (
        ("file-old", old, None),
        ("file-expired", now, now - 1),
        ("file-kept", now, now + 100),
    ):
        file = files.StoredFile(name, created, 5, "a", "assistants", expires)
        database.write(partial(files.reserve, owner="o", file=file, max_bytes=100))
        database.write(partial(files.mark_complete, owner="o", file_id=name))
    for name, used in (("vs_old", old), ("vs_kept", now)):
        store = vector_stores.VectorStore(name, old, used, 0, "", None, {}, None, None)
        database.write(partial(vector_stores.create, owner="o", store=store))

    Pruner(database, 30 * DAY, HUGE).prune()

    def list_ids(table: str) -> list[str]:
        query = f"SELECT id FROM {table} ORDER BY id"
        return list(database.read(lambda c: c.exec_driver_sql(query).scalars().all()))

    assert list_ids("files") == ["file-kept"]
    assert list_ids("vector_stores") == ["vs_kept"]
