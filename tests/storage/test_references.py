"""Item references: resolution by every id that the API returns."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa

from forwarder.core.types import Json
from forwarder.storage import references
from forwarder.storage.db import conversations, responses
from forwarder.storage.db.conversations import Conversation
from forwarder.storage.db.database import SqliteDatabase
from forwarder.storage.db.responses import StoredResponse
from forwarder.storage.items import derive_id
from forwarder.storage.resume import read_response_input

ASKED: Json = {"role": "user", "content": "one"}
NAMED: Json = {"id": "mine", "role": "user", "content": "two"}
SAID: Json = {"type": "message", "role": "assistant", "id": "msg_1", "content": "three"}
LATER: Json = {"role": "user", "content": "four"}
NAME = "resp_" + "a" * 32


@pytest.fixture(autouse=True)
def _stored(database: SqliteDatabase) -> None:
    first = StoredResponse(NAME, "completed", [ASKED, NAMED], {"output": [SAID]}, 1.0)
    theirs = StoredResponse("7-b", "completed", [SAID, LATER], {"output": []}, 2.0, previous=NAME)
    talk = [("msg_t", ASKED), ("ref", {"type": "item_reference", "id": "ref"})]

    def write(connection: Any) -> None:
        for stored in (first, theirs):
            responses.add(connection, "o", stored, [])
        conversations.create(connection, "o", Conversation("conv_1", 1.0, {}))
        conversations.append_items(connection, "o", "conv_1", talk)

    database.write(write)


def found(database: SqliteDatabase, *names: str, owner: str = "o") -> dict[str, Json]:
    return database.read(lambda c: references.find_items(c, owner, list(names)))


def test_listed_input_item_is_found(database: SqliteDatabase) -> None:
    for name, count in ((NAME, 2), ("7-b", 5)):
        listed = database.read(lambda c, name=name: read_response_input(c, "o", name))  # type: ignore[misc]
        found_items = found(database, *(item["id"] for item in listed))
        assert [found_items[item["id"]] for item in listed] == [ASKED, NAMED, SAID, SAID, LATER][
            :count
        ]
        assert found(database, *found_items, owner="p") == {}


def test_item_has_the_same_id_in_all_lists(database: SqliteDatabase) -> None:
    first, later = (
        database.read(lambda c, name=name: read_response_input(c, "o", name))  # type: ignore[misc]
        for name in (NAME, "7-b")
    )
    assert later[:2] == first


def test_conversation_item_is_found(database: SqliteDatabase) -> None:
    assert found(database, "msg_t", "msg_1") == {"msg_t": ASKED, "msg_1": SAID}
    assert found(database, "msg_t", owner="p") == {}


def test_reference_is_not_found_as_an_item(database: SqliteDatabase) -> None:
    beyond = derive_id(ASKED, NAME, 99)
    assert found(database, "ref", beyond, "msg_x-0", "nothing") == {}


def test_reference_detection() -> None:
    items = [{"type": "item_reference", "id": "a"}, {"id": "b"}, NAMED, {"id": 5}, 5,
             {"type": "item_reference"}]  # fmt: skip
    assert references.list_references(items) == ["a", "b"]
    assert references.list_references("text") == []
    assert references.replace_references(items, {"a": SAID})[:2] == [SAID, {"id": "b"}]


def count_statements(database: SqliteDatabase, *names: str) -> int:
    """Return the number of SQL statements needed to find these items."""
    statements: list[str] = []

    def read(connection: Any) -> None:
        def note(*args: Any) -> None:
            statements.append(args[2])

        sa.event.listen(connection, "before_cursor_execute", note)
        try:
            references.find_items(connection, "o", list(names))
        finally:
            sa.event.remove(connection, "before_cursor_execute", note)

    database.read(read)
    return len(statements)


def test_response_is_loaded_once_for_all_references_to_it(database: SqliteDatabase) -> None:
    all_of_it = [derive_id(ASKED, NAME, place) for place in range(1000)]
    assert count_statements(database, *all_of_it) <= count_statements(database, *all_of_it[:1])
    assert count_statements(database, *all_of_it[:1] * 1000) <= 3
    assert found(database, *all_of_it[:3] * 2) == dict(
        zip(all_of_it, [ASKED, NAMED, SAID], strict=False)
    )


def test_queries_for_many_responses_are_a_fraction_of_the_references(
    database: SqliteDatabase,
) -> None:
    beyond = [derive_id(ASKED, f"resp_{i}", 0) for i in range(1000)]
    assert count_statements(database, *beyond) <= 1000 / 5
