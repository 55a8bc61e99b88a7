"""Databases of version 0.1."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config

from forwarder.storage.db.database import make_engine
from forwarder.storage.db.migrate import MIGRATIONS_PATH
from tests.live.postgres import create_database, needs_postgres


@pytest.fixture(
    params=["sqlite", pytest.param("postgres", marks=[needs_postgres, pytest.mark.live])]
)
def connection(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[sa.Connection]:
    """A transaction in a database of each kind, with the tables of version 0.1."""
    if request.param == "sqlite":
        engine = make_engine(tmp_path / "state.db", timeout=1)
    else:
        url = sa.make_url(create_database(request.getfixturevalue("postgres_server")))
        engine = sa.create_engine(url.set(drivername="postgresql+psycopg"))
    with engine.begin() as transaction:
        config = Config(attributes={"connection": transaction})
        config.set_main_option("script_location", str(MIGRATIONS_PATH))
        command.upgrade(config, "0006")
        yield transaction
    engine.dispose()
