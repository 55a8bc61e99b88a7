"""Migrate a database to the tables of this version; safe if several workers start at once."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa

LATEST_VERSION = "0012"
"""The latest migration; names sort in order."""

MIGRATIONS_PATH = Path(__file__).parent / "migrations"


class UnknownSchemaVersion(Exception):
    """The tables were created by an unreleased version, from which no migration leads on."""

    def __init__(self, version: str) -> None:
        super().__init__(
            f"The database has schema version {version}, which an unreleased version of the "
            "forwarder created. This version upgrades only databases of released versions. "
            "Restore a backup of one, set FORWARDER_DATABASE_URL to a new database, or keep the "
            "data as docs/operations/upgrade.md describes."
        )


def read_version(connection: sa.Connection) -> str | None:
    """Return the latest migration that was applied to the database."""
    if not sa.inspect(connection).has_table("alembic_version"):
        return None
    version = connection.scalar(sa.text("SELECT version_num FROM alembic_version"))
    return None if version is None else str(version)


def is_current(connection: sa.Connection) -> bool:
    """Whether all known migrations, or newer ones, were applied."""
    version = read_version(connection)
    return version is not None and version >= LATEST_VERSION


def migrate(connection: sa.Connection) -> None:
    """Apply the missing migrations in the connection's transaction.

    A database of a newer version is left unchanged, because old workers see it during a deploy.
    Raises UnknownSchemaVersion.
    """
    if is_current(connection):
        return
    from alembic import command  # a slow import that most starts do not need
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", str(MIGRATIONS_PATH).replace("%", "%%"))
    version = read_version(connection)
    known = {each.revision for each in ScriptDirectory.from_config(config).walk_revisions()}
    if version is not None and version not in known:
        raise UnknownSchemaVersion(version)
    command.upgrade(config, "head")
