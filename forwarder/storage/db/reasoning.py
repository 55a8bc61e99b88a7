"""Rows of cached reasoning: opaque bytes by owner and name."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import sqlalchemy as sa

from forwarder.storage.db.compression import count_written
from forwarder.storage.db.statements import Statement, make_upsert
from forwarder.storage.db.tables import reasoning

MAX_TOUCHED_ROWS = 500
"""Maximum number of rows that one statement updates."""

UPSERT_REASONING = make_upsert(reasoning)

FIND_IN_SQLITE = Statement(
    "SELECT t.id, t.data, t.used FROM json_each(:names) AS wanted CROSS JOIN thoughts AS t "
    "ON t.owner = :owner AND t.id = wanted.value WHERE t.used >= :since"
)
FIND_IN_POSTGRES = Statement(
    "SELECT id, data, used FROM thoughts "
    "WHERE owner = :owner AND id = ANY(:names) AND used >= :since"
)


class StoredReasoning(NamedTuple):
    """A cached value, and its last use in Unix seconds."""

    data: bytes
    used: float


def match_reasoning(owner: str, names: Iterable[str]) -> sa.ColumnElement[bool]:
    return (reasoning.c.owner == owner) & reasoning.c.id.in_(list(names))


def split_sorted(names: Iterable[str]) -> Iterable[list[str]]:
    ordered = sorted(names)  # a fixed order prevents deadlocks between concurrent writers
    return (ordered[i : i + MAX_TOUCHED_ROWS] for i in range(0, len(ordered), MAX_TOUCHED_ROWS))


def find(
    connection: sa.Connection, owner: str, names: Iterable[str], since: float
) -> dict[str, StoredReasoning]:
    """Return existing rows by name, unless they were last used before ``since``."""
    values: dict[str, Any] = {"owner": owner, "names": list(names), "since": since}
    if connection.dialect.name == "sqlite":
        rows = FIND_IN_SQLITE.fetch_rows(
            connection, values | {"names": json.dumps(values["names"])}
        )
    else:
        rows = FIND_IN_POSTGRES.fetch_rows(connection, values)
    return {name: StoredReasoning(bytes(data), used) for name, data, used in rows}


def add(connection: sa.Connection, owner: str, values: Mapping[str, bytes]) -> None:
    """Store values, replacing rows with the same names."""
    now = time.time()
    rows = [
        {"owner": owner, "id": name, "used": now, "size": len(values[name]), "data": values[name]}
        for name in sorted(values)
    ]
    count_written(connection, sum(map(len, values.values())))
    UPSERT_REASONING.run(connection, *rows)


def touch(connection: sa.Connection, owner: str, names: Iterable[str]) -> None:
    """Update the last use of rows, which protects them from pruning."""
    for part in split_sorted(names):
        connection.execute(
            sa.update(reasoning).where(match_reasoning(owner, part)).values(used=time.time())
        )
