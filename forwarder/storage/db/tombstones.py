"""List positions of deleted rows, so that a client can delete entries while it pages through a
list.
"""

from __future__ import annotations

import time

import sqlalchemy as sa

from forwarder.storage.db.clock import NOW
from forwarder.storage.db.tables import tombstones

TOMBSTONE_SECONDS = 86400.0
"""Seconds for which a deleted entry can still be used as a cursor."""


def add_tombstone(
    connection: sa.Connection, owner: str, holder: str, name: str, number: int
) -> None:
    """Store the position of a deleted entry of a holder's list."""
    connection.execute(sa.delete(tombstones).where(match_tombstone(owner, holder, name)))
    row = {"owner": owner, "holder": holder, "id": name, "number": number, "at": time.time()}
    connection.execute(sa.insert(tombstones).values(row))


def find_position(connection: sa.Connection, owner: str, holder: str, name: str) -> int | None:
    """Return the position of a deleted entry; ``None`` if it is unknown or expired."""
    return connection.scalar(
        sa.select(tombstones.c.number).where(match_tombstone(owner, holder, name))
    )


def remove_expired(connection: sa.Connection) -> None:
    """Delete tombstones older than `TOMBSTONE_SECONDS`."""
    connection.execute(sa.delete(tombstones).where(tombstones.c.at < NOW - TOMBSTONE_SECONDS))


def match_tombstone(owner: str, holder: str, name: str) -> sa.ColumnElement[bool]:
    return (
        (tombstones.c.owner == owner) & (tombstones.c.holder == holder) & (tombstones.c.id == name)
    )
