"""Where what was deleted stood in its list: whoever pages through one may delete as they go."""

from __future__ import annotations

import time

import sqlalchemy as sa

from forwarder.storage.db.clock import NOW
from forwarder.storage.db.tables import tombstones

TOMBSTONE_SECONDS = 86400.0
"""Seconds for which a page can be asked for behind what was deleted."""


def add_tombstone(
    connection: sa.Connection, owner: str, holder: str, name: str, number: int
) -> None:
    """Remember the place that something had in the list of its holder."""
    connection.execute(sa.delete(tombstones).where(match_tombstone(owner, holder, name)))
    row = {"owner": owner, "holder": holder, "id": name, "number": number, "at": time.time()}
    connection.execute(sa.insert(tombstones).values(row))


def find_position(connection: sa.Connection, owner: str, holder: str, name: str) -> int | None:
    """The place that something had; ``None`` for what was never there, or is long gone."""
    return connection.scalar(
        sa.select(tombstones.c.number).where(match_tombstone(owner, holder, name))
    )


def remove_expired(connection: sa.Connection) -> None:
    """Forget what was deleted long ago."""
    connection.execute(sa.delete(tombstones).where(tombstones.c.at < NOW - TOMBSTONE_SECONDS))


def match_tombstone(owner: str, holder: str, name: str) -> sa.ColumnElement[bool]:
    return (
        (tombstones.c.owner == owner) & (tombstones.c.holder == holder) & (tombstones.c.id == name)
    )
