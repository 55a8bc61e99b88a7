"""Rows of vector stores, their files and their batches of files."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa

from forwarder.core.types import Json
from forwarder.storage.db import tombstones
from forwarder.storage.db.clock import NEW_LEASE, NOW
from forwarder.storage.db.compression import pack_json, unpack_json
from forwarder.storage.db.files import match_available
from forwarder.storage.db.keyset_pages import NumberedPage, fetch_page
from forwarder.storage.db.tables import files as uploads
from forwarder.storage.db.tables import vector_store_batches as batches
from forwarder.storage.db.tables import vector_store_chunks as chunks
from forwarder.storage.db.tables import vector_store_files as files
from forwarder.storage.db.tables import vector_stores as stores

TOMBSTONE_LIST = "vector_stores"
"""The list name of deleted vector stores in the tombstones."""

DAY_SECONDS = 86400.0
MARK_USED_SECONDS = 60.0
"""Seconds after which a search marks a store and its files as used again."""

MAX_EXPIRED_FILES = 200
"""Files that are removed from expired stores per transaction."""

IN_PROGRESS, COMPLETED, FAILED, CANCELLED = "in_progress", "completed", "failed", "cancelled"
STATUSES = (IN_PROGRESS, COMPLETED, FAILED, CANCELLED)


class VectorStore(NamedTuple):
    """A vector store. ``used`` is the time of its last use; ``size`` is in bytes."""

    id: str
    created: float
    used: float
    size: int
    name: str
    description: str | None
    metadata: Json
    expires_days: int | None
    embedding_model: str | None

    @property
    def expires(self) -> float | None:
        """The time after which the store cannot be searched, in Unix seconds."""
        return None if self.expires_days is None else self.used + self.expires_days * DAY_SECONDS


class NewStoreFile(NamedTuple):
    """A stored file that is added to a vector store; ``payer`` pays for its embedding."""

    file: str
    attributes: Json
    chunk_tokens: int
    overlap_tokens: int
    payer: str | None = None


class StoreFile(NamedTuple):
    """A file in a vector store. ``size`` is in bytes of text and vectors."""

    store: str
    file: str
    created: float
    status: str
    error_code: str | None
    error_message: str | None
    size: int
    attributes: Json
    chunk_tokens: int
    overlap_tokens: int


class FileBatch(NamedTuple):
    """Files that were added to a vector store together."""

    id: str
    store: str
    created: float
    cancelled: bool


class PendingFile(NamedTuple):
    """A file that a worker has claimed, with the data for processing it."""

    number: int
    owner: str
    store: str
    file: str
    filename: str
    chunk_tokens: int
    overlap_tokens: int
    embedding_model: str | None
    attempt: int
    payer: str | None


STORE_COLUMNS = [stores.c[name] for name in VectorStore._fields]
FILE_COLUMNS = [files.c[name] for name in StoreFile._fields]
BATCH_COLUMNS = [batches.c[name] for name in FileBatch._fields]


def match_store(owner: str, store_id: str) -> sa.ColumnElement[bool]:
    return (stores.c.owner == owner) & (stores.c.id == store_id)


def match_files(owner: str, store: str) -> sa.ColumnElement[bool]:
    return (files.c.owner == owner) & (files.c.store == store)


def to_store(row: Sequence[Any]) -> VectorStore:
    store = VectorStore(*row)
    return store._replace(metadata=unpack_json(row[6]))


def to_file(row: Sequence[Any]) -> StoreFile:
    file = StoreFile(*row)
    return file._replace(attributes=unpack_json(row[7]))


# -- stores ---------------------------------------------------------------------------------------


def create(connection: sa.Connection, owner: str, store: VectorStore) -> None:
    """Add an empty vector store."""
    row = {**store._asdict(), "owner": owner, "metadata": pack_json(store.metadata)}
    connection.execute(sa.insert(stores).values(row))


def find(connection: sa.Connection, owner: str, store_id: str) -> VectorStore | None:
    """Return a vector store."""
    row = connection.execute(sa.select(*STORE_COLUMNS).where(match_store(owner, store_id))).first()
    return to_store(row) if row else None


def list_page(
    connection: sa.Connection, owner: str, page: NumberedPage
) -> tuple[list[VectorStore], bool]:
    """Return a page of the stores in order of creation, and whether there are more."""
    query = sa.select(*STORE_COLUMNS).where(stores.c.owner == owner)
    rows, has_more = fetch_page(connection, query, stores.c.number, page)
    return list(map(to_store, rows)), has_more


def find_position(connection: sa.Connection, owner: str, store_id: str) -> int | None:
    """Return the list position of a store, existing or recently deleted, or None."""
    number = connection.scalar(sa.select(stores.c.number).where(match_store(owner, store_id)))
    if number is None:
        return tombstones.find_position(connection, owner, TOMBSTONE_LIST, store_id)
    return int(number)


def update(
    connection: sa.Connection, owner: str, store_id: str, changes: dict[str, Any]
) -> VectorStore | None:
    """Change columns of a store and mark it as used. Returns None if it does not exist."""
    values = {**changes, "used": NOW}
    if "metadata" in values:
        values["metadata"] = pack_json(values["metadata"])
    connection.execute(sa.update(stores).where(match_store(owner, store_id)).values(values))
    return find(connection, owner, store_id)


def remove(connection: sa.Connection, owner: str, store_id: str) -> bool:
    """Delete a store with its chunks; the files stay. Returns whether it existed."""
    number = connection.scalar(
        sa.delete(stores).where(match_store(owner, store_id)).returning(stores.c.number)
    )
    if number is not None:
        tombstones.add_tombstone(connection, owner, TOMBSTONE_LIST, store_id, number)
    return number is not None


def mark_used(connection: sa.Connection, owner: str, store_ids: list[str]) -> None:
    """Mark stores and their files as used, so that they do not expire.

    Does nothing for stores that were used within `MARK_USED_SECONDS`.
    """
    old = (stores.c.owner == owner) & stores.c.id.in_(store_ids)
    old &= stores.c.used < NOW - MARK_USED_SECONDS
    query = sa.update(stores).where(old).values(used=NOW).returning(stores.c.id)
    renewed = list(connection.scalars(query))
    if renewed:
        inside = sa.select(files.c.file).where(files.c.owner == owner, files.c.store.in_(renewed))
        in_stores = (uploads.c.owner == owner) & uploads.c.id.in_(inside)
        connection.execute(sa.update(uploads).where(in_stores).values(used=NOW))


def needs_mark_used(connection: sa.Connection, owner: str, store_ids: list[str]) -> bool:
    """Whether one of the stores was not used within `MARK_USED_SECONDS`."""
    old = (stores.c.owner == owner) & stores.c.id.in_(store_ids)
    old &= stores.c.used < NOW - MARK_USED_SECONDS
    return connection.execute(sa.select(stores.c.id).where(old).limit(1)).first() is not None


def refresh_size(connection: sa.Connection, owner: str, store_id: str) -> None:
    """Set the size of a store to the sum of its files."""
    # PostgreSQL would sum the files as they were before it waited for the row of the store. With
    # ``key_share`` it does not wait for transactions that have added a file to the store.
    locked = sa.select(stores.c.id).where(match_store(owner, store_id))
    locked = locked.with_for_update(key_share=True)
    connection.execute(locked)
    total = sa.select(sa.func.coalesce(sa.func.sum(files.c.size), 0)).where(
        match_files(owner, store_id)
    )
    connection.execute(
        sa.update(stores).where(match_store(owner, store_id)).values(size=total.scalar_subquery())
    )


def refresh_all_sizes(connection: sa.Connection) -> None:
    """Update the sizes of all stores after files were deleted by age or size."""
    total = sa.select(sa.func.coalesce(sa.func.sum(files.c.size), 0)).where(
        files.c.owner == stores.c.owner, files.c.store == stores.c.id
    )
    size = total.scalar_subquery()
    connection.execute(sa.update(stores).where(stores.c.size != size).values(size=size))


def remove_expired(connection: sa.Connection) -> int:
    """Remove up to `MAX_EXPIRED_FILES` files from expired stores; return their number."""
    deadline = stores.c.used + stores.c.expires_days * DAY_SECONDS
    is_expired = stores.c.expires_days.is_not(None) & (deadline <= NOW)
    pairs = sa.join(
        files, stores, (files.c.owner == stores.c.owner) & (files.c.store == stores.c.id)
    )
    query = sa.select(files.c.number, files.c.owner, files.c.store).select_from(pairs)
    rows = connection.execute(query.where(is_expired).limit(MAX_EXPIRED_FILES)).all()
    if rows:
        numbers = [row.number for row in rows]
        connection.execute(sa.delete(files).where(files.c.number.in_(numbers)))
    for owner, store in {(row.owner, row.store) for row in rows}:
        refresh_size(connection, owner, store)
    return len(rows)


# -- files ----------------------------------------------------------------------------------------


def add_files(
    connection: sa.Connection,
    owner: str,
    store: str,
    new_files: Iterable[NewStoreFile],
    created: float,
    batch: str | None = None,
) -> None:
    """Add files to a store, to be processed. A file that the store has already is replaced."""
    for new_file in new_files:
        connection.execute(
            sa.delete(files).where(match_files(owner, store), files.c.file == new_file.file)
        )
        row = {
            **new_file._asdict(),
            "attributes": pack_json(new_file.attributes),
            "owner": owner,
            "store": store,
            "created": created,
            "status": IN_PROGRESS,
            "size": 0,
            "batch": batch,
            "attempt": 0,
        }
        connection.execute(sa.insert(files).values(row))
    refresh_size(connection, owner, store)


def find_file(connection: sa.Connection, owner: str, store: str, file_id: str) -> StoreFile | None:
    """Return a file of a store."""
    query = sa.select(*FILE_COLUMNS).where(match_files(owner, store), files.c.file == file_id)
    row = connection.execute(query).first()
    return to_file(row) if row else None


def list_files(
    connection: sa.Connection,
    owner: str,
    store: str,
    page: NumberedPage,
    status: str | None = None,
    batch: str | None = None,
) -> tuple[list[StoreFile], bool]:
    """Return a page of a store's files, optionally of one status or of one batch."""
    query = sa.select(*FILE_COLUMNS).where(match_files(owner, store))
    if status is not None:
        query = query.where(files.c.status == status)
    if batch is not None:
        query = query.where(files.c.batch == batch)
    rows, has_more = fetch_page(connection, query, files.c.number, page)
    return list(map(to_file, rows)), has_more


def find_file_position(
    connection: sa.Connection, owner: str, store: str, file_id: str
) -> int | None:
    """Return the list position of a store's file, existing or recently removed, or None."""
    query = sa.select(files.c.number).where(match_files(owner, store), files.c.file == file_id)
    number = connection.scalar(query)
    return tombstones.find_position(connection, owner, store, file_id) if number is None else number


def set_attributes(
    connection: sa.Connection, owner: str, store: str, file_id: str, attributes: Json
) -> StoreFile | None:
    """Replace the attributes of a store's file. Returns None if it does not exist."""
    connection.execute(
        sa.update(files)
        .where(match_files(owner, store), files.c.file == file_id)
        .values(attributes=pack_json(attributes))
    )
    return find_file(connection, owner, store, file_id)


def remove_file(connection: sa.Connection, owner: str, store: str, file_id: str) -> bool:
    """Remove a file from a store. Returns whether it was in the store."""
    removed = sa.delete(files).where(match_files(owner, store), files.c.file == file_id)
    number = connection.scalar(removed.returning(files.c.number))
    if number is not None:
        tombstones.add_tombstone(connection, owner, store, file_id, number)
        refresh_size(connection, owner, store)
    return number is not None


def count_files(
    connection: sa.Connection, owner: str, store_ids: list[str]
) -> dict[str, dict[str, int]]:
    """Return store id -> status -> number of files."""
    query = (
        sa.select(files.c.store, files.c.status, sa.func.count())
        .where(files.c.owner == owner, files.c.store.in_(store_ids))
        .group_by(files.c.store, files.c.status)
    )
    counts: dict[str, dict[str, int]] = {name: {} for name in store_ids}
    for store, status, count in connection.execute(query):
        counts[store][status] = int(count)
    return counts


def list_attributes(
    connection: sa.Connection, owner: str, store_ids: list[str]
) -> list[tuple[str, str, str, Json]]:
    """Return (store, file, filename, attributes) of all processed files of these stores."""
    pairs = sa.join(
        files, uploads, (files.c.owner == uploads.c.owner) & (files.c.file == uploads.c.id)
    )
    query = (
        sa.select(files.c.store, files.c.file, uploads.c.filename, files.c.attributes)
        .select_from(pairs)
        .where(match_available(owner), files.c.store.in_(store_ids), files.c.status == COMPLETED)
    )
    return [
        (store, file, filename, unpack_json(attributes))
        for store, file, filename, attributes in connection.execute(query)
    ]


# -- batches --------------------------------------------------------------------------------------


def create_batch(connection: sa.Connection, owner: str, batch: FileBatch) -> None:
    """Add a batch; its files are added by `add_files`."""
    connection.execute(sa.insert(batches).values({**batch._asdict(), "owner": owner}))


def find_batch(
    connection: sa.Connection, owner: str, store: str, batch_id: str
) -> FileBatch | None:
    """Return a batch of a store."""
    query = sa.select(*BATCH_COLUMNS).where(
        batches.c.owner == owner, batches.c.store == store, batches.c.id == batch_id
    )
    row = connection.execute(query).first()
    return FileBatch(*row) if row else None


def count_batch_files(
    connection: sa.Connection, owner: str, store: str, batch_id: str
) -> dict[str, int]:
    """Return status -> number of files of a batch."""
    query = sa.select(files.c.status, sa.func.count()).where(
        match_files(owner, store), files.c.batch == batch_id
    )
    return {status: int(n) for status, n in connection.execute(query.group_by(files.c.status))}


def cancel_batch(
    connection: sa.Connection, owner: str, store: str, batch_id: str
) -> FileBatch | None:
    """Cancel the files of a batch that are not processed yet. None if there is no such batch."""
    waiting = (
        match_files(owner, store) & (files.c.batch == batch_id) & (files.c.status == IN_PROGRESS)
    )
    cancelled = connection.scalars(sa.select(files.c.file).where(waiting)).all()
    if cancelled:
        mine = (batches.c.owner == owner) & (batches.c.store == store) & (batches.c.id == batch_id)
        connection.execute(sa.update(batches).where(mine).values(cancelled=True))
        of_files = (chunks.c.owner == owner) & (chunks.c.store == store)
        connection.execute(sa.delete(chunks).where(of_files, chunks.c.file.in_(cancelled)))
        connection.execute(
            sa.update(files).where(waiting).values(status=CANCELLED, worker=None, lease=None)
        )
    return find_batch(connection, owner, store, batch_id)


# -- processing -----------------------------------------------------------------------------------


def claim_file(connection: sa.Connection, worker: str) -> PendingFile | None:
    """Claim the longest waiting file of a random owner; None if no file is waiting."""
    waiting = (files.c.status == IN_PROGRESS) & (files.c.lease.is_(None) | (files.c.lease < NOW))
    first = sa.select(sa.func.min(files.c.number)).where(waiting).group_by(files.c.owner)
    numbers = list(connection.scalars(first))
    if not numbers:
        return None
    number = random.choice(numbers)
    claim = sa.update(files).where(files.c.number == number, waiting)
    values = {"worker": worker, "lease": NEW_LEASE, "attempt": files.c.attempt + 1}
    if not connection.execute(claim.values(values)).rowcount:
        return None  # another worker was faster
    pairs = files.join(
        uploads, (files.c.owner == uploads.c.owner) & (files.c.file == uploads.c.id)
    ).join(stores, (files.c.owner == stores.c.owner) & (files.c.store == stores.c.id))
    names = ("number", "owner", "store", "file", "chunk_tokens", "overlap_tokens", "attempt",
             "payer")  # fmt: skip
    columns = [files.c[name] for name in names]
    query = sa.select(*columns, uploads.c.filename, stores.c.embedding_model).select_from(pairs)
    row = connection.execute(query.where(files.c.number == number)).mappings().one()
    connection.execute(
        sa.delete(chunks).where(  # of an earlier attempt
            chunks.c.owner == row["owner"],
            chunks.c.store == row["store"],
            chunks.c.file == row["file"],
        )
    )
    return PendingFile(**row)


def match_claim(claimed: PendingFile, worker: str) -> sa.ColumnElement[bool]:
    """Match a claimed file, as long as this worker may write its chunks."""
    return (
        (files.c.number == claimed.number)
        & (files.c.owner == claimed.owner)
        & (files.c.status == IN_PROGRESS)
        & (files.c.worker == worker)
    )


def renew_claim(connection: sa.Connection, claimed: PendingFile, worker: str) -> bool:
    """Renew the lease on a file. False if this worker must not process it any more."""
    renewal = sa.update(files).where(match_claim(claimed, worker)).values(lease=NEW_LEASE)
    return connection.execute(renewal).rowcount > 0


def finish_file(
    connection: sa.Connection,
    claimed: PendingFile,
    worker: str,
    size: int,
    error: tuple[str, str] | None,
) -> None:
    """Mark a claimed file as completed, or as failed with the code and the message of an error."""
    code, message = error or (None, None)
    values = {
        "status": COMPLETED if error is None else FAILED,
        "size": size if error is None else 0,
        "error_code": code,
        "error_message": message,
        "worker": None,
        "lease": None,
    }
    done = sa.update(files).where(match_claim(claimed, worker)).values(values)
    if not connection.execute(done).rowcount:
        return
    if error is not None:
        connection.execute(
            sa.delete(chunks).where(
                chunks.c.owner == claimed.owner,
                chunks.c.store == claimed.store,
                chunks.c.file == claimed.file,
            )
        )
    refresh_size(connection, claimed.owner, claimed.store)
