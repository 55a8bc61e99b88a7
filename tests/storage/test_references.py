"""Items are found by every id that a client was told."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa

from forwarder.core.types import Json
from forwarder.storage import references
from forwarder.storage.db import conversations, responses
from forwarder.storage.db.conversations import Talk
from forwarder.storage.db.database import Sqlite
from forwarder.storage.db.responses import Kept
from forwarder.storage.items import derived_id
from forwarder.storage.resume import input_of

ASKED: Json = {"role": "user", "content": "one"}
NAMED: Json = {"id": "mine", "role": "user", "content": "two"}
SAID: Json = {"type": "message", "role": "assistant", "id": "msg_1", "content": "three"}
LATER: Json = {"role": "user", "content": "four"}
NAME = "resp_" + "a" * 32


@pytest.fixture(autouse=True)
def _stored(database: Sqlite) -> None:
    first = Kept(NAME, "completed", [ASKED, NAMED], {"output": [SAID]}, 1.0)
    theirs = Kept("7-b", "completed", [SAID, LATER], {"output": []}, 2.0, previous=NAME)
    talk = [("msg_t", ASKED), ("ref", {"type": "item_reference", "id": "ref"})]

    def write(connection: Any) -> None:
        for kept in (first, theirs):
            responses.add(connection, "o", kept, [])
        conversations.create(connection, "o", Talk("conv_1", 1.0, {}))
        conversations.append(connection, "o", "conv_1", talk)

    database.write(write)


def found(database: Sqlite, *names: str, owner: str = "o") -> dict[str, Json]:
    return database.read(lambda c: references.found(c, owner, list(names)))


def test_whatever_a_list_of_input_names_is_found(database: Sqlite) -> None:
    for name, count in ((NAME, 2), ("7-b", 5)):
        listed = database.read(lambda c, name=name: input_of(c, "o", name))  # type: ignore[misc]
        there = found(database, *(item["id"] for item in listed))
        assert [there[item["id"]] for item in listed] == [ASKED, NAMED, SAID, SAID, LATER][:count]
        assert found(database, *there, owner="p") == {}


def test_an_item_has_one_id_wherever_it_is_listed(database: Sqlite) -> None:
    first, later = (
        database.read(lambda c, name=name: input_of(c, "o", name))  # type: ignore[misc]
        for name in (NAME, "7-b")
    )
    assert later[:2] == first


def test_items_of_conversations_are_found(database: Sqlite) -> None:
    assert found(database, "msg_t", "msg_1") == {"msg_t": ASKED, "msg_1": SAID}
    assert found(database, "msg_t", owner="p") == {}


def test_what_only_stands_for_another_is_not(database: Sqlite) -> None:
    beyond = derived_id(ASKED, NAME, 99)
    assert found(database, "ref", beyond, "msg_x-0", "nothing") == {}


def test_only_references_are_taken_for_some() -> None:
    given = [{"type": "item_reference", "id": "a"}, {"id": "b"}, NAMED, {"id": 5}, 5,
             {"type": "item_reference"}]  # fmt: skip
    assert references.wanted(given) == ["a", "b"]
    assert references.wanted("text") == []
    assert references.resolved(given, {"a": SAID})[:2] == [SAID, {"id": "b"}]


def count_statements(database: Sqlite, *names: str) -> int:
    """How many statements it takes to find these."""
    statements: list[str] = []

    def read(connection: Any) -> None:
        def note(*args: Any) -> None:
            statements.append(args[2])

        sa.event.listen(connection, "before_cursor_execute", note)
        try:
            references.found(connection, "o", list(names))
        finally:
            sa.event.remove(connection, "before_cursor_execute", note)

    database.read(read)
    return len(statements)


def test_response_is_loaded_once_for_all_references_to_it(database: Sqlite) -> None:
    all_of_it = [derived_id(ASKED, NAME, place) for place in range(1000)]
    assert count_statements(database, *all_of_it) <= count_statements(database, *all_of_it[:1])
    assert count_statements(database, *all_of_it[:1] * 1000) <= 3
    assert found(database, *all_of_it[:3] * 2) == dict(
        zip(all_of_it, [ASKED, NAMED, SAID], strict=False)
    )


def test_queries_for_many_responses_are_a_fraction_of_the_references(database: Sqlite) -> None:
    beyond = [derived_id(ASKED, f"resp_{i}", 0) for i in range(1000)]
    assert count_statements(database, *beyond) <= 1000 / 5
