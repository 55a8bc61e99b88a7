"""Stored files: limits, contents, owners."""

from __future__ import annotations

import io

import pytest

from forwarder.core.errors import InvalidRequest, NotFound, TooLarge
from forwarder.storage import files
from forwarder.storage.db.database import SqliteDatabase
from forwarder.storage.db.keyset_pages import NumberedPage
from forwarder.storage.files import FileStore, render_file
from forwarder.storage.repositories.files import FileRepository

PAGE = NumberedPage(10, None, None, False)


def upload(store: FileStore, data: bytes, owner: str = "o", lifetime: int | None = None) -> str:
    stream = io.BytesIO(data)
    return store.upload(owner, stream, len(data), "a.txt", "assistants", lifetime).id


@pytest.fixture
def store(database: SqliteDatabase) -> FileStore:
    return FileStore(FileRepository(database), 100, 150)


def test_content_is_stored_in_parts(store: FileStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "PART_BYTES", 4)
    name = upload(store, b"0123456789")

    assert list(store.iterate_content("o", name)) == [b"0123", b"4567", b"89"]
    assert store.find("o", name).size == 10
    assert name.startswith("file-")


def test_empty_file_has_an_empty_content(store: FileStore) -> None:
    assert list(store.iterate_content("o", upload(store, b""))) == []


def test_sizes_are_limited(store: FileStore) -> None:
    upload(store, b"x" * 100)
    with pytest.raises(TooLarge) as too_large:
        upload(store, b"x" * 101)
    with pytest.raises(InvalidRequest) as full:
        upload(store, b"x" * 51)

    assert (too_large.value.param, full.value.code) == ("file", "storage_limit_exceeded")
    upload(store, b"x" * 50)
    upload(store, b"x" * 100, owner="other")


def test_interrupted_upload_is_removed(store: FileStore) -> None:
    class Broken(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        store.upload("o", Broken(), 100, "a.txt", "assistants")

    assert store.list_page("o", PAGE, None) == ([], False)
    upload(store, b"x" * 100)


def test_only_the_owner_has_access(store: FileStore) -> None:
    name = upload(store, b"x")

    for owner, file_id in (("other", name), ("o", "file-none"), ("o", "\0")):
        with pytest.raises(NotFound):
            store.find(owner, file_id)
        with pytest.raises(NotFound):
            store.remove(owner, file_id)
    assert store.find_missing("o", [name, "file-none", "\0"]) == "file-none"
    assert store.find_missing("o", [name]) is None
    assert store.find_position("o", name) is not None
    store.remove("o", name)
    with pytest.raises(NotFound):
        store.find("o", name)


def test_object_of_a_file(store: FileStore) -> None:
    file = store.find("o", upload(store, b"abc", lifetime=3600))

    assert render_file(file) == {
        "id": file.id,
        "object": "file",
        "bytes": 3,
        "created_at": int(file.created),
        "expires_at": int(file.created + 3600),
        "filename": "a.txt",
        "purpose": "assistants",
        "status": "processed",
        "status_details": None,
    }
