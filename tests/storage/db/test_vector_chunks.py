"""Passages of vector stores: full text and vectors, on both databases."""

from __future__ import annotations

import time
from functools import partial

import pytest

from forwarder.storage.db import files, vector_chunks, vector_stores
from forwarder.storage.db.database import Database
from forwarder.storage.db.files import StoredFile
from forwarder.storage.db.vector_chunks import NewChunk
from forwarder.storage.db.vector_stores import NewStoreFile, VectorStore

STORE, OTHER_STORE = "vs_00aa", "vs_00bb"
TEXTS = {
    "file-1": ["the refund policy of the shop", "opening hours of the shop"],
    "file-2": ["refunds are paid within thirty days, a refund takes longer on holidays"],
}


def add_files(database: Database, store: str, owner: str = "o") -> None:
    row = VectorStore(store, 1.0, 1.0, 0, "s", None, {}, None, None)
    database.write(partial(vector_stores.create, owner=owner, store=row))
    for name, texts in TEXTS.items():
        file = StoredFile(name, time.time(), 4, f"{name}.txt", "assistants", None)
        if database.read(partial(files.find, owner=owner, file_id=name)) is None:
            database.write(partial(files.reserve, owner=owner, file=file, max_bytes=1000))
            database.write(partial(files.mark_complete, owner=owner, file_id=name))
        new_files = [NewStoreFile(name, {}, 800, 400)]
        database.write(
            partial(
                vector_stores.add_files, owner=owner, store=store, new_files=new_files, created=1.0
            )
        )
        claimed = database.write(partial(vector_stores.claim_file, worker="w"))
        assert claimed is not None
        new_chunks = [NewChunk(text, text.split(), b"vector", b"bits") for text in texts]
        add = partial(vector_chunks.add_chunks, claimed=claimed, worker="w", new_chunks=new_chunks)
        assert database.write(add)
        finish = partial(vector_stores.finish_file, claimed=claimed, worker="w", size=1, error=None)
        database.write(finish)


def find(
    database: Database, *words: str, store: str = STORE, file_ids: list[str] | None = None
) -> list[str]:
    """Return the texts that are found by words."""
    numbers = database.read(
        partial(
            vector_chunks.find_words,
            owner="o",
            store=store,
            words=words,
            file_ids=file_ids,
            limit=10,
        )
    )
    texts = database.read(partial(vector_chunks.read_texts, owner="o", numbers=numbers))
    return [texts[number].text for number in numbers]


@pytest.fixture
def filled_database(any_database: Database) -> Database:
    add_files(any_database, STORE)
    add_files(any_database, OTHER_STORE)
    return any_database


def test_words_are_found_in_their_forms(filled_database: Database) -> None:
    assert set(find(filled_database, "refund")) == {TEXTS["file-1"][0], TEXTS["file-2"][0]}
    assert find(filled_database, "hour") == [TEXTS["file-1"][1]]
    assert find(filled_database, "nothing") == []
    assert find(filled_database, "refund", store="vs_none") == []


def test_passage_with_more_words_comes_first(filled_database: Database) -> None:
    assert find(filled_database, "refund", "thirty", "holidays")[0] == TEXTS["file-2"][0]


def test_words_are_found_in_the_given_files(filled_database: Database) -> None:
    assert find(filled_database, "refund", file_ids=["file-2"]) == [TEXTS["file-2"][0]]
    assert find(filled_database, "refund", file_ids=[]) == []


@pytest.mark.parametrize("word", ["or", "and", "near", "not"])
def test_words_are_not_read_as_operators(filled_database: Database, word: str) -> None:
    assert len(find(filled_database, "refund", word.upper(), word)) == 2


def test_another_owner_finds_no_passages(filled_database: Database) -> None:
    read = partial(
        vector_chunks.find_words, owner="x", store=STORE, words=["refund"], file_ids=None, limit=9
    )
    assert filled_database.read(read) == []
    assert (
        filled_database.read(
            partial(vector_chunks.scan_bits, owner="x", store=STORE, after=0, limit=9)
        )
        == []
    )


def test_scan_returns_passages_in_pages(filled_database: Database) -> None:
    scan = partial(vector_chunks.scan_bits, owner="o", store=STORE)

    first = filled_database.read(partial(scan, after=0, limit=2))
    second = filled_database.read(partial(scan, after=first[-1].number, limit=2))

    assert [chunk.file for chunk in [*first, *second]] == ["file-1", "file-1", "file-2"]
    assert {bytes(chunk.bits) for chunk in first} == {b"bits"}
    numbers = [chunk.number for chunk in first]
    vectors = filled_database.read(partial(vector_chunks.read_vectors, owner="o", numbers=numbers))
    assert sorted(vectors) == [(number, b"vector") for number in numbers]
    assert (
        filled_database.read(partial(vector_chunks.read_vectors, owner="x", numbers=numbers)) == []
    )


def test_scan_reads_only_an_index_in_sqlite(filled_database: Database) -> None:
    if filled_database.kind != "sqlite":
        pytest.skip("the plan of SQLite")
    plan = filled_database.read(
        lambda c: c.exec_driver_sql(
            "EXPLAIN QUERY PLAN SELECT number, file, bits FROM vector_store_chunks"
            " WHERE owner = 'o' AND store = 's' AND number > 1 ORDER BY number LIMIT 9"
        ).all()
    )
    assert "COVERING INDEX vector_store_chunks_by_store" in str(plan)


def test_removed_passages_leave_the_full_text_index(filled_database: Database) -> None:
    filled_database.write(partial(files.remove, owner="o", file_id="file-2"))
    assert find(filled_database, "refund") == [TEXTS["file-1"][0]]
    filled_database.write(partial(vector_stores.remove, owner="o", store_id=STORE))
    assert find(filled_database, "refund") == []
    assert find(filled_database, "refund", store=OTHER_STORE) == [TEXTS["file-1"][0]]
    if filled_database.kind == "sqlite":
        count = filled_database.read(
            lambda c: c.exec_driver_sql("SELECT count(*) FROM vector_store_words").scalar()
        )
        assert count == 2


def test_size_of_a_passage_is_that_of_its_text_and_vector() -> None:
    assert NewChunk("ä", (), b"1234", b"1").size == 6
    assert NewChunk("a", (), None, None).size == 1
