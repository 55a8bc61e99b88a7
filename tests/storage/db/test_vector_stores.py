"""Rows of vector stores, on both databases."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
import sqlalchemy as sa

from forwarder.storage.db import files, vector_chunks, vector_stores
from forwarder.storage.db.database import Database
from forwarder.storage.db.files import StoredFile
from forwarder.storage.db.keyset_pages import NumberedPage
from forwarder.storage.db.vector_chunks import NewChunk
from forwarder.storage.db.vector_stores import (
    FileBatch,
    NewStoreFile,
    PendingFile,
    StoreFile,
    VectorStore,
)

FIRST_PAGE = NumberedPage(10, None, None, False)
NOW_STORE = VectorStore("vs_1", 1.0, 1.0, 0, "s", "about", {"k": "v"}, None, "up/m")


def create(database: Database, owner: str = "o", store: VectorStore = NOW_STORE) -> None:
    database.write(partial(vector_stores.create, owner=owner, store=store))


def add_files(database: Database, *names: str, owner: str = "o", batch: str | None = None) -> None:
    for name in names:
        file = StoredFile(name, time.time(), 4, f"{name}.txt", "assistants", None)
        if database.read(partial(files.find, owner=owner, file_id=name)) is None:
            database.write(partial(files.reserve, owner=owner, file=file, max_bytes=1000))
            database.write(partial(files.mark_complete, owner=owner, file_id=name))
    new_files = [NewStoreFile(name, {"name": name}, 800, 400) for name in names]
    database.write(
        partial(
            vector_stores.add_files,
            owner=owner,
            store="vs_1",
            new_files=new_files,
            created=2.0,
            batch=batch,
        )
    )


def claim(database: Database, worker: str = "w") -> PendingFile | None:
    return database.write(partial(vector_stores.claim_file, worker=worker))


def require_claim(database: Database, worker: str = "w") -> PendingFile:
    claimed = claim(database, worker)
    assert claimed is not None
    return claimed


def add_chunk(database: Database, claimed: PendingFile, worker: str = "w") -> bool:
    chunk = NewChunk("some text", ("some", "text"), None, None)
    add = partial(vector_chunks.add_chunks, claimed=claimed, worker=worker, new_chunks=[chunk])
    return database.write(add)


def finish(
    database: Database,
    claimed: PendingFile,
    error: tuple[str, str] | None = None,
    worker: str = "w",
) -> None:
    database.write(
        partial(vector_stores.finish_file, claimed=claimed, worker=worker, size=9, error=error)
    )


def find_file(database: Database, name: str) -> StoreFile | None:
    return database.read(partial(vector_stores.find_file, owner="o", store="vs_1", file_id=name))


def list_texts(database: Database, name: str) -> list[str]:
    read = partial(vector_chunks.list_texts, owner="o", store="vs_1", file=name, after=0, limit=10)
    return [text for _, text in database.read(read)]


def expire_leases(database: Database) -> None:
    database.write(lambda c: c.exec_driver_sql("UPDATE vector_store_files SET lease = 1"))


def test_store_is_found_listed_changed_and_deleted_by_its_owner(any_database: Database) -> None:
    create(any_database)
    read = partial(vector_stores.find, store_id="vs_1")
    assert any_database.read(partial(read, owner="o")) == NOW_STORE
    assert any_database.read(partial(read, owner="other")) is None
    listed = any_database.read(partial(vector_stores.list_page, owner="o", page=FIRST_PAGE))
    assert listed == ([NOW_STORE], False)

    changes = {"name": "new", "metadata": {}, "expires_days": 3}
    changed = any_database.write(
        partial(vector_stores.update, owner="o", store_id="vs_1", changes=changes)
    )

    assert changed is not None
    assert (changed.name, changed.metadata, changed.expires_days) == ("new", {}, 3)
    assert changed.expires is not None
    assert abs(changed.expires - time.time() - 3 * 86400) < 60
    remove = partial(vector_stores.remove, store_id="vs_1")
    assert not any_database.write(partial(remove, owner="other"))
    assert any_database.write(partial(remove, owner="o"))
    assert any_database.read(partial(read, owner="o")) is None
    position = partial(vector_stores.find_position, owner="o", store_id="vs_1")
    assert any_database.read(position) is not None


def test_size_includes_files_that_are_completed_at_the_same_time(any_database: Database) -> None:
    create(any_database)
    add_files(any_database, "file-1", "file-2")
    first, second = require_claim(any_database), require_claim(any_database)
    has_finished = threading.Event()

    def finish_slowly(connection: sa.Connection) -> None:
        vector_stores.finish_file(connection, first, "w", 9, None)
        has_finished.set()
        time.sleep(0.3)  # the other transaction has begun before this one ends

    slow = threading.Thread(target=lambda: any_database.write(finish_slowly))
    slow.start()
    assert has_finished.wait(10)
    finish(any_database, second)
    slow.join()
    store = any_database.read(partial(vector_stores.find, owner="o", store_id="vs_1"))
    assert store is not None
    assert store.size == 18


def test_completed_file_counts_and_has_a_size(any_database: Database) -> None:
    create(any_database)
    add_files(any_database, "file-1", "file-2", "file-3")
    first = require_claim(any_database)
    assert (first.file, first.filename, first.embedding_model) == ("file-1", "file-1.txt", "up/m")
    assert add_chunk(any_database, first)

    finish(any_database, first)
    finish(any_database, require_claim(any_database), ("invalid_file", "It is broken."))

    counts = any_database.read(partial(vector_stores.count_files, owner="o", store_ids=["vs_1"]))
    assert counts == {"vs_1": {"completed": 1, "failed": 1, "in_progress": 1}}
    done, failed = find_file(any_database, "file-1"), find_file(any_database, "file-2")
    assert done is not None
    assert (done.status, done.size, done.attributes) == ("completed", 9, {"name": "file-1"})
    assert failed is not None
    assert (failed.status, failed.error_code, failed.error_message, failed.size) == (
        "failed",
        "invalid_file",
        "It is broken.",
        0,
    )
    store = any_database.read(partial(vector_stores.find, owner="o", store_id="vs_1"))
    assert store is not None
    assert store.size == 9


def test_file_is_claimed_by_one_worker_until_its_lease_ends(any_database: Database) -> None:
    create(any_database)
    add_files(any_database, "file-1")
    first = require_claim(any_database)
    assert add_chunk(any_database, first)
    assert claim(any_database, "other") is None

    expire_leases(any_database)
    second = require_claim(any_database, "other")

    assert (first.attempt, second.attempt) == (1, 2)
    assert list_texts(any_database, "file-1") == []  # of the first attempt
    renew = partial(vector_stores.renew_claim, claimed=first)
    assert not any_database.write(partial(renew, worker="w"))
    assert any_database.write(partial(renew, worker="other"))
    assert not add_chunk(any_database, first)
    finish(any_database, first, ("server_error", "late"))
    finish(any_database, second, worker="other")
    done = find_file(any_database, "file-1")
    assert done is not None
    assert done.status == "completed"


def test_owners_take_turns(any_database: Database) -> None:
    for owner in ("o", "other"):
        create(any_database, owner)
    add_files(any_database, *(f"file-{n}" for n in range(20)))
    add_files(any_database, "file-x", owner="other")

    claimed = [require_claim(any_database) for _ in range(20)]

    # All from the first owner has a probability of one to a million.
    assert "other" in {each.owner for each in claimed}


def test_file_that_is_added_again_is_processed_again(any_database: Database) -> None:
    create(any_database)
    add_files(any_database, "file-1")
    claimed = require_claim(any_database)
    add_chunk(any_database, claimed)
    finish(any_database, claimed)

    add_files(any_database, "file-1")

    file = find_file(any_database, "file-1")
    assert file is not None
    assert file.status == "in_progress"
    assert list_texts(any_database, "file-1") == []
    store = any_database.read(partial(vector_stores.find, owner="o", store_id="vs_1"))
    assert store is not None
    assert store.size == 0


def test_removed_file_keeps_its_position(any_database: Database) -> None:
    create(any_database)
    add_files(any_database, "file-1", "file-2")
    position = partial(vector_stores.find_file_position, owner="o", store="vs_1", file_id="file-1")
    before = any_database.read(position)

    remove = partial(vector_stores.remove_file, owner="o", store="vs_1", file_id="file-1")
    assert any_database.write(remove)

    assert not any_database.write(remove)
    assert any_database.read(position) == before
    page, _ = any_database.read(
        partial(vector_stores.list_files, owner="o", store="vs_1", page=FIRST_PAGE)
    )
    assert [file.file for file in page] == ["file-2"]


def test_cancelled_batch_keeps_completed_files(any_database: Database) -> None:
    create(any_database)
    batch = FileBatch("vsfb_1", "vs_1", 3.0, False)
    any_database.write(partial(vector_stores.create_batch, owner="o", batch=batch))
    add_files(any_database, "file-1", "file-2", "file-3", batch="vsfb_1")
    add_files(any_database, "file-4")
    finish(any_database, require_claim(any_database))
    running = require_claim(any_database)
    add_chunk(any_database, running)

    cancel = partial(vector_stores.cancel_batch, owner="o", store="vs_1", batch_id="vsfb_1")
    cancelled = any_database.write(cancel)

    assert cancelled == batch._replace(cancelled=True)
    count = partial(vector_stores.count_batch_files, owner="o", store="vs_1", batch_id="vsfb_1")
    assert any_database.read(count) == {"completed": 1, "cancelled": 2}
    assert not add_chunk(any_database, running)
    assert list_texts(any_database, "file-2") == []
    listed = partial(vector_stores.list_files, owner="o", store="vs_1", page=FIRST_PAGE)
    of_batch, _ = any_database.read(partial(listed, batch="vsfb_1"))
    waiting, _ = any_database.read(partial(listed, status="in_progress"))
    assert [file.file for file in of_batch] == ["file-1", "file-2", "file-3"]
    assert [file.file for file in waiting] == ["file-4"]
    assert any_database.write(partial(cancel, owner="other")) is None


def test_expired_store_loses_its_files(any_database: Database) -> None:
    create(any_database, store=NOW_STORE._replace(expires_days=1))
    add_files(any_database, "file-1")
    finish(any_database, require_claim(any_database))

    assert any_database.write(vector_stores.remove_expired) == 1

    assert any_database.write(vector_stores.remove_expired) == 0
    store = any_database.read(partial(vector_stores.find, owner="o", store_id="vs_1"))
    assert store is not None
    assert store.size == 0
    assert any_database.read(partial(files.find, owner="o", file_id="file-1")) is not None


def test_use_of_a_store_keeps_its_files(any_database: Database) -> None:
    create(any_database)
    add_files(any_database, "file-1")
    any_database.write(lambda c: c.exec_driver_sql("UPDATE files SET used = 1"))
    needs_mark_used = partial(vector_stores.needs_mark_used, owner="o", store_ids=["vs_1"])
    assert any_database.read(needs_mark_used)

    any_database.write(partial(vector_stores.mark_used, owner="o", store_ids=["vs_1"]))

    assert not any_database.read(needs_mark_used)
    used = any_database.read(lambda c: c.exec_driver_sql("SELECT used FROM files").scalar())
    assert used > time.time() - 60


def test_sizes_are_corrected_after_files_were_pruned(any_database: Database) -> None:
    create(any_database)
    add_files(any_database, "file-1")
    finish(any_database, require_claim(any_database))
    any_database.write(lambda c: c.exec_driver_sql("DELETE FROM files"))

    any_database.write(vector_stores.refresh_all_sizes)

    store = any_database.read(partial(vector_stores.find, owner="o", store_id="vs_1"))
    assert store is not None
    assert store.size == 0


def test_attributes_are_replaced_and_listed_when_a_file_is_done(any_database: Database) -> None:
    create(any_database)
    add_files(any_database, "file-1", "file-2")
    finish(any_database, require_claim(any_database))

    changed = any_database.write(
        partial(
            vector_stores.set_attributes,
            owner="o",
            store="vs_1",
            file_id="file-1",
            attributes={"year": 2024},
        )
    )

    assert changed is not None
    assert changed.attributes == {"year": 2024}
    listed = any_database.read(
        partial(vector_stores.list_attributes, owner="o", store_ids=["vs_1"])
    )
    assert listed == [("vs_1", "file-1", "file-1.txt", {"year": 2024})]


def test_files_are_added_to_one_store_at_the_same_time(
    any_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    create(any_database)
    add_files(any_database, "file-1", "file-2")
    for name in ("file-1", "file-2"):
        any_database.write(
            partial(vector_stores.remove_file, owner="o", store="vs_1", file_id=name)
        )
    both_inserted = threading.Barrier(2)
    refresh_size = vector_stores.refresh_size

    def refresh_after_both_inserts(connection: sa.Connection, owner: str, store_id: str) -> None:
        if any_database.kind == "postgresql":  # SQLite has one writer
            both_inserted.wait(5)
        refresh_size(connection, owner, store_id)

    monkeypatch.setattr(vector_stores, "refresh_size", refresh_after_both_inserts)
    with ThreadPoolExecutor() as threads:
        futures = [threads.submit(add_existing_file, any_database, f"file-{i}") for i in (1, 2)]
        for future in futures:
            future.result()


def add_existing_file(database: Database, name: str) -> None:
    file = NewStoreFile(name, {}, 800, 400)
    database.write(lambda c: vector_stores.add_files(c, "o", "vs_1", [file], 1.0))
