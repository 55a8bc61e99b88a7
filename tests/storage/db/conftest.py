"""A separate database of each kind for each test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from forwarder.storage.db.database import Database, PostgresqlDatabase, SqliteDatabase
from tests.live.postgres import create_database, needs_postgres, run_postgres


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """The URL of a PostgreSQL server, which the tests of this process share."""
    with run_postgres() as url:
        yield url


@pytest.fixture(
    params=["sqlite", pytest.param("postgres", marks=[needs_postgres, pytest.mark.live])]
)
def any_database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    if request.param == "sqlite":
        new_database: Database = SqliteDatabase(tmp_path / "state.db")
    else:
        url = create_database(request.getfixturevalue("postgres_server"))
        new_database = PostgresqlDatabase(sa.make_url(url))
    new_database.prepare()
    yield new_database
    new_database.close()
