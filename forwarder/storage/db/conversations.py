"""Stored conversations and their items."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa

from forwarder.core.types import Json
from forwarder.storage.db import tombstones
from forwarder.storage.db.clock import NEW_LEASE, NOW
from forwarder.storage.db.compression import SpendCallback, count_written, pack_json, unpack_json
from forwarder.storage.db.tables import conversation_items as items
from forwarder.storage.db.tables import conversations

ROWS_PER_FETCH = 16
"""Rows with items that a server sends at once."""


class Conversation(NamedTuple):
    """A stored conversation."""

    id: str
    created: float
    metadata: Json


class ConversationItem(NamedTuple):
    """An item of a conversation; ``number`` is its place among all items of the store."""

    number: int
    id: str
    data: Json


def match_conversation(owner: str, name: str) -> sa.ColumnElement[bool]:
    return (conversations.c.owner == owner) & (conversations.c.id == name)


def match_items(owner: str, name: str) -> sa.ColumnElement[bool]:
    return (items.c.owner == owner) & (items.c.conversation == name)


def create(connection: sa.Connection, owner: str, talk: Conversation) -> None:
    """Store a conversation without items."""
    metadata = pack_json(talk.metadata)
    connection.execute(
        sa.insert(conversations).values(
            owner=owner,
            id=talk.id,
            created=talk.created,
            used=talk.created,
            size=len(metadata),
            metadata=metadata,
        )
    )


def find(connection: sa.Connection, owner: str, name: str) -> Conversation | None:
    """A conversation without its items."""
    columns = conversations.c.id, conversations.c.created, conversations.c.metadata
    row = connection.execute(sa.select(*columns).where(match_conversation(owner, name))).first()
    return Conversation(row[0], row[1], unpack_json(row[2])) if row else None


def set_metadata(
    connection: sa.Connection, owner: str, name: str, metadata: Json
) -> Conversation | None:
    """Give a conversation other metadata."""
    connection.execute(
        sa.update(conversations)
        .where(match_conversation(owner, name))
        .values(metadata=pack_json(metadata), used=time.time())
    )
    return find(connection, owner, name)


def remove(connection: sa.Connection, owner: str, name: str) -> bool:
    """Delete a conversation with its items."""
    return (
        connection.execute(sa.delete(conversations).where(match_conversation(owner, name))).rowcount
        > 0
    )


def acquire_lease(connection: sa.Connection, owner: str, name: str, holder: str) -> bool:
    """Hold a conversation for the time of a lease; False when there is none to hold.

    It is held by one at a time, unless that one's lease has run out.
    """
    free = conversations.c.lease.is_(None) | (conversations.c.lease < NOW)
    held = sa.update(conversations).where(match_conversation(owner, name), free)
    return connection.execute(held.values(holder=holder, lease=NEW_LEASE)).rowcount > 0


def renew_lease(connection: sa.Connection, owner: str, name: str, holder: str) -> None:
    """Hold a conversation for longer, if it is still held."""
    held = sa.update(conversations).where(
        match_conversation(owner, name), conversations.c.holder == holder
    )
    connection.execute(held.values(lease=NEW_LEASE))


def release_lease(connection: sa.Connection, owner: str, name: str, holder: str) -> None:
    """Hold a conversation no longer."""
    held = sa.update(conversations).where(
        match_conversation(owner, name), conversations.c.holder == holder
    )
    connection.execute(held.values(holder=None, lease=None))


def append_items(
    connection: sa.Connection, owner: str, name: str, given: Sequence[tuple[str, Json]]
) -> list[ConversationItem] | None:
    """Add items with their ids, but for those that are there; None without such a conversation."""
    there = read_items(connection, owner, name, [item_id for item_id, _ in given])
    known = {said.id for said in there}
    fresh = {item_id: item for item_id, item in given if item_id not in known}
    data = {item_id: pack_json(item) for item_id, item in fresh.items()}
    written = sum(map(len, data.values()))
    count_written(connection, written)
    size = conversations.c.size + written
    used = (
        sa.update(conversations)
        .where(match_conversation(owner, name))
        .values(used=time.time(), size=size)
    )
    if connection.execute(used).rowcount == 0:
        return None
    for item_id, piece in data.items():
        row = {"owner": owner, "conversation": name, "id": item_id, "data": piece}
        connection.execute(sa.insert(items).values(row))
    return read_items(connection, owner, name, [item_id for item_id, _ in given])


def read_items(
    connection: sa.Connection,
    owner: str,
    name: str,
    item_ids: Iterable[str] | None = None,
    max_number: int | None = None,
    spend: SpendCallback | None = None,
) -> list[ConversationItem]:
    """The items in their order: all, those with these ids, or those up to a number."""
    found = sa.select(items.c.number, items.c.id, items.c.data).where(match_items(owner, name))
    if item_ids is not None:
        found = found.where(items.c.id.in_(list(item_ids)))
    if max_number is not None:
        found = found.where(items.c.number <= max_number)
    found = found.order_by(items.c.number).execution_options(yield_per=ROWS_PER_FETCH)
    return [to_item(row, spend) for row in connection.execute(found)]


def find_items_by_id(
    connection: sa.Connection, owner: str, names: Iterable[str], spend: SpendCallback | None = None
) -> dict[str, Json]:
    """Items by their ids, whichever conversation they are in; of several the latest."""
    which = (items.c.owner == owner) & items.c.id.in_(list(names))
    found = sa.select(items.c.id, items.c.data).where(which).order_by(items.c.number)
    rows = connection.execute(found.execution_options(yield_per=ROWS_PER_FETCH))
    return {name: unpack_json(data, spend) for name, data in rows}


def to_item(row: Sequence[Any], spend: SpendCallback | None = None) -> ConversationItem:
    return ConversationItem(row[0], row[1], unpack_json(row[2], spend))


def read_last_number(connection: sa.Connection, owner: str, name: str) -> int:
    """The number of the last item; 0 without any."""
    return (
        connection.scalar(sa.select(sa.func.max(items.c.number)).where(match_items(owner, name)))
        or 0
    )


def remove_item(connection: sa.Connection, owner: str, name: str, item_id: str) -> bool:
    """Delete an item."""
    deleted = sa.delete(items).where(match_items(owner, name), items.c.id == item_id)
    number = connection.scalar(deleted.returning(items.c.number))
    if number is not None:
        tombstones.add_tombstone(connection, owner, name, item_id, number)
    return number is not None


def find_item_position(
    connection: sa.Connection, owner: str, name: str, item_id: str
) -> int | None:
    """Where an item is in its conversation, or was; ``None`` when there is no telling."""
    which = sa.select(items.c.number).where(match_items(owner, name), items.c.id == item_id)
    number = connection.scalar(which)
    return tombstones.find_position(connection, owner, name, item_id) if number is None else number


def list_items(
    connection: sa.Connection,
    owner: str,
    name: str,
    after: int | None,
    limit: int,
    descending: bool,
    spend: SpendCallback | None = None,
) -> list[ConversationItem]:
    """Up to ``limit`` items behind a place, in their order or the other way round."""
    number = items.c.number
    found = sa.select(number, items.c.id, items.c.data).where(match_items(owner, name))
    if after is not None:
        found = found.where(number < after if descending else number > after)
    rows = found.order_by(number.desc() if descending else number).limit(limit)
    rows = rows.execution_options(yield_per=ROWS_PER_FETCH)
    return [to_item(row, spend) for row in connection.execute(rows)]
