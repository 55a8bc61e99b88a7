"""Sealed values of the store, sealed anew: after that the old secrets are of no use there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import sqlalchemy as sa

from forwarder.core.encryption import SEAL_PREFIXES
from forwarder.storage.db.compression import pack_json, unpack_json
from forwarder.storage.db.database import Database
from forwarder.storage.db.tables import (
    completions,
    conversation_items,
    events,
    models,
    reasoning,
    responses,
)

Reencrypt = Callable[[str], str | None]
"""The same value under the first secret; ``None`` for what cannot be opened."""

MAX_REWRITTEN_ROWS = 100
"""Rows that are rewritten in one transaction: others want to write too."""


class EncryptedColumns(NamedTuple):
    """Columns in which sealed values may stand; ``decode`` gives what a cell holds, ``encode`` its
    bytes again.
    """

    table: sa.Table
    columns: tuple[str, ...]
    decode: Callable[[Any], Any] = unpack_json
    encode: Callable[[Any], bytes | str] = pack_json


ENCRYPTED_COLUMNS = (
    EncryptedColumns(responses, ("input", "body", "log")),
    EncryptedColumns(responses, ("request",), str, str),  # a seal and nothing else
    EncryptedColumns(events, ("data",)),
    EncryptedColumns(conversation_items, ("data",)),
    EncryptedColumns(completions, ("messages", "body")),
    EncryptedColumns(reasoning, ("data",), bytes.decode, str.encode),  # a seal and nothing else
)
"""Where values stand that were sealed for clients, among others."""


class RotationReport(NamedTuple):
    """How many rows were sealed anew, and how many keys of models could not be opened."""

    models: int
    rows: int
    lost_models: list[str]


def rotate_keys(database: Database, of_models: Reencrypt, of_clients: Reencrypt) -> RotationReport:
    """Seal everything anew; what cannot be opened stays as it is."""
    done, lost = database.write(partial(rotate_model_keys, renew=of_models))
    rows = sum(rotate_table(database, place, of_clients) for place in ENCRYPTED_COLUMNS)
    database.erase_overwritten()
    return RotationReport(done, rows, lost)


def rotate_model_keys(connection: sa.Connection, renew: Reencrypt) -> tuple[int, list[str]]:
    found = connection.execute(
        sa.select(models.c.name, models.c.sealed).where(models.c.sealed.is_not(None))
    ).all()
    fresh = {name: renew(sealed) for name, sealed in found}
    for name, before in found:
        sealed = fresh[name]
        if sealed is not None:
            # One that is registered anew meanwhile has another key.
            same = sa.and_(models.c.name == name, models.c.sealed == before)
            connection.execute(sa.update(models).where(same).values(sealed=sealed))
    lost = [name for name, sealed in fresh.items() if sealed is None]
    return len(fresh) - len(lost), lost


def rotate_table(database: Database, place: EncryptedColumns, renew: Reencrypt) -> int:
    """How many rows of one table were changed."""
    primary = sa.select(*place.table.primary_key)
    keys = list(database.read(lambda c: c.execute(primary).all()))
    batches = [keys[i : i + MAX_REWRITTEN_ROWS] for i in range(0, len(keys), MAX_REWRITTEN_ROWS)]
    return sum(
        database.write(partial(rotate_batch, place=place, keys=batch, renew=renew))
        for batch in batches
    )


def rotate_batch(
    connection: sa.Connection, place: EncryptedColumns, keys: list[Any], renew: Reencrypt
) -> int:
    table, changed = place.table, 0
    for key in keys:
        pairs = zip(table.primary_key, key, strict=True)
        mine = sa.and_(*(column == value for column, value in pairs))
        wanted = sa.select(*(table.c[name] for name in place.columns)).where(mine)
        row = connection.execute(wanted.with_for_update()).first()
        fresh = dict(find_changes(place, row, renew)) if row else {}
        if fresh:
            connection.execute(sa.update(table).where(mine).values(fresh))
            changed += 1
    return changed


def find_changes(
    place: EncryptedColumns, row: Any, renew: Reencrypt
) -> Iterator[tuple[str, bytes | str]]:
    cells = zip(place.columns, row, strict=True)
    for name, data in ((name, data) for name, data in cells if data is not None):
        value = place.decode(data)
        fresh = reencrypt_value(value, renew)
        if fresh is not value:
            yield name, place.encode(fresh)


def reencrypt_value(value: Any, renew: Reencrypt) -> Any:
    """A JSON value with what is sealed in it sealed anew; the very same where nothing is."""
    if isinstance(value, str):
        return (renew(value) or value) if value.startswith(SEAL_PREFIXES) else value
    if isinstance(value, dict):
        fresh = {name: reencrypt_value(inner, renew) for name, inner in value.items()}
        return fresh if any(fresh[name] is not inner for name, inner in value.items()) else value
    if isinstance(value, list):
        listed = [reencrypt_value(inner, renew) for inner in value]
        pairs = zip(listed, value, strict=True)
        return listed if any(new is not old for new, old in pairs) else value
    return value
