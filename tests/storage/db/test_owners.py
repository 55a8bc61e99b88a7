"""Moving data between owners: complete, on both databases, and under concurrency."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
import sqlalchemy as sa

from forwarder.storage.db import (
    completions,
    conversations,
    event_log_encoding,
    files,
    owners,
    responses,
    tombstones,
    vector_chunks,
    vector_stores,
)
from forwarder.storage.db.completions import StoredCompletion
from forwarder.storage.db.conversations import Conversation
from forwarder.storage.db.database import Database, PostgresqlDatabase, SqliteDatabase
from forwarder.storage.db.files import StoredFile
from forwarder.storage.db.responses import StoredResponse
from forwarder.storage.db.tables import metadata
from forwarder.storage.db.vector_chunks import NewChunk
from forwarder.storage.db.vector_stores import FileBatch, NewStoreFile, VectorStore
from tests.live.postgres import needs_postgres, run_postgres
from tests.storage.db.test_tables import OPERATOR_TABLES

TABLES = metadata.tables.keys() - {*OPERATOR_TABLES, "thoughts"}
"""The tables of clients. Cached reasoning is not moved, because it is found by another owner."""
LIST_POSITIONS = "gone"
PARENT_TABLES = {
    name for name in TABLES - {LIST_POSITIONS} if not metadata.tables[name].foreign_keys
}
"""The tables whose rows exist by themselves."""
MESSAGE = {"type": "message", "id": "msg_1", "role": "assistant", "content": "hi"}


@pytest.fixture(
    params=["sqlite", pytest.param("postgres", marks=[needs_postgres, pytest.mark.live])]
)
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    if request.param == "sqlite":
        new_database: Database = SqliteDatabase(tmp_path / "state.db")
        new_database.prepare()
        yield new_database
        new_database.close()
        return
    with run_postgres() as url:
        new_database = PostgresqlDatabase(sa.make_url(url))
        new_database.prepare()
        yield new_database
        new_database.close()


def store_rows(connection: sa.Connection, owner: str) -> None:
    """Store at least one row of every kind that a client can own."""
    conversations.create(connection, owner, Conversation("conv_1", 1.0, {}))
    conversations.append_items(connection, owner, "conv_1", [("msg_1", MESSAGE)])
    log = [event_log_encoding.pack_events([{"type": "x", "sequence_number": n}]) for n in range(2)]
    stored = StoredResponse(
        "resp_1", "completed", [], {"output": [MESSAGE]}, 1.0, conversation="conv_1"
    )
    responses.add(connection, owner, stored, log)
    responses.add(connection, owner, stored._replace(id="resp_2", previous="resp_1"), log)
    completions.add(connection, owner, StoredCompletion("chat_1", 1.0, "m", {}, [], {}))
    tombstones.add_tombstone(connection, owner, "conv_1", "msg_0", 1)
    files.reserve(connection, owner, StoredFile("file-1", 1.0, 2, "a.txt", "assistants", None), 9)
    files.add_part(connection, owner, "file-1", 0, b"hi")
    files.mark_complete(connection, owner, "file-1")
    store = VectorStore("vs_1", 1.0, 1.0, 0, "s", None, {}, None, None)
    vector_stores.create(connection, owner, store)
    vector_stores.create_batch(connection, owner, FileBatch("vsfb_1", "vs_1", 1.0, False))
    vector_stores.add_files(
        connection, owner, "vs_1", [NewStoreFile("file-1", {}, 800, 400)], 1.0, "vsfb_1"
    )
    claimed = vector_stores.claim_file(connection, "w")
    assert claimed is not None
    chunk = NewChunk("hi", ("hi",), None, None)
    assert vector_chunks.add_chunks(connection, claimed, "w", [chunk])
    vector_stores.finish_file(connection, claimed, "w", 2, None)


def count_rows(database: Database, owner: str) -> dict[str, int]:
    """Return the number of an owner's rows by table."""

    def count_all(connection: sa.Connection) -> dict[str, int]:
        counts = {}
        for name in TABLES:
            table = metadata.tables[name]
            rows = sa.select(sa.func.count()).select_from(table).where(table.c.owner == owner)
            counts[name] = connection.scalar(rows) or 0
        return counts

    return database.read(count_all)


NOTHING = dict.fromkeys(TABLES, 0)


def test_move_is_complete_and_limited_to_the_owner(database: Database) -> None:
    for owner in ("before", "other"):
        database.write(partial(store_rows, owner=owner))
    full = count_rows(database, "before")
    assert 0 not in full.values()

    assert database.write_without_timeout(lambda c: owners.move_owner(c, "before", "now"))

    assert (count_rows(database, "before"), count_rows(database, "now")) == (NOTHING, full)
    assert count_rows(database, "other") == full
    chain = database.read(lambda c: responses.read_chain(c, "now", "resp_2"))
    assert [stored.id for stored in chain] == ["resp_1", "resp_2"]
    database.write(lambda c: responses.remove(c, "now", "resp_2"))
    database.write(lambda c: conversations.remove(c, "now", "conv_1"))
    assert (
        count_rows(database, "now").items()
        >= {"conversation_items": 0, "responses": 1, "events": 2}.items()
    )


def test_owners_with_data_are_listed(database: Database) -> None:
    database.write(partial(store_rows, owner="o"))

    assert database.read(lambda c: [owners.has_rows(c, o) for o in ("o", "p")]) == [True, False]
    assert database.read(owners.list_owners) == {"o"}


@pytest.mark.parametrize("name", sorted(PARENT_TABLES))
def test_owner_with_rows_of_one_kind_is_found(database: Database, name: str) -> None:
    database.write(partial(store_rows, owner="o"))
    for other in PARENT_TABLES - {name}:
        database.write(lambda c, other=other: c.execute(sa.delete(metadata.tables[other])))

    assert database.read(lambda c: owners.has_rows(c, "o"))
    assert database.read(owners.list_owners) == {"o"}


def test_row_of_the_new_owner_wins(database: Database) -> None:
    for owner in ("before", "now"):
        database.write(partial(store_rows, owner=owner))
    full = count_rows(database, "now")
    stored = StoredResponse("resp_3", "completed", [], {"output": []}, 1.0)
    database.write(lambda c: responses.add(c, "before", stored, []))

    assert database.write_without_timeout(lambda c: owners.move_owner(c, "before", "now"))

    assert count_rows(database, "before") == NOTHING
    assert count_rows(database, "now") == {**full, "responses": full["responses"] + 1}


def test_conversations_stay_during_a_turn(database: Database) -> None:
    database.write(partial(store_rows, owner="before"))
    full = count_rows(database, "before")
    database.write(lambda c: conversations.acquire_lease(c, "before", "conv_1", "turn"))
    move = partial(owners.move_owner, old_owner="before", new_owner="now")

    assert not database.write_without_timeout(move)
    remaining = {name for name, rows in count_rows(database, "before").items() if rows}
    database.write(lambda c: conversations.release_lease(c, "before", "conv_1", "turn"))

    assert remaining == {"conversations", "conversation_items", "gone"}
    assert database.write_without_timeout(move)
    assert (count_rows(database, "before"), count_rows(database, "now")) == (NOTHING, full)


def test_concurrent_moves(database: Database) -> None:
    database.write(partial(store_rows, owner="before"))
    full = count_rows(database, "before")

    def move(connection: sa.Connection) -> bool:
        moved = owners.move_owner(connection, "before", "now")
        time.sleep(0.1)  # while other moves run
        return moved

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(database.write_without_timeout, [move] * 4))
    assert (count_rows(database, "before"), count_rows(database, "now")) == (NOTHING, full)


def test_owner_keys_are_listed_by_age_and_replaced(database: Database) -> None:
    for sealed in ("first", "second"):
        database.write(partial(owners.add_key, sealed=sealed))
    (name, _), (other, _) = database.read(owners.list_keys)

    database.write(lambda c: owners.replace_key(c, name, "renewed"))

    assert database.read(owners.list_keys) == [(name, "renewed"), (other, "second")]
