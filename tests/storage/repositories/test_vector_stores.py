"""Vector stores of a repository: files added, processed, searched and removed."""

from __future__ import annotations

import pytest

from forwarder.storage.db.database import SqliteDatabase
from forwarder.storage.db.files import StoredFile
from forwarder.storage.db.keyset_pages import NumberedPage
from forwarder.storage.db.vector_chunks import NewChunk
from forwarder.storage.db.vector_stores import FileBatch, NewStoreFile, VectorStore
from forwarder.storage.repositories.files import FileRepository
from forwarder.storage.repositories.vector_stores import VectorStoreRepository

STORE = VectorStore("vs_1", 1.0, 1.0, 0, "s", None, {}, None, "up/m")
PAGE = NumberedPage(5, None, None, False)
BATCH = FileBatch("vsfb_1", "vs_1", 2.0, False)


@pytest.fixture
def repository(database: SqliteDatabase) -> VectorStoreRepository:
    files = FileRepository(database)
    for name in ("file-1", "file-2"):
        files.reserve("o", StoredFile(name, 1.0, 2, name, "assistants", None), 100)
        files.mark_complete("o", name)
    new_repository = VectorStoreRepository(database)
    new_repository.create("o", STORE, [NewStoreFile("file-1", {"a": 1}, 800, 400)])
    return new_repository


def test_file_is_processed_and_searched(repository: VectorStoreRepository) -> None:
    claimed = repository.claim_file("w")
    assert claimed is not None
    assert repository.renew_claim(claimed, "w")
    assert repository.add_chunks(claimed, "w", [NewChunk("hello", ("hello",), b"v", b"b")])
    repository.finish_file(claimed, "w", 6, None)

    [number] = repository.find_words("o", "vs_1", ["hello"], None, 5)
    assert repository.read_texts("o", [number])[number].text == "hello"
    assert [chunk.number for chunk in repository.scan_bits("o", "vs_1", 0, 5)] == [number]
    assert repository.read_vectors("o", [number]) == [(number, b"v")]
    assert repository.list_texts("o", "vs_1", "file-1", 0, 5) == [(number, "hello")]
    assert repository.list_attributes("o", ["vs_1"]) == [("vs_1", "file-1", "file-1", {"a": 1})]
    assert repository.count_files("o", ["vs_1"]) == {"vs_1": {"completed": 1}}


def test_files_are_added_as_a_batch(repository: VectorStoreRepository) -> None:
    repository.add_files("o", "vs_1", [NewStoreFile("file-2", {}, 800, 400)], 2.0, BATCH)

    assert repository.find_batch("o", "vs_1", "vsfb_1") == BATCH
    assert repository.count_batch_files("o", BATCH) == {"in_progress": 1}
    listed, has_more = repository.list_files("o", "vs_1", PAGE, None, "vsfb_1")
    assert ([file.file for file in listed], has_more) == (["file-2"], False)
    assert repository.cancel_batch("o", "vs_1", "vsfb_1") == BATCH._replace(cancelled=True)
    used = repository.find("o", "vs_1")
    assert used is not None
    assert used.used > STORE.used


def test_store_and_its_files_are_changed_and_removed(repository: VectorStoreRepository) -> None:
    assert not repository.close_event.is_set()
    changed = repository.set_attributes("o", "vs_1", "file-1", {"a": 2})
    assert changed == repository.find_file("o", "vs_1", "file-1")
    assert changed is not None
    assert changed.attributes == {"a": 2}
    renamed = repository.update("o", "vs_1", {"name": "new"})
    assert renamed is not None
    assert repository.list_page("o", PAGE) == ([renamed], False)
    assert repository.find_file_position("o", "vs_1", "file-1") is not None
    assert repository.remove_file("o", "vs_1", "file-1")
    assert repository.find_file("o", "vs_1", "file-1") is None
    assert repository.remove("o", "vs_1")
    assert repository.find_position("o", "vs_1") is not None
    assert repository.find("o", "vs_1") is None


def test_use_is_marked_while_the_database_is_writable(
    repository: VectorStoreRepository, database: SqliteDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(database.write_breaker, "error", "disk is full")
        repository.mark_used("o", ["vs_1"])
    unchanged = repository.find("o", "vs_1")
    assert unchanged is not None
    assert unchanged.used == STORE.used

    repository.mark_used("o", ["vs_1"])

    used = repository.find("o", "vs_1")
    assert used is not None
    assert used.used > STORE.used
