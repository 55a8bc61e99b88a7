"""Reasoning that is kept for clients that cannot carry it: opaque bytes, by whose and where."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import sqlalchemy as sa

from forwarder.storage.db.compression import note_written
from forwarder.storage.db.statements import Statement, putting
from forwarder.storage.db.tables import thoughts

_AT_ONCE = 500
"""How many are touched by one statement."""

_PUT = putting(thoughts)

_FIND = Statement(
    "SELECT t.id, t.data, t.used FROM json_each(:names) AS wanted CROSS JOIN thoughts AS t "
    "ON t.owner = :owner AND t.id = wanted.value WHERE t.used >= :since"
)
_FIND_ON_SERVER = Statement(
    "SELECT id, data, used FROM thoughts "
    "WHERE owner = :owner AND id = ANY(:names) AND used >= :since"
)


class Thought(NamedTuple):
    """What was kept, and when it was last used, in Unix seconds."""

    data: bytes
    used: float


def _are(owner: str, names: Iterable[str]) -> sa.ColumnElement[bool]:
    return (thoughts.c.owner == owner) & thoughts.c.id.in_(list(names))


def _in_parts(names: Iterable[str]) -> Iterable[list[str]]:
    ordered = sorted(names)  # two that write the same ones meet in the same order
    return (ordered[i : i + _AT_ONCE] for i in range(0, len(ordered), _AT_ONCE))


def find(
    connection: sa.Connection, owner: str, names: Iterable[str], since: float
) -> dict[str, Thought]:
    """Those that are there, by their names, unless they were last used before ``since``."""
    values: dict[str, Any] = {"owner": owner, "names": list(names), "since": since}
    if connection.dialect.name == "sqlite":
        rows = _FIND.rows(connection, values | {"names": json.dumps(values["names"])})
    else:
        rows = _FIND_ON_SERVER.rows(connection, values)
    return {name: Thought(bytes(data), used) for name, data, used in rows}


def add(connection: sa.Connection, owner: str, given: Mapping[str, bytes]) -> None:
    """Keep values, in place of those with their names."""
    now = time.time()
    rows = [
        {"owner": owner, "id": name, "used": now, "size": len(given[name]), "data": given[name]}
        for name in sorted(given)
    ]
    note_written(connection, sum(map(len, given.values())))
    _PUT.run(connection, *rows)


def touch(connection: sa.Connection, owner: str, names: Iterable[str]) -> None:
    """Note that some are in use, which keeps them."""
    for part in _in_parts(names):
        connection.execute(sa.update(thoughts).where(_are(owner, part)).values(used=time.time()))
