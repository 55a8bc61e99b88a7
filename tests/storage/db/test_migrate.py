"""Migrations run once and create the declared tables."""

from __future__ import annotations

import multiprocessing
import sqlite3
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from forwarder.core.errors import StoreUnavailable
from forwarder.storage.db import migrate
from forwarder.storage.db.database import Database, SqliteDatabase
from forwarder.storage.db.tables import metadata

FULL_TEXT_INDEXES = ("vector_store_words", "vector_store_chunks_by_word", "words")
"""Names that only the migrations declare, because each database has its own."""

pytestmark = pytest.mark.usefixtures("_migrate_each_database")


def test_latest_version_matches_the_migrations() -> None:
    config = Config()
    config.set_main_option("script_location", str(migrate.MIGRATIONS_PATH))

    assert ScriptDirectory.from_config(config).get_current_head() == migrate.LATEST_VERSION


def test_migrations_create_the_declared_tables(any_database: Database) -> None:
    def is_compared(item: object, name: str | None, kind: str, *more: object) -> bool:
        return not str(name).startswith(FULL_TEXT_INDEXES)

    def difference(connection: sa.Connection) -> list[object]:
        options = {"include_object": is_compared}
        return list(
            compare_metadata(MigrationContext.configure(connection, opts=options), metadata)
        )

    assert any_database.read(difference) == []
    assert any_database.read(migrate.read_version) == migrate.LATEST_VERSION


def describe_sqlite_schema(connection: sa.Connection) -> list[object]:
    """Return the declared tables with their kind, their columns in order, and all indexes."""
    tables = connection.exec_driver_sql("PRAGMA table_list").all()
    columns = [connection.exec_driver_sql(f"PRAGMA table_info({name})") for name in metadata.tables]
    indexes = connection.exec_driver_sql("SELECT sql FROM sqlite_master WHERE type = 'index'")
    return [
        {tuple(row) for row in tables if row.name in metadata.tables},
        [found.all() for found in columns],
        set(indexes.scalars()),
    ]


def test_sqlite_schema_equals_the_declared_one(database: SqliteDatabase) -> None:
    """Alembic does not compare the order of columns, primary keys and partial indexes."""
    engine = sa.create_engine("sqlite://")
    with engine.begin() as connection:
        metadata.create_all(connection)
        declared = describe_sqlite_schema(connection)
    engine.dispose()

    assert database.read(describe_sqlite_schema) == declared


def create_database(path: Path, version: str) -> SqliteDatabase:
    """Return a database whose tables claim to have this version."""
    first = SqliteDatabase(path)
    first.prepare()
    statement = f"UPDATE alembic_version SET version_num = '{version}'"
    first.write(lambda c: c.exec_driver_sql(statement))
    first.close()
    return SqliteDatabase(path)


def test_database_of_a_newer_version_is_not_changed(tmp_path: Path) -> None:
    database = create_database(tmp_path / "x.db", "9999")

    database.prepare()
    assert database.read(migrate.read_version) == "9999"
    database.close()


def test_database_of_an_unreleased_version_is_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    database = create_database(tmp_path / "x.db", "0009")

    with pytest.raises(StoreUnavailable):
        database.start()

    message = "schema version 0009, which an unreleased version of the forwarder created"
    assert message in caplog.text
    assert message in str(database.find_error(60.0))
    assert "Traceback" not in caplog.text
    database.close()


def start_worker(path: str) -> None:
    database = SqliteDatabase(Path(path))
    database.prepare()
    database.close()


@pytest.mark.live
@pytest.mark.slow
def test_concurrent_migrations(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    path = str(tmp_path / "x.db")
    workers = [context.Process(target=start_worker, args=(path,)) for _ in range(6)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)

    assert [worker.exitcode for worker in workers] == [0] * 6
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT count(*) FROM alembic_version").fetchone() == (1,)
    connection.close()


def test_invalid_database_file_is_reported(tmp_path: Path) -> None:
    (tmp_path / "x.db").write_text("not a database " * 100)

    with pytest.raises(StoreUnavailable):
        SqliteDatabase(tmp_path / "x.db").prepare()
