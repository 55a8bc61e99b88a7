"""Stored chat completions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa

from forwarder.core.types import Json
from forwarder.storage.db import tombstones
from forwarder.storage.db.compression import Spend, note_written, packed, unpacked
from forwarder.storage.db.tables import completions

_PAGE = 200
"""How many are looked at at once when some are wanted with certain metadata."""


class Completion(NamedTuple):
    """A stored chat completion and the messages that it answers."""

    id: str
    created: float
    model: str
    metadata: Json
    messages: list[Json]
    body: Json


_COLUMNS = [completions.c[name] for name in Completion._fields]
_LISTED = [sa.null().label(c.name) if c is completions.c.messages else c for c in _COLUMNS]

_ROWS_AT_ONCE = 4
"""Rows with answers that a server sends at once."""


_LIST = "completions"
"""Where completions are when they are gone."""


def _is(owner: str, name: str) -> sa.ColumnElement[bool]:
    return (completions.c.owner == owner) & (completions.c.id == name)


def add(connection: sa.Connection, owner: str, completion: Completion) -> None:
    """Store a completion, in place of one with its id."""
    data = {name: packed(getattr(completion, name)) for name in ("metadata", "messages", "body")}
    size = sum(map(len, data.values()))
    note_written(connection, size)
    connection.execute(sa.delete(completions).where(_is(owner, completion.id)))
    connection.execute(
        sa.insert(completions).values(
            owner=owner,
            id=completion.id,
            created=completion.created,
            used=completion.created,
            model=completion.model,
            size=size,
            **data,
        )
    )


def find(connection: sa.Connection, owner: str, name: str) -> Completion | None:
    """A completion."""
    row = connection.execute(sa.select(*_COLUMNS).where(_is(owner, name))).first()
    return _completion(row) if row else None


def _completion(row: Sequence[Any], spend: Spend | None = None) -> Completion:
    name, created, model, metadata, messages, body = row
    given = [] if messages is None else unpacked(messages)
    return Completion(name, created, model, unpacked(metadata), given, unpacked(body, spend))


def describe(connection: sa.Connection, owner: str, name: str, metadata: Json) -> Completion | None:
    """Give a completion other metadata."""
    connection.execute(
        sa.update(completions).where(_is(owner, name)).values(metadata=packed(metadata))
    )
    return find(connection, owner, name)


def remove(connection: sa.Connection, owner: str, name: str) -> bool:
    """Delete a completion."""
    deleted = sa.delete(completions).where(_is(owner, name)).returning(completions.c.number)
    number = connection.scalar(deleted)
    if number is not None:
        tombstones.note(connection, owner, _LIST, name, number)
    return number is not None


def place(connection: sa.Connection, owner: str, name: str) -> int | None:
    """Where a completion is in the list, or was; ``None`` when there is no telling."""
    number = connection.scalar(sa.select(completions.c.number).where(_is(owner, name)))
    return tombstones.place(connection, owner, _LIST, name) if number is None else number


def listed(
    connection: sa.Connection,
    owner: str,
    after: int | None,
    most: int,
    falling: bool,
    model: str | None,
    metadata: Json,
    spend: Spend | None = None,
) -> list[Completion]:
    """Up to ``most`` completions in the order in which they were made, or the other way round.

    ``after`` is the place behind which they are; ``model`` and ``metadata`` are what they must
    have.  Their messages are left out.
    """
    number = completions.c.number
    found = sa.select(number, completions.c.metadata).where(completions.c.owner == owner)
    if model is not None:
        found = found.where(completions.c.model == model)
    wanted: list[int] = []
    for page in _pages(connection, found, after, falling):
        wanted += [n for n, data in page if metadata.items() <= unpacked(data).items()]
        if len(wanted) >= most:
            break
    rows = sa.select(*_LISTED).where(number.in_(wanted[:most])).order_by(_by(falling))
    page_rows = connection.execute(rows.execution_options(yield_per=_ROWS_AT_ONCE))
    return [_completion(row, spend) for row in page_rows]


def _pages(
    connection: sa.Connection,
    found: sa.Select[Any],
    mark: int | None,
    falling: bool,
) -> Iterator[Sequence[Sequence[Any]]]:
    number = completions.c.number
    while True:
        page = found
        if mark is not None:
            page = page.where(number < mark if falling else number > mark)
        rows = connection.execute(page.order_by(_by(falling)).limit(_PAGE)).all()
        yield rows
        if len(rows) < _PAGE:
            return
        mark = rows[-1][0]


def _by(falling: bool) -> sa.ColumnElement[int]:
    return completions.c.number.desc() if falling else completions.c.number.asc()
