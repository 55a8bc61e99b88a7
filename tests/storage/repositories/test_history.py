"""Items of the history: found by every id that the API returns, and listed as input."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa

from forwarder.core.body_memory import BodyMemory, BodyReservation
from forwarder.core.errors import TooLarge
from forwarder.core.stored_data_limit import RequestLimits, StoredDataLimit
from forwarder.core.types import Json
from forwarder.storage.db import conversations, responses
from forwarder.storage.db.conversations import Conversation
from forwarder.storage.db.database import SqliteDatabase
from forwarder.storage.db.responses import StoredResponse
from forwarder.storage.items import derive_id
from forwarder.storage.repositories.history import HistoryRepository, find_items

QUESTION: Json = {"role": "user", "content": "one"}
MESSAGE_WITH_ID: Json = {"id": "mine", "role": "user", "content": "two"}
ANSWER: Json = {"type": "message", "role": "assistant", "id": "msg_1", "content": "three"}
LATER_MESSAGE: Json = {"role": "user", "content": "four"}
NAME = "resp_" + "a" * 32


@pytest.fixture(autouse=True)
def _store_responses(database: SqliteDatabase) -> None:
    first = StoredResponse(
        NAME, "completed", [QUESTION, MESSAGE_WITH_ID], {"output": [ANSWER]}, 1.0
    )
    second = StoredResponse(
        "7-b", "completed", [ANSWER, LATER_MESSAGE], {"output": []}, 2.0, previous=NAME
    )
    conversation_items = [("msg_t", QUESTION), ("ref", {"type": "item_reference", "id": "ref"})]

    def write(connection: Any) -> None:
        for stored in (first, second):
            responses.add(connection, "o", stored, [])
        conversations.create(connection, "o", Conversation("conv_1", 1.0, {}))
        conversations.append_items(connection, "o", "conv_1", conversation_items)

    database.write(write)


def find_by_id(database: SqliteDatabase, *names: str, owner: str = "o") -> dict[str, Json]:
    return database.read(lambda c: find_items(c, owner, list(names), StoredDataLimit()))


def list_input_items(database: SqliteDatabase, name: str) -> list[Json]:
    listed = HistoryRepository(database).list_input_items("o", name)
    assert listed is not None
    return listed


def test_listed_input_item_is_found(database: SqliteDatabase) -> None:
    for name, count in ((NAME, 2), ("7-b", 5)):
        listed = list_input_items(database, name)
        found_items = find_by_id(database, *(item["id"] for item in listed))
        assert [found_items[item["id"]] for item in listed] == [
            QUESTION,
            MESSAGE_WITH_ID,
            ANSWER,
            ANSWER,
            LATER_MESSAGE,
        ][:count]
        assert find_by_id(database, *found_items, owner="p") == {}


def test_item_has_the_same_id_in_all_lists(database: SqliteDatabase) -> None:
    first, later = (list_input_items(database, name) for name in (NAME, "7-b"))
    assert later[:2] == first


def test_missing_response_has_no_input(database: SqliteDatabase) -> None:
    assert HistoryRepository(database).list_input_items("o", "resp_x") is None
    assert HistoryRepository(database).list_input_items("p", NAME) is None


def test_use_is_recorded_once_a_day(database: SqliteDatabase) -> None:
    history = HistoryRepository(database)
    database.write(lambda c: c.execute(sa.text("UPDATE responses SET used = 5")))

    def read_turns() -> list[StoredResponse]:
        return database.read(lambda c: responses.read_chain(c, "o", "7-b"))

    history.note_use("o", read_turns())
    before = [turn.used for turn in read_turns()]
    assert min(before) > 5
    history.note_use("o", read_turns())
    assert [turn.used for turn in read_turns()] == before


def test_use_is_not_recorded_while_the_database_is_full(
    database: SqliteDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    history = HistoryRepository(database)
    database.write(lambda c: c.execute(sa.text("UPDATE responses SET used = 5")))
    turns = database.read(lambda c: responses.read_chain(c, "o", "7-b"))

    monkeypatch.setattr(database.write_breaker, "error", "disk is full")
    history.note_use("o", turns)

    assert database.read(lambda c: responses.read_chain(c, "o", "7-b")) == turns


def test_conversation_item_is_found(database: SqliteDatabase) -> None:
    assert find_by_id(database, "msg_t", "msg_1") == {"msg_t": QUESTION, "msg_1": ANSWER}
    assert find_by_id(database, "msg_t", owner="p") == {}


def test_reference_is_not_found_as_an_item(database: SqliteDatabase) -> None:
    missing_index = derive_id(QUESTION, NAME, 99)
    assert find_by_id(database, "ref", missing_index, "msg_x-0", "nothing") == {}


def count_statements(database: SqliteDatabase, *names: str) -> int:
    """Return the number of SQL statements needed to find these items."""
    statements: list[str] = []

    def find_with_listener(connection: Any) -> None:
        def note(*args: Any) -> None:
            statements.append(args[2])

        sa.event.listen(connection, "before_cursor_execute", note)
        try:
            find_items(connection, "o", list(names), StoredDataLimit())
        finally:
            sa.event.remove(connection, "before_cursor_execute", note)

    database.read(find_with_listener)
    return len(statements)


def test_response_is_loaded_once_for_all_references_to_it(database: SqliteDatabase) -> None:
    all_of_it = [derive_id(QUESTION, NAME, index) for index in range(1000)]
    assert count_statements(database, *all_of_it) <= 4  # the index, conversations, input, output
    assert count_statements(database, *all_of_it[:1] * 1000) <= 3
    assert find_by_id(database, *all_of_it[:3] * 2) == dict(
        zip(all_of_it, [QUESTION, MESSAGE_WITH_ID, ANSWER], strict=False)
    )


def test_queries_for_many_responses_are_a_fraction_of_the_references(
    database: SqliteDatabase,
) -> None:
    references = [derive_id(QUESTION, f"resp_{i}", 0) for i in range(1000)]
    assert count_statements(database, *references) <= 1000 / 5


def add_large_responses(database: SqliteDatabase, count: int) -> None:
    """Store responses with 100 KB of input and an output item of a few bytes each."""

    def write(connection: Any) -> None:
        for i in range(count):
            large = [
                {"role": "user", "content": "x" * 100_000},
                {**MESSAGE_WITH_ID, "id": f"in_{i}"},
            ]
            output = {"output": [{**ANSWER, "id": f"out_{i}"}]}
            stored = StoredResponse(f"resp_{i}", "completed", large, output, 3.0)
            responses.add(connection, "o", stored, [])

    database.write(write)


def test_inputs_are_loaded_only_for_items_that_are_in_them(database: SqliteDatabase) -> None:
    add_large_responses(database, 20)
    limit = StoredDataLimit(RequestLimits(max_bytes=50_000))  # half of one input
    names = [f"out_{i}" for i in range(20)]
    assert database.read(lambda c: find_items(c, "o", names, limit)).keys() == set(names)


@pytest.mark.parametrize("name", ["in_{}", "msg_{}-1", "msg_{}-2"])
def test_responses_that_are_searched_for_items_have_a_limit(
    name: str, database: SqliteDatabase
) -> None:
    add_large_responses(database, 20)
    memory = BodyMemory(10**9)
    reservation = BodyReservation(memory)

    def find(count: int) -> dict[str, Json]:
        limit = StoredDataLimit(RequestLimits(max_bytes=200_000), "input", memory=reservation)
        names = [name.format(i) for i in range(count)]
        return database.read(lambda c: find_items(c, "o", names, limit))

    assert len(find(7)) == 7
    assert memory.used < 7 * 1000  # only found items
    with pytest.raises(TooLarge, match="4 times FORWARDER_MAX_BODY") as refused:
        find(20)
    assert refused.value.param == "input"
