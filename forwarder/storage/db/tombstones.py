"""Where what was deleted stood in its list: whoever pages through one may delete as they go."""

from __future__ import annotations

import time

import sqlalchemy as sa

from forwarder.storage.db.clock import NOW
from forwarder.storage.db.tables import gone

_LONG = 86400.0
"""Seconds for which a page can be asked for behind what was deleted."""


def note(connection: sa.Connection, owner: str, holder: str, name: str, number: int) -> None:
    """Remember the place that something had in the list of its holder."""
    connection.execute(sa.delete(gone).where(_is(owner, holder, name)))
    row = {"owner": owner, "holder": holder, "id": name, "number": number, "at": time.time()}
    connection.execute(sa.insert(gone).values(row))


def place(connection: sa.Connection, owner: str, holder: str, name: str) -> int | None:
    """The place that something had; ``None`` for what was never there, or is long gone."""
    return connection.scalar(sa.select(gone.c.number).where(_is(owner, holder, name)))


def forget(connection: sa.Connection) -> None:
    """Forget what was deleted long ago."""
    connection.execute(sa.delete(gone).where(gone.c.at < NOW - _LONG))


def _is(owner: str, holder: str, name: str) -> sa.ColumnElement[bool]:
    return (gone.c.owner == owner) & (gone.c.holder == holder) & (gone.c.id == name)
