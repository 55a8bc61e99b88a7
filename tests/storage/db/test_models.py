"""Registered models in the database."""

from __future__ import annotations

from functools import partial

import sqlalchemy as sa

from forwarder.storage.db import models
from forwarder.storage.db.database import SqliteDatabase
from forwarder.storage.db.models import ModelRow

ROW = ModelRow("a:latest", "v1", 1.0, 1.0, {"remote_model": "m"}, "sealed")


def put(database: SqliteDatabase, row: ModelRow) -> None:
    database.write(partial(models.put, row=row))


def test_they_come_back_by_name(database: SqliteDatabase) -> None:
    second = ROW._replace(name="Z:8b", sealed=None)
    put(database, ROW)
    put(database, second)

    assert database.read(models.list_models) == [second, ROW]


def test_one_that_is_put_again_is_as_old_as_it_was(database: SqliteDatabase) -> None:
    put(database, ROW)
    put(database, ModelRow("a:latest", "v2", 9.0, 9.0, {}, None))

    assert database.read(models.list_models) == [ModelRow("a:latest", "v2", 1.0, 9.0, {}, None)]


def test_who_puts_counts_first_and_lets_nobody_in_between(database: SqliteDatabase) -> None:
    said: list[str] = []

    def putting(connection: sa.Connection) -> None:
        sa.event.listen(connection, "before_cursor_execute", lambda *given: said.append(given[2]))
        models.put(connection, ROW)

    database.write(putting)

    assert said[0].startswith("UPDATE generations")


def test_each_change_counts_and_nothing_else_does(database: SqliteDatabase) -> None:
    assert database.read(models.read_generation) == 0
    put(database, ROW)
    put(database, ROW)
    assert database.read(models.read_generation) == 2

    assert database.write(partial(models.remove, name="a:latest"))
    assert not database.write(partial(models.remove, name="a:latest"))
    assert database.read(models.read_generation) == 3
    assert database.read(models.list_models) == []
