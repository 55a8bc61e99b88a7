"""Sealed values of the store, sealed anew: after that the old secrets are of no use there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import sqlalchemy as sa

from forwarder.seal import PREFIX
from forwarder.store.database import Database
from forwarder.store.packing import packed, unpacked
from forwarder.store.tables import completions, conversation_items, events, models, responses

Renew = Callable[[str], str | None]
"""The same value under the first secret; ``None`` for what cannot be opened."""

_AT_ONCE = 100
"""Rows that are rewritten in one transaction: others want to write too."""

_PACKED: tuple[tuple[sa.Table, tuple[str, ...]], ...] = (
    (responses, ("input", "body")),
    (events, ("data",)),
    (conversation_items, ("data",)),
    (completions, ("messages", "body")),
)
"""Where clients' sealed values may stand, among others."""


class Renewed(NamedTuple):
    """How many rows were sealed anew, and how many keys of models could not be opened."""

    models: int
    rows: int
    lost: list[str]


def renew(database: Database, of_models: Renew, of_clients: Renew) -> Renewed:
    """Seal everything anew; what cannot be opened stays as it is."""
    done, lost = database.write(partial(_models, renew=of_models))
    rows = sum(_table(database, table, columns, of_clients) for table, columns in _PACKED)
    return Renewed(done, rows, lost)


def _models(connection: sa.Connection, renew: Renew) -> tuple[int, list[str]]:
    found = connection.execute(
        sa.select(models.c.name, models.c.sealed).where(models.c.sealed.is_not(None))
    ).all()
    fresh = {name: renew(sealed) for name, sealed in found}
    for name, sealed in fresh.items():
        if sealed is not None:
            mine = sa.update(models).where(models.c.name == name)
            connection.execute(mine.values(sealed=sealed))
    lost = [name for name, sealed in fresh.items() if sealed is None]
    return len(fresh) - len(lost), lost


def _table(database: Database, table: sa.Table, columns: tuple[str, ...], renew: Renew) -> int:
    """The rows of one table that were changed."""
    keys = list(database.read(lambda c: c.execute(sa.select(*table.primary_key)).all()))
    batches = [keys[i : i + _AT_ONCE] for i in range(0, len(keys), _AT_ONCE)]
    return sum(
        database.write(partial(_batch, table=table, columns=columns, keys=batch, renew=renew))
        for batch in batches
    )


def _batch(
    connection: sa.Connection,
    table: sa.Table,
    columns: tuple[str, ...],
    keys: list[Any],
    renew: Renew,
) -> int:
    changed = 0
    for key in keys:
        pairs = zip(table.primary_key, key, strict=True)
        mine = sa.and_(*(column == value for column, value in pairs))
        wanted = sa.select(*(table.c[name] for name in columns)).where(mine).with_for_update()
        row = connection.execute(wanted).first()
        fresh = dict(_changes(columns, row, renew)) if row else {}
        if fresh:
            connection.execute(sa.update(table).where(mine).values(fresh))
            changed += 1
    return changed


def _changes(columns: tuple[str, ...], row: Any, renew: Renew) -> Iterator[tuple[str, bytes]]:
    for name, data in zip(columns, row, strict=True):
        value = unpacked(data)
        fresh = _renewed(value, renew)
        if fresh is not value:
            yield name, packed(fresh)


def _renewed(value: Any, renew: Renew) -> Any:
    """A JSON value with what is sealed in it sealed anew; the very same where nothing is."""
    if isinstance(value, str):
        return (renew(value) or value) if value.startswith(PREFIX) else value
    if isinstance(value, dict):
        fresh = {name: _renewed(inner, renew) for name, inner in value.items()}
        return fresh if any(fresh[name] is not inner for name, inner in value.items()) else value
    if isinstance(value, list):
        listed = [_renewed(inner, renew) for inner in value]
        pairs = zip(listed, value, strict=True)
        return listed if any(new is not old for new, old in pairs) else value
    return value
