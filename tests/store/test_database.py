"""Work in transactions, and what becomes of it when it fails."""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path

import pytest
import sqlalchemy as sa

from forwarder.errors import NotFound, StoreUnavailable
from forwarder.store import database as database_module
from forwarder.store.database import Sqlite
from forwarder.store.tables import chores


def due(connection: sa.Connection) -> list[str]:
    return list(connection.scalars(sa.select(chores.c.name).order_by(chores.c.name)))


def note(connection: sa.Connection, name: str) -> None:
    connection.execute(sa.insert(chores).values(name=name, due=0))


def test_what_is_written_is_read_by_others(database: Sqlite) -> None:
    database.write(lambda c: note(c, "a"))
    other = Sqlite(database.path)

    assert other.read(due) == ["a"]
    other.close()


def test_a_work_is_done_whole_or_not_at_all(database: Sqlite) -> None:
    def half(connection: sa.Connection) -> None:
        note(connection, "a")
        raise NotFound("no")

    with pytest.raises(NotFound):
        database.write(half)
    assert database.read(due) == []
    database.write(lambda c: note(c, "b"))
    assert database.read(due) == ["b"]


def test_what_the_database_refuses_is_our_failure(
    database: Sqlite, caplog: pytest.LogCaptureFixture
) -> None:
    database.write(lambda c: note(c, "secret"))

    with pytest.raises(StoreUnavailable) as failed:
        database.write(lambda c: note(c, "secret"))
    assert (failed.value.status, failed.value.headers) == (503, {"retry-after": "1"})
    assert "IntegrityError" in caplog.text
    assert "secret" not in caplog.text
    assert database.read(due) == ["secret"]


def test_writers_wait_for_each_other(database: Sqlite) -> None:
    other = Sqlite(database.path)
    other.prepare()

    def many(one: Sqlite, mark: str) -> None:
        for number in range(40):
            one.write(lambda c, number=number: note(c, f"{mark}{number}"))  # type: ignore[misc]

    writers = [
        threading.Thread(target=many, args=(one, f"{mark}{i}"))
        for i in range(3)
        for one, mark in ((database, "a"), (other, "b"))
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert len(database.read(due)) == 240
    other.close()


def test_free_pages_are_given_back_unless_others_write_all_the_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database_module, "_PATIENCE", 0.05)
    database = Sqlite(tmp_path / "x.db")
    database.write(lambda c: note(c, "x" * 100_000))
    database.write(lambda c: c.execute(sa.delete(chores)))
    other = sqlite3.connect(database.path, isolation_level=None)

    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreUnavailable):
        database.tidy()
    other.execute("ROLLBACK")
    assert other.execute("PRAGMA freelist_count").fetchone() > (10,)
    database.tidy()
    assert other.execute("PRAGMA freelist_count").fetchone() == (0,)
    other.close()
    database.close()


def test_a_place_that_is_none_is_tried_again(tmp_path: Path) -> None:
    (tmp_path / "there").write_text("a file")
    database = Sqlite(tmp_path / "there" / "x.db")
    with pytest.raises(StoreUnavailable):
        database.prepare()
    with pytest.raises(StoreUnavailable):
        database.read(due)

    (tmp_path / "there").unlink()
    assert database.read(due) == []
    database.close()
