"""Re-encrypt stored values under the current secret, so that old secrets can be discarded."""

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
"""Returns the value encrypted under the first secret; ``None`` if it cannot be decrypted."""

MAX_REWRITTEN_ROWS = 100
"""Rows per transaction, so that other writers can interleave."""


class EncryptedColumns(NamedTuple):
    """Columns with encrypted values, and the functions that decode and encode a cell."""

    table: sa.Table
    columns: tuple[str, ...]
    decode: Callable[[Any], Any] = unpack_json
    encode: Callable[[Any], bytes | str] = pack_json


ENCRYPTED_COLUMNS = (
    EncryptedColumns(responses, ("input", "body", "log")),
    EncryptedColumns(responses, ("request",), str, str),  # only an encrypted value
    EncryptedColumns(events, ("data",)),
    EncryptedColumns(conversation_items, ("data",)),
    EncryptedColumns(completions, ("messages", "body")),
    EncryptedColumns(reasoning, ("data",), bytes.decode, str.encode),  # only an encrypted value
)
"""All columns that may contain values encrypted for clients."""


class ReencryptionReport(NamedTuple):
    """Number of re-encrypted model keys and rows, and the models with undecryptable keys."""

    models: int
    rows: int
    lost_models: list[str]


def reencrypt_all(
    database: Database, of_models: Reencrypt, of_clients: Reencrypt
) -> ReencryptionReport:
    """Re-encrypt all stored values: ``of_models`` the keys of models, ``of_clients`` all others.

    Values that cannot be decrypted stay unchanged.
    """
    model_count, lost = database.write(partial(reencrypt_model_keys, renew=of_models))
    rows = sum(reencrypt_table(database, place, of_clients) for place in ENCRYPTED_COLUMNS)
    database.erase_overwritten()
    return ReencryptionReport(model_count, rows, lost)


def reencrypt_model_keys(connection: sa.Connection, renew: Reencrypt) -> tuple[int, list[str]]:
    rows = connection.execute(
        sa.select(models.c.name, models.c.sealed).where(models.c.sealed.is_not(None))
    ).all()
    renewed = {name: renew(sealed) for name, sealed in rows}
    for name, before in rows:
        sealed = renewed[name]
        if sealed is not None:
            # A model that was registered again meanwhile keeps its new key.
            same = sa.and_(models.c.name == name, models.c.sealed == before)
            connection.execute(sa.update(models).where(same).values(sealed=sealed))
    lost = [name for name, sealed in renewed.items() if sealed is None]
    return len(renewed) - len(lost), lost


def reencrypt_table(database: Database, place: EncryptedColumns, renew: Reencrypt) -> int:
    """Re-encrypt one table. Returns the number of changed rows."""
    primary = sa.select(*place.table.primary_key)
    keys = list(database.read(lambda c: c.execute(primary).all()))
    batches = [keys[i : i + MAX_REWRITTEN_ROWS] for i in range(0, len(keys), MAX_REWRITTEN_ROWS)]
    return sum(
        database.write(partial(reencrypt_batch, place=place, keys=batch, renew=renew))
        for batch in batches
    )


def reencrypt_batch(
    connection: sa.Connection, place: EncryptedColumns, keys: list[Any], renew: Reencrypt
) -> int:
    table, changed = place.table, 0
    for key in keys:
        pairs = zip(table.primary_key, key, strict=True)
        mine = sa.and_(*(column == value for column, value in pairs))
        query = sa.select(*(table.c[name] for name in place.columns)).where(mine)
        row = connection.execute(query.with_for_update()).first()
        renewed = dict(find_changes(place, row, renew)) if row else {}
        if renewed:
            connection.execute(sa.update(table).where(mine).values(renewed))
            changed += 1
    return changed


def find_changes(
    place: EncryptedColumns, row: Any, renew: Reencrypt
) -> Iterator[tuple[str, bytes | str]]:
    for name, data in zip(place.columns, row, strict=True):
        if data is None:
            continue
        value = place.decode(data)
        renewed = reencrypt_value(value, renew)
        if renewed is not value:
            yield name, place.encode(renewed)


def reencrypt_value(value: Any, renew: Reencrypt) -> Any:
    """Re-encrypt all encrypted strings in a JSON value. Without any, returns the same object."""
    if isinstance(value, str):
        return (renew(value) or value) if value.startswith(SEAL_PREFIXES) else value
    if isinstance(value, dict):
        renewed = {name: reencrypt_value(inner, renew) for name, inner in value.items()}
        return (
            renewed if any(renewed[name] is not inner for name, inner in value.items()) else value
        )
    if isinstance(value, list):
        listed = [reencrypt_value(inner, renew) for inner in value]
        pairs = zip(listed, value, strict=True)
        return listed if any(new is not old for new, old in pairs) else value
    return value
