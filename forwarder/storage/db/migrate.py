"""Brings a database to the tables that this code knows, once, however many workers start."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa

LATEST_VERSION = "0008"
"""The last step; their names sort."""

MIGRATIONS_PATH = Path(__file__).parent / "migrations"


def read_version(connection: sa.Connection) -> str | None:
    """The last step that a database has taken."""
    if not sa.inspect(connection).has_table("alembic_version"):
        return None
    found = connection.scalar(sa.text("SELECT version_num FROM alembic_version"))
    return None if found is None else str(found)


def is_current(connection: sa.Connection) -> bool:
    """Has a database taken every step that this code knows, or more?"""
    found = read_version(connection)
    return found is not None and found >= LATEST_VERSION


def migrate(connection: sa.Connection) -> None:
    """Take the steps that are missing, in the connection's transaction.

    A database of newer code is left as it is: while a deploy goes on, old workers meet it.
    """
    if is_current(connection):
        return
    from alembic import command  # most starts have nothing to do, and need none of it
    from alembic.config import Config

    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", str(MIGRATIONS_PATH).replace("%", "%%"))
    command.upgrade(config, "head")
