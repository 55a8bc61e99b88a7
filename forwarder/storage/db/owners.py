"""Rows of owner keys, and the transfer of data between owners."""

from __future__ import annotations

import time

import sqlalchemy as sa

from forwarder.core.ids import generate_id
from forwarder.storage.db.clock import NOW
from forwarder.storage.db.statements import Statement
from forwarder.storage.db.tables import (
    completions,
    conversation_items,
    conversations,
    events,
    file_parts,
    files,
    items,
    owner_keys,
    responses,
    tombstones,
    vector_store_batches,
    vector_store_chunks,
    vector_store_files,
    vector_stores,
)

RESPONSE_TABLES = (responses, events, items)
CONVERSATION_TABLES = (conversations, conversation_items, tombstones)
FILE_TABLES = (
    files,
    file_parts,
    vector_stores,
    vector_store_batches,
    vector_store_files,
    vector_store_chunks,
)
CHILD_TABLES = frozenset({events, conversation_items, *FILE_TABLES} - {files, vector_stores})
"""Tables with rows that are moved together with their parent rows."""

FIND_ANY_ROW = Statement(
    "SELECT 1 WHERE EXISTS (SELECT 1 FROM responses WHERE owner = :owner) "
    "OR EXISTS (SELECT 1 FROM conversations WHERE owner = :owner) "
    "OR EXISTS (SELECT 1 FROM completions WHERE owner = :owner) "
    "OR EXISTS (SELECT 1 FROM files WHERE owner = :owner) "
    "OR EXISTS (SELECT 1 FROM vector_stores WHERE owner = :owner)"
)


def list_keys(connection: sa.Connection) -> list[tuple[str, str]]:
    """Return the owner keys as (name, encrypted key), oldest first."""
    query = sa.select(owner_keys.c.name, owner_keys.c.sealed)
    rows = connection.execute(query.order_by(owner_keys.c.created, owner_keys.c.name))
    return [(name, sealed) for name, sealed in rows]


def add_key(connection: sa.Connection, sealed: str) -> None:
    """Store an owner key."""
    row = {"name": generate_id("ok"), "created": time.time(), "sealed": sealed}
    connection.execute(sa.insert(owner_keys).values(row))


def replace_key(connection: sa.Connection, name: str, sealed: str) -> None:
    """Replace the encrypted form of an owner key."""
    connection.execute(sa.update(owner_keys).where(owner_keys.c.name == name).values(sealed=sealed))


def has_rows(connection: sa.Connection, owner: str) -> bool:
    """Whether an owner has any stored data."""
    return bool(FIND_ANY_ROW.fetch_rows(connection, {"owner": owner}))


def list_owners(connection: sa.Connection) -> set[str]:
    """Return all owners with stored data."""
    tables = responses, conversations, completions, files, vector_stores
    return {
        owner
        for table in tables
        for owner in connection.scalars(sa.select(table.c.owner).distinct())
    }


def has_running_turn(connection: sa.Connection, owner: str) -> bool:
    """Whether a turn is running in one of the owner's conversations."""
    is_locked = conversations.c.lease.is_not(None) & (conversations.c.lease >= NOW)
    query = sa.select(conversations.c.id).where(conversations.c.owner == owner, is_locked)
    return connection.execute(query.limit(1)).first() is not None


def move_owner(connection: sa.Connection, old_owner: str, new_owner: str) -> bool:
    """Move all data of ``old_owner`` to ``new_owner``. False if conversations had to stay.

    Conversations stay while a turn is running in one of them, because the turn could not find
    its conversation after the move. If both owners have a row with the same id, the row of
    ``new_owner`` is kept. Cached reasoning is not moved.
    """
    take_transaction_lock(connection, new_owner)
    must_stay = has_running_turn(connection, old_owner)
    conversation_tables = () if must_stay else CONVERSATION_TABLES
    for group in (RESPONSE_TABLES, (completions,), FILE_TABLES, conversation_tables):
        for table in group:
            if table not in CHILD_TABLES:
                other = table.alias()
                existing_ids = sa.select(other.c.id).where(other.c.owner == new_owner)
                delete_duplicates = sa.delete(table).where(
                    table.c.owner == old_owner, table.c.id.in_(existing_ids)
                )
                connection.execute(delete_duplicates)
        updates = [
            sa.update(t).where(t.c.owner == old_owner).values(owner=new_owner) for t in group
        ]
        if updates and connection.dialect.name == "sqlite":
            connection.exec_driver_sql("PRAGMA defer_foreign_keys = ON")  # until the commit
            for update in updates:
                connection.execute(update)
        elif updates:  # PostgreSQL checks foreign keys at the end of a statement
            first, *others = updates
            connection.execute(first.add_cte(*(update.cte() for update in others)))
    return not must_stay


def take_transaction_lock(connection: sa.Connection, name: str) -> None:
    """Take the named lock until the transaction ends. SQLite has a single writer and needs none."""
    if connection.dialect.name != "sqlite":
        connection.execute(
            sa.select(sa.func.pg_advisory_xact_lock(sa.func.hashtextextended(name, 0)))
        )
