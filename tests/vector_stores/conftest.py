"""Vector stores in a database of each kind, embedded by the demo's model."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Sequence

import pytest

from forwarder.demo.embeddings import make_vector
from forwarder.storage.db.database import Database
from forwarder.storage.db.vector_stores import NewStoreFile
from forwarder.storage.files import FileStore
from forwarder.storage.repositories.files import FileRepository
from forwarder.storage.repositories.vector_stores import VectorStoreRepository
from forwarder.vector_stores.ingest import Embed, Ingestor
from forwarder.vector_stores.service import VectorStoreService
from tests.storage.db.conftest import any_database, postgres_server

__all__ = ["any_database", "postgres_server"]

OWNER = "owner"


def embed_texts(model: str, texts: Sequence[str], payer: str = "") -> list[list[float]]:
    """Return vectors that depend on the words of the texts."""
    return [make_vector(text, 16) for text in texts]


class Client:
    """Files and vector stores of one owner."""

    def __init__(self, database: Database, model: str | None, max_owner: int = 2**29) -> None:
        self.database = database
        self.repository = VectorStoreRepository(database)
        self.files = FileStore(FileRepository(database), 2**26, max_owner)
        self.use_embeddings(embed_texts, model)

    def use_embeddings(self, embed: Embed, model: str | None = "up/m") -> None:
        """Use this embedding function for new requests."""
        self.stores = VectorStoreService(self.repository, self.files, model, embed)

    def make_ingestor(self, embed: Embed) -> Ingestor:
        """Return the ingestor of another worker."""
        return Ingestor(self.repository, self.files, embed)

    def upload(self, content: bytes | str, filename: str = "a.txt") -> str:
        data = content.encode() if isinstance(content, str) else content
        return self.files.upload(OWNER, io.BytesIO(data), len(data), filename, "assistants").id

    def create_store(self, **files: dict[str, object]) -> str:
        """Create a store with files by id and attributes, and wait until they are processed."""
        new_files = [
            NewStoreFile(name, dict(attributes), 800, 400) for name, attributes in files.items()
        ]
        store = self.stores.create_store(OWNER, "s", None, {}, None, new_files)
        return str(self.wait(store["id"])["id"])

    def wait(self, store_id: str) -> dict[str, object]:
        """Wait until no file is in progress, and return the store."""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            store = self.stores.get_store(OWNER, store_id)
            if store["status"] != "in_progress":
                return store
            time.sleep(0.02)
        raise AssertionError("the files were not processed in time")


Open = Callable[..., Client]


@pytest.fixture
def open_client(any_database: Database) -> Open:
    return lambda model="up/m", **more: Client(any_database, model, **more)


@pytest.fixture
def client(open_client: Open) -> Client:
    return open_client()
