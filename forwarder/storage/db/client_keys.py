"""Rows of client keys that were created at run time. They contain digests, never the keys."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import sqlalchemy as sa

from forwarder.core.types import Json
from forwarder.storage.db.change_notifier import increment_generation
from forwarder.storage.db.compression import pack_json, unpack_json
from forwarder.storage.db.tables import client_keys

GENERATION_NAME = "client_keys"

MAX_KEYS = 10_000
"""Maximum number of stored keys, including revoked ones.

Above it, the keys that were revoked first are deleted.
"""


class KeyNameTaken(Exception):
    """A key that is not revoked has this name."""


class TooManyKeys(Exception):
    """There are `MAX_KEYS` keys that are not revoked."""


class ClientKeyRow(NamedTuple):
    """A row. Times are Unix seconds; None: never, or no previous key. ``limits`` is JSON."""

    id: str
    name: str
    hint: str
    digest: str
    previous_digest: str | None
    previous_until: float | None
    created: float
    expires: float | None
    revoked: float | None
    last_used: float | None
    limits: Json


_COLUMNS = [client_keys.c[name] for name in ClientKeyRow._fields]
_TABLE = client_keys.c


def list_keys(connection: sa.Connection) -> list[ClientKeyRow]:
    """Return all keys by name, the newest first among those of one name."""
    statement = sa.select(*_COLUMNS).order_by(_TABLE.name, _TABLE.created.desc())
    rows = connection.execute(statement).mappings()
    return [ClientKeyRow(**{**row, "limits": unpack_json(row["limits"])}) for row in rows]


def add(connection: sa.Connection, row: ClientKeyRow) -> None:
    """Store a new key. Raises KeyNameTaken or TooManyKeys."""
    increment_generation(connection, GENERATION_NAME)
    active = sa.select(_TABLE.id).where(_TABLE.revoked.is_(None))
    if connection.scalar(active.where(_TABLE.name == row.name)) is not None:
        raise KeyNameTaken
    make_room(connection)
    values = {**row._asdict(), "limits": pack_json(row.limits)}
    connection.execute(sa.insert(client_keys).values(values))


def make_room(connection: sa.Connection) -> None:
    """Delete the keys that were revoked first if there is no room. Raises TooManyKeys."""
    surplus = (connection.scalar(sa.select(sa.func.count()).select_from(client_keys)) or 0) + 1
    surplus -= MAX_KEYS
    if surplus <= 0:
        return
    revoked = sa.select(_TABLE.id).where(_TABLE.revoked.is_not(None))
    first = list(connection.scalars(revoked.order_by(_TABLE.revoked).limit(surplus)))
    if len(first) < surplus:
        raise TooManyKeys
    connection.execute(sa.delete(client_keys).where(_TABLE.id.in_(first)))


def change(connection: sa.Connection, key_id: str, values: Mapping[str, Any]) -> bool:
    """Set columns of a key that is not revoked. False if there is no such key."""
    increment_generation(connection, GENERATION_NAME)
    packed = dict(values)
    if "limits" in packed:
        packed["limits"] = pack_json(packed["limits"])
    changed = sa.update(client_keys).where(_TABLE.id == key_id, _TABLE.revoked.is_(None))
    return bool(connection.execute(changed.values(packed)).rowcount)


def record_use(connection: sa.Connection, times: Mapping[str, float]) -> None:
    """Store the times (Unix seconds, by key id) at which keys were last used.

    Rows are locked in the order of their ids to prevent deadlocks. Other workers are not notified.
    """
    for key_id in sorted(times):
        update = sa.update(client_keys).where(
            _TABLE.id == key_id,
            sa.or_(_TABLE.last_used.is_(None), _TABLE.last_used < times[key_id]),
        )
        connection.execute(update.values(last_used=times[key_id]))
