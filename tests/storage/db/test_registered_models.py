"""Registered models in the database."""

from __future__ import annotations

from functools import partial

import sqlalchemy as sa

from forwarder.storage.db import registered_models
from forwarder.storage.db.change_notifier import read_generation
from forwarder.storage.db.database import SqliteDatabase
from forwarder.storage.db.registered_models import ModelRow

ROW = ModelRow("a:latest", "v1", 1.0, 1.0, {"remote_model": "m"}, "sealed")


def read_models_generation(connection: sa.Connection) -> int:
    return read_generation(connection, registered_models.GENERATION_NAME)


def put_row(database: SqliteDatabase, row: ModelRow) -> None:
    database.write(partial(registered_models.put, row=row))


def test_models_are_listed_by_name(database: SqliteDatabase) -> None:
    second = ROW._replace(name="Z:8b", sealed=None)
    put_row(database, ROW)
    put_row(database, second)

    assert database.read(registered_models.list_models) == [second, ROW]


def test_replaced_model_keeps_its_creation_time(database: SqliteDatabase) -> None:
    put_row(database, ROW)
    put_row(database, ModelRow("a:latest", "v2", 9.0, 9.0, {}, None))

    assert database.read(registered_models.list_models) == [
        ModelRow("a:latest", "v2", 1.0, 9.0, {}, None)
    ]


def test_concurrent_writers_of_models_are_serialized(database: SqliteDatabase) -> None:
    statements: list[str] = []

    def put_model(connection: sa.Connection) -> None:
        sa.event.listen(
            connection, "before_cursor_execute", lambda *args: statements.append(args[2])
        )
        registered_models.put(connection, ROW)

    database.write(put_model)

    assert statements[0].startswith("UPDATE generations")


def test_generation_counts_changes(database: SqliteDatabase) -> None:
    assert database.read(read_models_generation) == 0
    put_row(database, ROW)
    put_row(database, ROW)
    assert database.read(read_models_generation) == 2

    assert database.write(partial(registered_models.remove, name="a:latest"))
    assert not database.write(partial(registered_models.remove, name="a:latest"))
    assert database.read(read_models_generation) == 3
    assert database.read(registered_models.list_models) == []
