"""Owners of stored things: the keys that they are derived with, and how things change owners."""

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
    items,
    owner_keys,
    responses,
    tombstones,
)

RESPONSE_TABLES = (responses, events, items)
CONVERSATION_TABLES = (conversations, conversation_items, tombstones)

FIND_ANY_ROW = Statement(
    "SELECT 1 WHERE EXISTS (SELECT 1 FROM responses WHERE owner = :owner) "
    "OR EXISTS (SELECT 1 FROM conversations WHERE owner = :owner) "
    "OR EXISTS (SELECT 1 FROM completions WHERE owner = :owner)"
)


def list_keys(connection: sa.Connection) -> list[tuple[str, str]]:
    """The owner keys as (name, sealed), the oldest first."""
    found = sa.select(owner_keys.c.name, owner_keys.c.sealed)
    rows = connection.execute(found.order_by(owner_keys.c.created, owner_keys.c.name))
    return [(name, sealed) for name, sealed in rows]


def add_key(connection: sa.Connection, sealed: str) -> None:
    """Store an owner key."""
    row = {"name": generate_id("ok"), "created": time.time(), "sealed": sealed}
    connection.execute(sa.insert(owner_keys).values(row))


def replace_key(connection: sa.Connection, name: str, sealed: str) -> None:
    """Store the same owner key under another seal."""
    connection.execute(sa.update(owner_keys).where(owner_keys.c.name == name).values(sealed=sealed))


def has_rows(connection: sa.Connection, owner: str) -> bool:
    """Does an owner have responses, conversations or completions?"""
    return bool(FIND_ANY_ROW.fetch_rows(connection, {"owner": owner}))


def list_owners(connection: sa.Connection) -> set[str]:
    """Everybody who has any."""
    tables = responses, conversations, completions
    return {
        owner
        for table in tables
        for owner in connection.scalars(sa.select(table.c.owner).distinct())
    }


def has_running_turn(connection: sa.Connection, owner: str) -> bool:
    """Does a turn go on in any of an owner's conversations?"""
    held = conversations.c.lease.is_not(None) & (conversations.c.lease >= NOW)
    found = sa.select(conversations.c.id).where(conversations.c.owner == owner, held)
    return connection.execute(found.limit(1)).first() is not None


def move_owner(connection: sa.Connection, before: str, now: str) -> bool:
    """Give everything that one owner has to another; False when conversations had to stay.

    They stay while a turn goes on in one of them: it would not find it any more.  Of two things
    with the same id, that of ``now`` stays.  Remembered reasoning is not moved.
    """
    take_transaction_lock(connection, now)
    must_stay = has_running_turn(connection, before)
    for group in (RESPONSE_TABLES, (completions,), () if must_stay else CONVERSATION_TABLES):
        for table in group:
            if table not in (events, conversation_items):  # which go with what they belong to
                other = table.alias()
                there = sa.select(other.c.id).where(other.c.owner == now)
                twice = sa.delete(table).where(table.c.owner == before, table.c.id.in_(there))
                connection.execute(twice)
        updates = [sa.update(t).where(t.c.owner == before).values(owner=now) for t in group]
        if updates and connection.dialect.name == "sqlite":
            connection.exec_driver_sql("PRAGMA defer_foreign_keys = ON")  # until the commit
            for update in updates:
                connection.execute(update)
        elif updates:  # PostgreSQL checks foreign keys at the end of a statement
            first, *others = updates
            connection.execute(first.add_cte(*(update.cte() for update in others)))
    return not must_stay


def take_transaction_lock(connection: sa.Connection, name: str) -> None:
    """Let no other transaction have the lock of this name; SQLite has one writer anyway."""
    if connection.dialect.name != "sqlite":
        connection.execute(
            sa.select(sa.func.pg_advisory_xact_lock(sa.func.hashtextextended(name, 0)))
        )
