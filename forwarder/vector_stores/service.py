"""Vector stores of clients: their objects, checks and errors, for routes and for the tool.

All methods take an owner and find only that owner's data. They raise NotFound for unknown ids,
InvalidRequest for invalid values, and StoreUnavailable.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from forwarder.core.errors import InvalidRequest, NotFound
from forwarder.core.ids import generate_id
from forwarder.core.types import Json
from forwarder.storage.db import vector_stores as rows
from forwarder.storage.db.keyset_pages import NumberedPage
from forwarder.storage.db.tables import is_valid_id
from forwarder.storage.db.vector_stores import FileBatch, NewStoreFile, StoreFile, VectorStore
from forwarder.storage.files import FileStore, file_not_found
from forwarder.storage.repositories.vector_stores import VectorStoreRepository
from forwarder.vector_stores.attributes import Filter
from forwarder.vector_stores.ingest import Embed, Ingestor
from forwarder.vector_stores.search import RankingOptions, Searcher, SearchResult

MAX_STORE_FILES = 10_000
TEXTS_PER_READ = 100


class VectorStoreService:
    """Vector stores in a database. New stores are embedded by ``embedding_model``, if it is set."""

    def __init__(
        self,
        repository: VectorStoreRepository,
        files: FileStore,
        embedding_model: str | None,
        embed: Embed,
    ) -> None:
        self._repository, self._files = repository, files
        self._embedding_model = embedding_model
        self._ingestor = Ingestor(repository, files, embed)
        self._searcher = Searcher(repository, embed)

    def start(self) -> None:
        """Process waiting files in the background."""
        self._ingestor.start()

    # -- stores -----------------------------------------------------------------------------------

    def create_store(
        self,
        owner: str,
        name: str,
        description: str | None,
        metadata: Json,
        expires_days: int | None,
        files: Sequence[NewStoreFile],
    ) -> Json:
        """Create a store with files, and return its object."""
        self._check_files_exist(owner, [file.file for file in files], "file_ids")
        now = time.time()
        store = VectorStore(
            id=generate_id("vs"),
            created=now,
            used=now,
            size=0,
            name=name,
            description=description,
            metadata=metadata,
            expires_days=expires_days,
            embedding_model=self._embedding_model,
        )
        self._repository.create(owner, store, files)
        if files:
            self._ingestor.wake()
        return self._render_stores(owner, [store])[0]

    def get_store(self, owner: str, store_id: str) -> Json:
        """Return the object of a store."""
        return self._render_stores(owner, [self._find_store(owner, store_id)])[0]

    def list_stores(self, owner: str, page: NumberedPage) -> tuple[list[Json], bool]:
        """Return the objects of a page of stores, and whether there are more."""
        found, has_more = self._repository.list_page(owner, page)
        return self._render_stores(owner, found), has_more

    def find_store_position(self, owner: str, store_id: str) -> int | None:
        """Return the list position of a store, or None if it is unknown."""
        return self._repository.find_position(owner, store_id)

    def update_store(self, owner: str, store_id: str, changes: dict[str, Any]) -> Json:
        """Change fields of a store, and return its object."""
        self._find_store(owner, store_id)
        store = self._repository.update(owner, store_id, changes)
        if store is None:
            raise store_not_found(store_id)
        return self._render_stores(owner, [store])[0]

    def remove_store(self, owner: str, store_id: str) -> None:
        """Delete a store. Its files stay."""
        if not is_valid_id(store_id) or not self._repository.remove(owner, store_id):
            raise store_not_found(store_id)

    def _find_store(self, owner: str, store_id: str) -> VectorStore:
        store = self._repository.find(owner, store_id) if is_valid_id(store_id) else None
        if store is None:
            raise store_not_found(store_id)
        return store

    def _render_stores(self, owner: str, stores: Sequence[VectorStore]) -> list[Json]:
        names = [store.id for store in stores]
        counts = self._repository.count_files(owner, names)
        return [render_store(store, counts[store.id]) for store in stores]

    # -- files ------------------------------------------------------------------------------------

    def add_file(self, owner: str, store_id: str, file: NewStoreFile) -> Json:
        """Add a file to a store, and return its object."""
        self._add_files(owner, store_id, [file], "file_id", None)
        return self.get_file(owner, store_id, file.file)

    def get_file(self, owner: str, store_id: str, file_id: str) -> Json:
        """Return the object of a store's file."""
        return render_store_file(self._find_file(owner, store_id, file_id))

    def list_files(
        self, owner: str, store_id: str, page: NumberedPage, status: str | None
    ) -> tuple[list[Json], bool]:
        """Return the objects of a page of a store's files, and whether there are more."""
        self._find_store(owner, store_id)
        found, has_more = self._repository.list_files(owner, store_id, page, status)
        return list(map(render_store_file, found)), has_more

    def find_file_position(self, owner: str, store_id: str, file_id: str) -> int | None:
        """Return the list position of a store's file, or None if it is unknown."""
        self._find_store(owner, store_id)  # checks the id: PostgreSQL stores no NUL
        return self._repository.find_file_position(owner, store_id, file_id)

    def update_file(self, owner: str, store_id: str, file_id: str, attributes: Json) -> Json:
        """Replace the attributes of a store's file, and return its object."""
        self._find_file(owner, store_id, file_id)
        file = self._repository.set_attributes(owner, store_id, file_id, attributes)
        if file is None:
            raise store_file_not_found(file_id)
        return render_store_file(file)

    def remove_file(self, owner: str, store_id: str, file_id: str) -> None:
        """Remove a file from a store. The file itself stays."""
        self._find_file(owner, store_id, file_id)
        self._repository.remove_file(owner, store_id, file_id)

    def iterate_texts(self, owner: str, store_id: str, file_id: str) -> Iterator[str]:
        """Return the passages of a store's file."""
        self._find_file(owner, store_id, file_id)
        return self._read_texts(owner, store_id, file_id)

    def _read_texts(self, owner: str, store_id: str, file_id: str) -> Iterator[str]:
        after = 0
        while True:
            found = self._repository.list_texts(owner, store_id, file_id, after, TEXTS_PER_READ)
            yield from (text for _, text in found)
            if len(found) < TEXTS_PER_READ:
                return
            after = found[-1][0]

    def _find_file(self, owner: str, store_id: str, file_id: str) -> StoreFile:
        self._find_store(owner, store_id)
        file = (
            self._repository.find_file(owner, store_id, file_id) if is_valid_id(file_id) else None
        )
        if file is None:
            raise store_file_not_found(file_id)
        return file

    def _add_files(
        self,
        owner: str,
        store_id: str,
        files: Sequence[NewStoreFile],
        param: str,
        batch: FileBatch | None,
    ) -> None:
        store = self._find_store(owner, store_id)
        if is_expired(store):
            raise store_expired(store_id, "vector_store_id")
        self._check_files_exist(owner, [file.file for file in files], param)
        counts = self._repository.count_files(owner, [store_id])
        if sum(counts[store_id].values()) + len(files) > MAX_STORE_FILES:
            raise InvalidRequest(
                f"A vector store may have at most {MAX_STORE_FILES} files.",
                param=param,
                code="vector_store_full",
            )
        self._repository.add_files(owner, store_id, files, time.time(), batch)
        self._ingestor.wake()

    def _check_files_exist(self, owner: str, names: list[str], param: str) -> None:
        missing = self._files.find_missing(owner, names)
        if missing is not None:
            error = file_not_found(missing)
            error.param = param
            raise error

    # -- batches ----------------------------------------------------------------------------------

    def create_batch(
        self, owner: str, store_id: str, files: Sequence[NewStoreFile], param: str
    ) -> Json:
        """Add files to a store, and return the object of the batch."""
        batch = FileBatch(generate_id("vsfb"), store_id, time.time(), cancelled=False)
        self._add_files(owner, store_id, files, param, batch)
        return self._render_batch(owner, batch)

    def get_batch(self, owner: str, store_id: str, batch_id: str) -> Json:
        """Return the object of a batch."""
        return self._render_batch(owner, self._find_batch(owner, store_id, batch_id))

    def cancel_batch(self, owner: str, store_id: str, batch_id: str) -> Json:
        """Cancel the files that are not processed yet, and return the object of the batch."""
        self._find_batch(owner, store_id, batch_id)
        batch = self._repository.cancel_batch(owner, store_id, batch_id)
        if batch is None:
            raise batch_not_found(batch_id)
        return self._render_batch(owner, batch)

    def list_batch_files(
        self, owner: str, store_id: str, batch_id: str, page: NumberedPage, status: str | None
    ) -> tuple[list[Json], bool]:
        """Return the objects of a page of a batch's files, and whether there are more."""
        self._find_batch(owner, store_id, batch_id)
        found, has_more = self._repository.list_files(owner, store_id, page, status, batch_id)
        return list(map(render_store_file, found)), has_more

    def _find_batch(self, owner: str, store_id: str, batch_id: str) -> FileBatch:
        self._find_store(owner, store_id)
        batch = (
            self._repository.find_batch(owner, store_id, batch_id)
            if is_valid_id(batch_id)
            else None
        )
        if batch is None:
            raise batch_not_found(batch_id)
        return batch

    def _render_batch(self, owner: str, batch: FileBatch) -> Json:
        counts = self._repository.count_batch_files(owner, batch)
        return render_batch(batch, counts)

    # -- search -----------------------------------------------------------------------------------

    def search_store(
        self,
        owner: str,
        store_id: str,
        queries: Sequence[str],
        matches: Filter | None,
        options: RankingOptions,
        max_results: int,
        payer: str = "",
    ) -> list[SearchResult]:
        """Return the best passages of a store, best first; ``payer`` pays for the embedding."""
        store = self._find_store(owner, store_id)
        if is_expired(store):
            raise store_expired(store_id, "vector_store_id")
        return self._searcher.search(owner, [store], queries, matches, options, max_results, payer)

    def search_stores(
        self,
        owner: str,
        store_ids: Sequence[str],
        queries: Sequence[str],
        matches: Filter | None,
        options: RankingOptions,
        max_results: int,
        param: str,
        payer: str = "",
    ) -> list[SearchResult]:
        """Return the best passages of several stores, best first, for the tool ``file_search``.

        ``payer`` pays for the embedding. ``param`` is the path of the ids in the request, such as
        ``tools[0].vector_store_ids``. Raises InvalidRequest with it if one of the stores does not
        exist or has expired.
        """
        stores = self.find_stores(owner, store_ids, param)
        return self._searcher.search(owner, stores, queries, matches, options, max_results, payer)

    def find_stores(self, owner: str, store_ids: Sequence[str], param: str) -> list[VectorStore]:
        """Return stores that can be searched; raises InvalidRequest like `search_stores`."""
        found = []
        for store_id in dict.fromkeys(store_ids):
            try:
                store = self._find_store(owner, store_id)
            except NotFound as error:
                raise InvalidRequest(error.message, param=param, code="not_found") from None
            if is_expired(store):
                raise store_expired(store_id, param)
            found.append(store)
        return found


# -- objects --------------------------------------------------------------------------------------


def is_expired(store: VectorStore) -> bool:
    """Whether a store was not used for longer than its client wanted to keep it."""
    return store.expires is not None and store.expires <= time.time()


def count_by_status(counts: Mapping[str, int]) -> dict[str, int]:
    """Return the object ``file_counts``."""
    return {status: counts.get(status, 0) for status in rows.STATUSES} | {
        "total": sum(counts.values())
    }


def render_store(store: VectorStore, counts: Mapping[str, int]) -> Json:
    """Return the API object of a store with these numbers of files by status."""
    if is_expired(store):
        status = "expired"
    else:
        status = "in_progress" if counts.get(rows.IN_PROGRESS) else "completed"
    expires_after = None
    if store.expires_days is not None:
        expires_after = {"anchor": "last_active_at", "days": store.expires_days}
    rendered: Json = {
        "id": store.id,
        "object": "vector_store",
        "created_at": int(store.created),
        "name": store.name,
        "usage_bytes": store.size,
        "file_counts": count_by_status(counts),
        "status": status,
        "expires_after": expires_after,
        "expires_at": None if store.expires is None else int(store.expires),
        "last_active_at": int(store.used),
        "metadata": store.metadata,
    }
    if store.description is not None:
        rendered["description"] = store.description
    return rendered


def render_store_file(file: StoreFile) -> Json:
    """Return the API object of a file in a store."""
    error = None
    if file.error_code is not None:
        error = {"code": file.error_code, "message": file.error_message or ""}
    return {
        "id": file.file,
        "object": "vector_store.file",
        "created_at": int(file.created),
        "vector_store_id": file.store,
        "status": file.status,
        "usage_bytes": file.size,
        "last_error": error,
        "attributes": file.attributes,
        "chunking_strategy": {
            "type": "static",
            "static": {
                "max_chunk_size_tokens": file.chunk_tokens,
                "chunk_overlap_tokens": file.overlap_tokens,
            },
        },
    }


def render_batch(batch: FileBatch, counts: Mapping[str, int]) -> Json:
    """Return the API object of a batch with these numbers of files by status."""
    if batch.cancelled:
        status = "cancelled"
    else:
        status = "in_progress" if counts.get(rows.IN_PROGRESS) else "completed"
    return {
        "id": batch.id,
        "object": "vector_store.files_batch",
        "created_at": int(batch.created),
        "vector_store_id": batch.store,
        "status": status,
        "file_counts": count_by_status(counts),
    }


def render_result(result: SearchResult) -> Json:
    """Return the API object of a search result."""
    return {
        "file_id": result.file_id,
        "filename": result.filename,
        "score": result.score,
        "attributes": result.attributes,
        "content": [{"type": "text", "text": result.text}],
    }


# -- errors ---------------------------------------------------------------------------------------


def store_not_found(store_id: str) -> NotFound:
    """Create the error for an unknown store."""
    return NotFound(f"Vector store with id '{store_id[:64]}' not found.", param="vector_store_id")


def store_file_not_found(file_id: str) -> NotFound:
    """Create the error for a file that is not in the store."""
    return NotFound(f"No file with id '{file_id[:64]}' in this vector store.", param="file_id")


def batch_not_found(batch_id: str) -> NotFound:
    """Create the error for an unknown batch."""
    return NotFound(f"No file batch with id '{batch_id[:64]}' found.", param="batch_id")


def store_expired(store_id: str, param: str) -> InvalidRequest:
    """Create the error for a store that was not used for too long."""
    return InvalidRequest(
        f"Vector store with id '{store_id[:64]}' has expired.",
        param=param,
        code="vector_store_expired",
    )
