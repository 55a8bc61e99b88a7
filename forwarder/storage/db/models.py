"""Registered models."""

from __future__ import annotations

from typing import NamedTuple

import sqlalchemy as sa

from forwarder.core.types import Json
from forwarder.storage.db.compression import packed, unpacked
from forwarder.storage.db.tables import generations, models

_COUNTED = "models"


class Row(NamedTuple):
    """A model as it is stored; ``sealed`` is ``None`` where nothing of it is secret."""

    name: str
    version: str
    created: float
    modified: float
    told: Json
    sealed: str | None


_COLUMNS = [models.c[name] for name in Row._fields]


def listed(connection: sa.Connection) -> list[Row]:
    """All of them, by name."""
    rows = connection.execute(sa.select(*_COLUMNS).order_by(models.c.name))
    return [_row(*row) for row in rows]


def _row(
    name: str, version: str, created: float, modified: float, told: bytes, sealed: str | None
) -> Row:
    return Row(name, version, created, modified, unpacked(told), sealed)


def put(connection: sa.Connection, row: Row) -> None:
    """Store a model, in place of one of its name, which it is as old as."""
    _count(connection)  # first, so that of two who put at once one waits for the other
    values = {**row._asdict(), "told": packed(row.told)}
    created = connection.scalar(sa.select(models.c.created).where(models.c.name == row.name))
    if created is not None:
        values["created"] = created
        _delete(connection, row.name)
    connection.execute(sa.insert(models).values(values))


def remove(connection: sa.Connection, name: str) -> bool:
    """Remove a model; False when there is none."""
    removed = _delete(connection, name)
    if removed:
        _count(connection)
    return removed


def generation(connection: sa.Connection) -> int:
    """How often a model was put or removed."""
    number = sa.select(generations.c.number).where(generations.c.name == _COUNTED)
    return connection.scalar(number) or 0


def _delete(connection: sa.Connection, name: str) -> bool:
    return bool(connection.execute(sa.delete(models).where(models.c.name == name)).rowcount)


def _count(connection: sa.Connection) -> None:
    counted = sa.update(generations).where(generations.c.name == _COUNTED)
    if not connection.execute(counted.values(number=generations.c.number + 1)).rowcount:
        connection.execute(sa.insert(generations).values(name=_COUNTED, number=1))
