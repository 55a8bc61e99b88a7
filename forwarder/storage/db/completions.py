"""Rows of stored chat completions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa

from forwarder.core.types import Json
from forwarder.storage.db import tombstones
from forwarder.storage.db.compression import SpendCallback, count_written, pack_json, unpack_json
from forwarder.storage.db.tables import completions

FILTER_PAGE_SIZE = 200
"""Rows read at once when completions are filtered by metadata."""


class StoredCompletion(NamedTuple):
    """A stored chat completion, and the request messages that it answers."""

    id: str
    created: float
    model: str
    metadata: Json
    messages: list[Json]
    body: Json


_COLUMNS = [completions.c[name] for name in StoredCompletion._fields]
_LIST_COLUMNS = [sa.null().label(c.name) if c is completions.c.messages else c for c in _COLUMNS]

ROWS_PER_FETCH = 4
"""Rows with bodies that a database server sends at once."""


TOMBSTONE_LIST = "completions"
"""The list name of deleted completions in the tombstones."""


def match_completion(owner: str, completion_id: str) -> sa.ColumnElement[bool]:
    return (completions.c.owner == owner) & (completions.c.id == completion_id)


def add(connection: sa.Connection, owner: str, completion: StoredCompletion) -> None:
    """Store a completion, replacing one with the same id."""
    data = {name: pack_json(getattr(completion, name)) for name in ("metadata", "messages", "body")}
    size = sum(map(len, data.values()))
    count_written(connection, size)
    connection.execute(sa.delete(completions).where(match_completion(owner, completion.id)))
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


def find(
    connection: sa.Connection, owner: str, completion_id: str, spend: SpendCallback | None = None
) -> StoredCompletion | None:
    """Return a completion."""
    row = connection.execute(
        sa.select(*_COLUMNS).where(match_completion(owner, completion_id))
    ).first()
    return to_completion(row, spend) if row else None


def to_completion(row: Sequence[Any], spend: SpendCallback | None = None) -> StoredCompletion:
    name, created, model, metadata, messages, body = row
    request_messages = [] if messages is None else unpack_json(messages, spend)
    return StoredCompletion(
        name, created, model, unpack_json(metadata), request_messages, unpack_json(body, spend)
    )


def set_metadata(
    connection: sa.Connection, owner: str, completion_id: str, metadata: Json
) -> StoredCompletion | None:
    """Replace the metadata of a completion. Returns None if it does not exist."""
    connection.execute(
        sa.update(completions)
        .where(match_completion(owner, completion_id))
        .values(metadata=pack_json(metadata))
    )
    return find(connection, owner, completion_id)


def remove(connection: sa.Connection, owner: str, completion_id: str) -> bool:
    """Delete a completion. Returns whether it existed."""
    deleted = (
        sa.delete(completions)
        .where(match_completion(owner, completion_id))
        .returning(completions.c.number)
    )
    number = connection.scalar(deleted)
    if number is not None:
        tombstones.add_tombstone(connection, owner, TOMBSTONE_LIST, completion_id, number)
    return number is not None


def find_position(connection: sa.Connection, owner: str, completion_id: str) -> int | None:
    """Return the list position of a completion, existing or recently deleted, or None."""
    number = connection.scalar(
        sa.select(completions.c.number).where(match_completion(owner, completion_id))
    )
    return (
        tombstones.find_position(connection, owner, TOMBSTONE_LIST, completion_id)
        if number is None
        else number
    )


def list_page(
    connection: sa.Connection,
    owner: str,
    after: int | None,
    limit: int,
    descending: bool,
    model: str | None,
    metadata: Json,
    spend: SpendCallback | None = None,
) -> list[StoredCompletion]:
    """Return up to ``limit`` completions after position ``after``, ordered by creation.

    ``model`` and ``metadata`` filter the result. The messages are left out.
    """
    number = completions.c.number
    query = sa.select(number, completions.c.metadata).where(completions.c.owner == owner)
    if model is not None:
        query = query.where(completions.c.model == model)
    wanted: list[int] = []
    for page in iterate_pages(connection, query, after, descending):
        wanted += [n for n, data in page if metadata.items() <= unpack_json(data).items()]
        if len(wanted) >= limit:
            break
    rows = (
        sa.select(*_LIST_COLUMNS)
        .where(number.in_(wanted[:limit]))
        .order_by(order_by_number(descending))
    )
    page_rows = connection.execute(rows.execution_options(yield_per=ROWS_PER_FETCH))
    return [to_completion(row, spend) for row in page_rows]


def iterate_pages(
    connection: sa.Connection,
    query: sa.Select[Any],
    after: int | None,
    descending: bool,
) -> Iterator[Sequence[Sequence[Any]]]:
    number = completions.c.number
    while True:
        page = query
        if after is not None:
            page = page.where(number < after if descending else number > after)
        rows = connection.execute(
            page.order_by(order_by_number(descending)).limit(FILTER_PAGE_SIZE)
        ).all()
        yield rows
        if len(rows) < FILTER_PAGE_SIZE:
            return
        after = rows[-1][0]


def order_by_number(descending: bool) -> sa.ColumnElement[int]:
    return completions.c.number.desc() if descending else completions.c.number.asc()
