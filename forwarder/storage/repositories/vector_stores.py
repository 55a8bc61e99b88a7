"""Vector stores: their files, batches of files, and the passages that are searched."""

from __future__ import annotations

from collections.abc import Sequence
from threading import Event
from typing import Any

import sqlalchemy as sa

from forwarder.core.types import Json
from forwarder.storage.db import Database, vector_chunks, vector_stores
from forwarder.storage.db.keyset_pages import NumberedPage
from forwarder.storage.db.vector_chunks import FoundChunk, NewChunk, ScannedChunk
from forwarder.storage.db.vector_stores import (
    FileBatch,
    NewStoreFile,
    PendingFile,
    StoreFile,
    VectorStore,
)


class VectorStoreRepository:
    """The vector stores of a database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @property
    def close_event(self) -> Event:
        """Set when the database was closed."""
        return self._database.close_event

    # -- stores -----------------------------------------------------------------------------------

    def create(self, owner: str, store: VectorStore, files: Sequence[NewStoreFile]) -> None:
        """Add a store with files, which are to be processed."""

        def write(connection: sa.Connection) -> None:
            vector_stores.create(connection, owner, store)
            vector_stores.add_files(connection, owner, store.id, files, store.created)

        self._database.write(write)

    def find(self, owner: str, store_id: str) -> VectorStore | None:
        """Return a store."""
        return self._database.read(lambda c: vector_stores.find(c, owner, store_id))

    def find_position(self, owner: str, store_id: str) -> int | None:
        """Return the list position of a store, existing or recently deleted, or None."""
        return self._database.read(lambda c: vector_stores.find_position(c, owner, store_id))

    def list_page(self, owner: str, page: NumberedPage) -> tuple[list[VectorStore], bool]:
        """Return a page of the stores, and whether there are more."""
        return self._database.read(lambda c: vector_stores.list_page(c, owner, page))

    def update(self, owner: str, store_id: str, changes: dict[str, Any]) -> VectorStore | None:
        """Change columns of a store and mark it as used. Returns None if it does not exist."""
        return self._database.write(lambda c: vector_stores.update(c, owner, store_id, changes))

    def mark_used(self, owner: str, store_ids: list[str]) -> None:
        """Mark stores and their files as used, if the database is writable."""
        if self._database.read(lambda c: vector_stores.needs_mark_used(c, owner, store_ids)):
            self._database.write_if_possible(lambda c: vector_stores.mark_used(c, owner, store_ids))

    def remove(self, owner: str, store_id: str) -> bool:
        """Delete a store; its files stay. Returns whether it existed."""
        return self._database.write(lambda c: vector_stores.remove(c, owner, store_id))

    # -- files ------------------------------------------------------------------------------------

    def add_files(
        self,
        owner: str,
        store: str,
        files: Sequence[NewStoreFile],
        created: float,
        batch: FileBatch | None,
    ) -> None:
        """Add files to a store, as a batch if one is given, and mark the store as used."""

        def write(connection: sa.Connection) -> None:
            if batch is not None:
                vector_stores.create_batch(connection, owner, batch)
            name = None if batch is None else batch.id
            vector_stores.add_files(connection, owner, store, files, created, name)
            vector_stores.update(connection, owner, store, {})

        self._database.write(write)

    def find_file(self, owner: str, store: str, file_id: str) -> StoreFile | None:
        """Return a file of a store."""
        return self._database.read(lambda c: vector_stores.find_file(c, owner, store, file_id))

    def find_file_position(self, owner: str, store: str, file_id: str) -> int | None:
        """Return the list position of a store's file, existing or recently removed, or None."""
        return self._database.read(
            lambda c: vector_stores.find_file_position(c, owner, store, file_id)
        )

    def list_files(
        self,
        owner: str,
        store: str,
        page: NumberedPage,
        status: str | None,
        batch: str | None = None,
    ) -> tuple[list[StoreFile], bool]:
        """Return a page of a store's files, optionally of one status or of one batch."""
        return self._database.read(
            lambda c: vector_stores.list_files(c, owner, store, page, status, batch)
        )

    def count_files(self, owner: str, store_ids: list[str]) -> dict[str, dict[str, int]]:
        """Return store id -> status -> number of files."""
        return self._database.read(lambda c: vector_stores.count_files(c, owner, store_ids))

    def list_attributes(self, owner: str, store_ids: list[str]) -> list[tuple[str, str, str, Json]]:
        """Return (store, file, filename, attributes) of all processed files of these stores."""
        return self._database.read(lambda c: vector_stores.list_attributes(c, owner, store_ids))

    def set_attributes(
        self, owner: str, store: str, file_id: str, attributes: Json
    ) -> StoreFile | None:
        """Replace the attributes of a store's file. Returns None if it does not exist."""
        return self._database.write(
            lambda c: vector_stores.set_attributes(c, owner, store, file_id, attributes)
        )

    def remove_file(self, owner: str, store: str, file_id: str) -> bool:
        """Remove a file from a store. Returns whether it was in the store."""
        return self._database.write(lambda c: vector_stores.remove_file(c, owner, store, file_id))

    # -- batches ----------------------------------------------------------------------------------

    def find_batch(self, owner: str, store: str, batch_id: str) -> FileBatch | None:
        """Return a batch of a store."""
        return self._database.read(lambda c: vector_stores.find_batch(c, owner, store, batch_id))

    def count_batch_files(self, owner: str, batch: FileBatch) -> dict[str, int]:
        """Return status -> number of files of a batch."""
        return self._database.read(
            lambda c: vector_stores.count_batch_files(c, owner, batch.store, batch.id)
        )

    def cancel_batch(self, owner: str, store: str, batch_id: str) -> FileBatch | None:
        """Cancel the files of a batch that are not processed yet. None if there is no batch."""
        return self._database.write(lambda c: vector_stores.cancel_batch(c, owner, store, batch_id))

    # -- processing -------------------------------------------------------------------------------

    def claim_file(self, worker: str) -> PendingFile | None:
        """Claim a waiting file for a worker; None if no file waits."""
        return self._database.write(lambda c: vector_stores.claim_file(c, worker))

    def renew_claim(self, file: PendingFile, worker: str) -> bool:
        """Renew the lease on a file. False if the worker must not process it any more."""
        return self._database.write(lambda c: vector_stores.renew_claim(c, file, worker))

    def add_chunks(self, file: PendingFile, worker: str, chunks: Sequence[NewChunk]) -> bool:
        """Add passages of a claimed file. False if the worker must not process it any more."""
        return self._database.write(lambda c: vector_chunks.add_chunks(c, file, worker, chunks))

    def finish_file(
        self, file: PendingFile, worker: str, size: int, error: tuple[str, str] | None
    ) -> None:
        """Mark a claimed file as completed, or as failed with a code and a message."""
        self._database.write(lambda c: vector_stores.finish_file(c, file, worker, size, error))

    # -- search -----------------------------------------------------------------------------------

    def find_words(
        self, owner: str, store: str, words: Sequence[str], files: Sequence[str] | None, limit: int
    ) -> list[int]:
        """Return the numbers of the passages with any of the words, best first."""
        return self._database.read(
            lambda c: vector_chunks.find_words(c, owner, store, words, files, limit)
        )

    def scan_bits(self, owner: str, store: str, after: int, limit: int) -> list[ScannedChunk]:
        """Return the next passages after a number, in order."""
        return self._database.read(lambda c: vector_chunks.scan_bits(c, owner, store, after, limit))

    def read_vectors(self, owner: str, numbers: Sequence[int]) -> list[tuple[int, bytes]]:
        """Return (number, vector) of passages."""
        return self._database.read(lambda c: vector_chunks.read_vectors(c, owner, numbers))

    def read_texts(self, owner: str, numbers: Sequence[int]) -> dict[int, FoundChunk]:
        """Return passages of completed files by number."""
        return self._database.read(lambda c: vector_chunks.read_texts(c, owner, numbers))

    def list_texts(
        self, owner: str, store: str, file: str, after: int, limit: int
    ) -> list[tuple[int, str]]:
        """Return (number, text) of a file's next passages after a number, in order."""
        return self._database.read(
            lambda c: vector_chunks.list_texts(c, owner, store, file, after, limit)
        )
