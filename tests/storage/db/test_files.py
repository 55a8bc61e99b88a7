"""Rows of files, on both databases."""

from __future__ import annotations

import time
from functools import partial

from forwarder.storage.db import files, vector_stores
from forwarder.storage.db.database import Database
from forwarder.storage.db.files import StoredFile
from forwarder.storage.db.keyset_pages import NumberedPage
from forwarder.storage.db.vector_stores import NewStoreFile, VectorStore

FIRST_PAGE = NumberedPage(10, None, None, False)


def make_file(name: str, size: int = 4, expires: float | None = None) -> StoredFile:
    return StoredFile(name, time.time(), size, f"{name}.txt", "assistants", expires)


def add(database: Database, file: StoredFile, owner: str = "o") -> None:
    assert database.write(partial(files.reserve, owner=owner, file=file, max_bytes=1000))
    database.write(partial(files.add_part, owner=owner, file_id=file.id, number=0, data=b"text"))
    assert database.write(partial(files.mark_complete, owner=owner, file_id=file.id))


def find(database: Database, name: str, owner: str = "o") -> StoredFile | None:
    return database.read(partial(files.find, owner=owner, file_id=name))


def test_file_is_found_by_its_owner_when_it_is_complete(any_database: Database) -> None:
    file = make_file("file-1")
    any_database.write(partial(files.reserve, owner="o", file=file, max_bytes=4))
    assert find(any_database, "file-1") is None

    any_database.write(partial(files.mark_complete, owner="o", file_id="file-1"))

    assert find(any_database, "file-1") == file
    assert find(any_database, "file-1", "other") is None
    existing = partial(files.find_existing, owner="o", names=["file-1", "file-2"])
    assert any_database.read(existing) == {"file-1"}


def test_room_is_reserved_before_the_upload(any_database: Database) -> None:
    for owner in ("o", "other"):
        reserve = partial(files.reserve, owner=owner, max_bytes=7)
        assert any_database.write(partial(reserve, file=make_file("file-1")))
        assert not any_database.write(partial(reserve, file=make_file("file-2")))
        assert any_database.write(partial(reserve, file=make_file("file-3", size=3)))
        assert any_database.read(partial(files.measure_owner, owner=owner)) == 7


def test_expired_files_and_abandoned_uploads_are_deleted(any_database: Database) -> None:
    add(any_database, make_file("file-1", expires=time.time() - 1))
    add(any_database, make_file("file-2", expires=time.time() + 100))
    old = make_file("file-3")._replace(created=time.time() - 2 * files.UPLOAD_SECONDS)
    any_database.write(partial(files.reserve, owner="o", file=old, max_bytes=1000))
    assert find(any_database, "file-1") is None

    assert any_database.write(files.remove_expired) == 2

    assert any_database.write(files.remove_expired) == 0
    assert find(any_database, "file-2") is not None
    read = partial(files.read_part, owner="o", file_id="file-1", number=0)
    assert any_database.read(read) is None


def test_page_of_one_purpose(any_database: Database) -> None:
    add(any_database, make_file("file-1"))
    add(any_database, make_file("file-2")._replace(purpose="batch"))
    read = partial(files.list_page, owner="o", page=FIRST_PAGE)

    all_files, has_more = any_database.read(partial(read, purpose=None))
    batches, _ = any_database.read(partial(read, purpose="batch"))

    assert ([file.id for file in all_files], has_more) == (["file-1", "file-2"], False)
    assert [file.id for file in batches] == ["file-2"]


def test_deleted_file_leaves_vector_stores_and_keeps_its_position(any_database: Database) -> None:
    add(any_database, make_file("file-1"))
    store = VectorStore("vs_1", 1.0, 1.0, 0, "s", None, {}, None, None)
    any_database.write(partial(vector_stores.create, owner="o", store=store))
    new_files = [NewStoreFile("file-1", {}, 800, 400)]
    any_database.write(
        partial(vector_stores.add_files, owner="o", store="vs_1", new_files=new_files, created=1.0)
    )
    claimed = any_database.write(partial(vector_stores.claim_file, worker="w"))
    assert claimed is not None
    finish = partial(vector_stores.finish_file, claimed=claimed, worker="w", size=5, error=None)
    any_database.write(finish)
    assert any_database.read(partial(files.measure_owner, owner="o")) == 9
    position = any_database.read(partial(files.find_position, owner="o", file_id="file-1"))

    assert any_database.write(partial(files.remove, owner="o", file_id="file-1"))

    assert not any_database.write(partial(files.remove, owner="o", file_id="file-1"))
    assert any_database.read(partial(files.measure_owner, owner="o")) == 0
    find_in_store = partial(vector_stores.find_file, owner="o", store="vs_1", file_id="file-1")
    assert any_database.read(find_in_store) is None
    find_position = partial(files.find_position, owner="o", file_id="file-1")
    assert any_database.read(find_position) == position
