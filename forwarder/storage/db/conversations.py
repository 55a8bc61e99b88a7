"""Rows of stored conversations and their items."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa

from forwarder.core.errors import ConversationLocked
from forwarder.core.ids import generate_id
from forwarder.core.types import Json
from forwarder.storage.db import tombstones
from forwarder.storage.db.clock import NEW_LEASE, NOW
from forwarder.storage.db.compression import SpendCallback, count_written, pack_json, unpack_json
from forwarder.storage.db.tables import conversation_items as items
from forwarder.storage.db.tables import conversations

ROWS_PER_FETCH = 16
"""Item rows that a database server sends at once."""


class Conversation(NamedTuple):
    """A stored conversation."""

    id: str
    created: float
    metadata: Json


class ConversationItem(NamedTuple):
    """An item of a conversation; ``number`` is its position among all items in the database."""

    number: int
    id: str
    data: Json


class ConversationLease(NamedTuple):
    """The lease with which one turn, the ``holder``, locks a conversation."""

    owner: str
    conversation: str
    holder: str


def match_conversation(owner: str, conversation_id: str) -> sa.ColumnElement[bool]:
    return (conversations.c.owner == owner) & (conversations.c.id == conversation_id)


def match_items(owner: str, conversation_id: str) -> sa.ColumnElement[bool]:
    return (items.c.owner == owner) & (items.c.conversation == conversation_id)


def create(connection: sa.Connection, owner: str, conversation: Conversation) -> None:
    """Store an empty conversation."""
    metadata = pack_json(conversation.metadata)
    connection.execute(
        sa.insert(conversations).values(
            owner=owner,
            id=conversation.id,
            created=conversation.created,
            used=conversation.created,
            size=len(metadata),
            metadata=metadata,
        )
    )


def find(connection: sa.Connection, owner: str, conversation_id: str) -> Conversation | None:
    """Return a conversation without its items."""
    columns = conversations.c.id, conversations.c.created, conversations.c.metadata
    row = connection.execute(
        sa.select(*columns).where(match_conversation(owner, conversation_id))
    ).first()
    return Conversation(row[0], row[1], unpack_json(row[2])) if row else None


def set_metadata(
    connection: sa.Connection, owner: str, conversation_id: str, metadata: Json
) -> Conversation | None:
    """Replace the metadata of a conversation. Returns None if it does not exist."""
    connection.execute(
        sa.update(conversations)
        .where(match_conversation(owner, conversation_id))
        .values(metadata=pack_json(metadata), used=time.time())
    )
    return find(connection, owner, conversation_id)


def remove(connection: sa.Connection, owner: str, conversation_id: str) -> bool:
    """Delete a conversation and its items. Returns whether it existed."""
    return (
        connection.execute(
            sa.delete(conversations).where(match_conversation(owner, conversation_id))
        ).rowcount
        > 0
    )


def acquire_lease(connection: sa.Connection, owner: str, conversation_id: str, holder: str) -> bool:
    """Lock a conversation for `LEASE_SECONDS`.

    False if it does not exist, or if another holder's lease is still valid.
    """
    free = conversations.c.lease.is_(None) | (conversations.c.lease < NOW)
    update = sa.update(conversations).where(match_conversation(owner, conversation_id), free)
    return connection.execute(update.values(holder=holder, lease=NEW_LEASE)).rowcount > 0


def make_lease(owner: str, conversation_id: str) -> ConversationLease:
    """Return the lease of a new turn, which is not acquired yet."""
    return ConversationLease(owner, conversation_id, generate_id("turn"))


def acquire_lock(connection: sa.Connection, lease: ConversationLease) -> None:
    """Acquire a lease if its conversation exists.

    Raises ConversationLocked if another holder's lease is still valid.
    """
    if acquire_lease(connection, *lease):
        return
    if find(connection, lease.owner, lease.conversation) is not None:
        raise ConversationLocked


def renew_lease(connection: sa.Connection, owner: str, conversation_id: str, holder: str) -> None:
    """Extend the lease if ``holder`` still has it."""
    update = sa.update(conversations).where(
        match_conversation(owner, conversation_id), conversations.c.holder == holder
    )
    connection.execute(update.values(lease=NEW_LEASE))


def release_lease(connection: sa.Connection, owner: str, conversation_id: str, holder: str) -> None:
    """Release the lease if ``holder`` still has it."""
    update = sa.update(conversations).where(
        match_conversation(owner, conversation_id), conversations.c.holder == holder
    )
    connection.execute(update.values(holder=None, lease=None))


def append_items(
    connection: sa.Connection, owner: str, conversation_id: str, pairs: Sequence[tuple[str, Json]]
) -> list[ConversationItem] | None:
    """Append (id, item) pairs whose ids are not in the conversation yet.

    Returns the rows of all given ids, or None if the conversation does not exist.
    """
    existing = read_items(connection, owner, conversation_id, [item_id for item_id, _ in pairs])
    known = {row.id for row in existing}
    new_items = {item_id: item for item_id, item in pairs if item_id not in known}
    data = {item_id: pack_json(item) for item_id, item in new_items.items()}
    written = sum(map(len, data.values()))
    count_written(connection, written)
    size = conversations.c.size + written
    used = (
        sa.update(conversations)
        .where(match_conversation(owner, conversation_id))
        .values(used=time.time(), size=size)
    )
    if connection.execute(used).rowcount == 0:
        return None
    for item_id, packed in data.items():
        row = {"owner": owner, "conversation": conversation_id, "id": item_id, "data": packed}
        connection.execute(sa.insert(items).values(row))
    return read_items(connection, owner, conversation_id, [item_id for item_id, _ in pairs])


def read_items(
    connection: sa.Connection,
    owner: str,
    conversation_id: str,
    item_ids: Iterable[str] | None = None,
    max_number: int | None = None,
    spend: SpendCallback | None = None,
) -> list[ConversationItem]:
    """Return items in order: all, those with ``item_ids``, or those up to ``max_number``."""
    query = sa.select(items.c.number, items.c.id, items.c.data).where(
        match_items(owner, conversation_id)
    )
    if item_ids is not None:
        query = query.where(items.c.id.in_(list(item_ids)))
    if max_number is not None:
        query = query.where(items.c.number <= max_number)
    query = query.order_by(items.c.number).execution_options(yield_per=ROWS_PER_FETCH)
    return [to_item(row, spend) for row in connection.execute(query)]


def find_items_by_id(
    connection: sa.Connection, owner: str, names: Iterable[str], spend: SpendCallback | None = None
) -> dict[str, Json]:
    """Return items by id, from any conversation of the owner. The latest item of an id wins."""
    condition = (items.c.owner == owner) & items.c.id.in_(list(names))
    query = sa.select(items.c.id, items.c.data).where(condition).order_by(items.c.number)
    rows = connection.execute(query.execution_options(yield_per=ROWS_PER_FETCH))
    return {name: unpack_json(data, spend) for name, data in rows}


def to_item(row: Sequence[Any], spend: SpendCallback | None = None) -> ConversationItem:
    return ConversationItem(row[0], row[1], unpack_json(row[2], spend))


def read_last_number(connection: sa.Connection, owner: str, conversation_id: str) -> int:
    """Return the number of the last item; 0 if there are no items."""
    return (
        connection.scalar(
            sa.select(sa.func.max(items.c.number)).where(match_items(owner, conversation_id))
        )
        or 0
    )


def remove_item(connection: sa.Connection, owner: str, conversation_id: str, item_id: str) -> bool:
    """Delete an item. Returns whether it existed."""
    deleted = sa.delete(items).where(match_items(owner, conversation_id), items.c.id == item_id)
    number = connection.scalar(deleted.returning(items.c.number))
    if number is not None:
        tombstones.add_tombstone(connection, owner, conversation_id, item_id, number)
    return number is not None


def find_item_position(
    connection: sa.Connection, owner: str, conversation_id: str, item_id: str
) -> int | None:
    """Return the position of an existing or recently deleted item; otherwise ``None``."""
    query = sa.select(items.c.number).where(
        match_items(owner, conversation_id), items.c.id == item_id
    )
    number = connection.scalar(query)
    return (
        tombstones.find_position(connection, owner, conversation_id, item_id)
        if number is None
        else number
    )


def list_items(
    connection: sa.Connection,
    owner: str,
    conversation_id: str,
    after: int | None,
    limit: int,
    descending: bool,
    spend: SpendCallback | None = None,
) -> list[ConversationItem]:
    """Return up to ``limit`` items after a position, in order or reversed."""
    number = items.c.number
    query = sa.select(number, items.c.id, items.c.data).where(match_items(owner, conversation_id))
    if after is not None:
        query = query.where(number < after if descending else number > after)
    rows = query.order_by(number.desc() if descending else number).limit(limit)
    rows = rows.execution_options(yield_per=ROWS_PER_FETCH)
    return [to_item(row, spend) for row in connection.execute(rows)]
