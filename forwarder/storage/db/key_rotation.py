"""Sealed values of the store, sealed anew: after that the old secrets are of no use there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import sqlalchemy as sa

from forwarder.core.encryption import PREFIXES
from forwarder.storage.db.compression import packed, unpacked
from forwarder.storage.db.database import Database
from forwarder.storage.db.tables import (
    completions,
    conversation_items,
    events,
    models,
    responses,
    thoughts,
)

Renew = Callable[[str], str | None]
"""The same value under the first secret; ``None`` for what cannot be opened."""

_AT_ONCE = 100
"""Rows that are rewritten in one transaction: others want to write too."""


class _Place(NamedTuple):
    """Columns in which sealed values may stand; ``read`` gives what a cell holds, ``write`` its
    bytes again.
    """

    table: sa.Table
    columns: tuple[str, ...]
    read: Callable[[Any], Any] = unpacked
    write: Callable[[Any], bytes | str] = packed


_PLACES = (
    _Place(responses, ("input", "body", "log")),
    _Place(responses, ("request",), str, str),  # a seal and nothing else
    _Place(events, ("data",)),
    _Place(conversation_items, ("data",)),
    _Place(completions, ("messages", "body")),
    _Place(thoughts, ("data",), bytes.decode, str.encode),  # a seal and nothing else
)
"""Where values stand that were sealed for clients, among others."""


class Renewed(NamedTuple):
    """How many rows were sealed anew, and how many keys of models could not be opened."""

    models: int
    rows: int
    lost: list[str]


def renew(database: Database, of_models: Renew, of_clients: Renew) -> Renewed:
    """Seal everything anew; what cannot be opened stays as it is."""
    done, lost = database.write(partial(_models, renew=of_models))
    rows = sum(_in_place(database, place, of_clients) for place in _PLACES)
    database.scrub()
    return Renewed(done, rows, lost)


def _models(connection: sa.Connection, renew: Renew) -> tuple[int, list[str]]:
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


def _in_place(database: Database, place: _Place, renew: Renew) -> int:
    """How many rows of one table were changed."""
    primary = sa.select(*place.table.primary_key)
    keys = list(database.read(lambda c: c.execute(primary).all()))
    batches = [keys[i : i + _AT_ONCE] for i in range(0, len(keys), _AT_ONCE)]
    return sum(
        database.write(partial(_batch, place=place, keys=batch, renew=renew)) for batch in batches
    )


def _batch(connection: sa.Connection, place: _Place, keys: list[Any], renew: Renew) -> int:
    table, changed = place.table, 0
    for key in keys:
        pairs = zip(table.primary_key, key, strict=True)
        mine = sa.and_(*(column == value for column, value in pairs))
        wanted = sa.select(*(table.c[name] for name in place.columns)).where(mine)
        row = connection.execute(wanted.with_for_update()).first()
        fresh = dict(_changes(place, row, renew)) if row else {}
        if fresh:
            connection.execute(sa.update(table).where(mine).values(fresh))
            changed += 1
    return changed


def _changes(place: _Place, row: Any, renew: Renew) -> Iterator[tuple[str, bytes | str]]:
    cells = zip(place.columns, row, strict=True)
    for name, data in ((name, data) for name, data in cells if data is not None):
        value = place.read(data)
        fresh = _renewed(value, renew)
        if fresh is not value:
            yield name, place.write(fresh)


def _renewed(value: Any, renew: Renew) -> Any:
    """A JSON value with what is sealed in it sealed anew; the very same where nothing is."""
    if isinstance(value, str):
        return (renew(value) or value) if value.startswith(PREFIXES) else value
    if isinstance(value, dict):
        fresh = {name: _renewed(inner, renew) for name, inner in value.items()}
        return fresh if any(fresh[name] is not inner for name, inner in value.items()) else value
    if isinstance(value, list):
        listed = [_renewed(inner, renew) for inner in value]
        pairs = zip(listed, value, strict=True)
        return listed if any(new is not old for new, old in pairs) else value
    return value
