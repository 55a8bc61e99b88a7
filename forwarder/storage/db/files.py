"""Rows of stored files and their contents."""

from __future__ import annotations

from typing import NamedTuple

import sqlalchemy as sa

from forwarder.storage.db import tombstones
from forwarder.storage.db.clock import NOW
from forwarder.storage.db.compression import count_written
from forwarder.storage.db.keyset_pages import NumberedPage, fetch_page
from forwarder.storage.db.owners import take_transaction_lock
from forwarder.storage.db.tables import file_parts as parts
from forwarder.storage.db.tables import files, vector_store_files, vector_stores

TOMBSTONE_LIST = "files"
"""The list name of deleted files in the tombstones."""

UPLOAD_SECONDS = 3600.0
"""Seconds until an upload that has not finished is deleted."""

MAX_EXPIRED_ROWS = 200
"""Rows deleted per transaction."""


class StoredFile(NamedTuple):
    """A stored file without its content. ``size`` is in bytes, times are Unix seconds."""

    id: str
    created: float
    size: int
    filename: str
    purpose: str
    expires: float | None


COLUMNS = [files.c[name] for name in StoredFile._fields]


def match_file(owner: str, file_id: str) -> sa.ColumnElement[bool]:
    return (files.c.owner == owner) & (files.c.id == file_id)


def match_available(owner: str) -> sa.ColumnElement[bool]:
    is_valid = files.c.expires.is_(None) | (files.c.expires > NOW)
    return (files.c.owner == owner) & files.c.complete & is_valid


def reserve(connection: sa.Connection, owner: str, file: StoredFile, max_bytes: int) -> bool:
    """Add a file without its content. False if the owner would have more than ``max_bytes``."""
    take_transaction_lock(connection, owner)
    if measure_owner(connection, owner) + file.size > max_bytes:
        return False
    row = {**file._asdict(), "owner": owner, "used": file.created, "complete": False}
    connection.execute(sa.insert(files).values(row))
    return True


def measure_owner(connection: sa.Connection, owner: str) -> int:
    """Return the bytes of an owner's files and vector stores."""
    sums = [
        sa.select(sa.func.coalesce(sa.func.sum(table.c.size), 0)).where(table.c.owner == owner)
        for table in (files, vector_stores)
    ]
    return sum(int(connection.scalar(total) or 0) for total in sums)


def add_part(connection: sa.Connection, owner: str, file_id: str, number: int, data: bytes) -> None:
    """Store a part of a file's content."""
    count_written(connection, len(data))
    row = {"owner": owner, "file": file_id, "number": number, "data": data}
    connection.execute(sa.insert(parts).values(row))


def mark_complete(connection: sa.Connection, owner: str, file_id: str) -> bool:
    """Make a file visible. False if it was deleted meanwhile."""
    update = sa.update(files).where(match_file(owner, file_id)).values(complete=True)
    return connection.execute(update).rowcount > 0


def find(connection: sa.Connection, owner: str, file_id: str) -> StoredFile | None:
    """Return a file that is complete and has not expired."""
    query = sa.select(*COLUMNS).where(match_available(owner), files.c.id == file_id)
    row = connection.execute(query).first()
    return StoredFile(*row) if row else None


def find_existing(connection: sa.Connection, owner: str, names: list[str]) -> set[str]:
    """Return the ids of those files that are complete and have not expired."""
    query = sa.select(files.c.id).where(match_available(owner), files.c.id.in_(names))
    return set(connection.scalars(query))


def read_part(connection: sa.Connection, owner: str, file_id: str, number: int) -> bytes | None:
    """Return a part of a file's content; None after the last one."""
    query = sa.select(parts.c.data).where(
        parts.c.owner == owner, parts.c.file == file_id, parts.c.number == number
    )
    data = connection.scalar(query)
    return None if data is None else bytes(data)


def mark_used(connection: sa.Connection, owner: str, file_id: str) -> None:
    """Update the last use of a file, which protects it from pruning."""
    connection.execute(sa.update(files).where(match_file(owner, file_id)).values(used=NOW))


def list_page(
    connection: sa.Connection, owner: str, page: NumberedPage, purpose: str | None
) -> tuple[list[StoredFile], bool]:
    """Return a page of the files in order of creation, and whether there are more."""
    query = sa.select(*COLUMNS).where(match_available(owner))
    if purpose is not None:
        query = query.where(files.c.purpose == purpose)
    rows, has_more = fetch_page(connection, query, files.c.number, page)
    return [StoredFile(*row) for row in rows], has_more


def find_position(connection: sa.Connection, owner: str, file_id: str) -> int | None:
    """Return the list position of a file, existing or recently deleted, or None."""
    number = connection.scalar(sa.select(files.c.number).where(match_file(owner, file_id)))
    if number is None:
        return tombstones.find_position(connection, owner, TOMBSTONE_LIST, file_id)
    return int(number)


def remove(connection: sa.Connection, owner: str, file_id: str) -> bool:
    """Delete a file, also from vector stores. Returns whether it existed."""
    in_stores = (vector_store_files.c.owner == owner) & (vector_store_files.c.file == file_id)
    for store, size in connection.execute(
        sa.select(vector_store_files.c.store, vector_store_files.c.size).where(in_stores)
    ).all():
        connection.execute(
            sa.update(vector_stores)
            .where(vector_stores.c.owner == owner, vector_stores.c.id == store)
            .values(size=vector_stores.c.size - size)
        )
    number = connection.scalar(
        sa.delete(files).where(match_file(owner, file_id)).returning(files.c.number)
    )
    if number is not None:
        tombstones.add_tombstone(connection, owner, TOMBSTONE_LIST, file_id, number)
    return number is not None


def remove_expired(connection: sa.Connection) -> int:
    """Delete up to `MAX_EXPIRED_ROWS` expired files and unfinished uploads; return their number."""
    is_expired = files.c.expires.is_not(None) & (files.c.expires <= NOW)
    is_abandoned = ~files.c.complete & (files.c.created < NOW - UPLOAD_SECONDS)
    query = sa.select(files.c.owner, files.c.id).where(is_expired | is_abandoned)
    rows = connection.execute(query.limit(MAX_EXPIRED_ROWS)).all()
    for owner, name in rows:
        remove(connection, owner, name)
    return len(rows)
