"""Stored responses: chains, items, logs."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa

from forwarder.core.types import Json
from forwarder.storage.db import event_log, responses, tables
from forwarder.storage.db.database import SqliteDatabase
from forwarder.storage.db.responses import StoredResponse

ITEM: Json = {"type": "message", "id": "msg_1", "role": "assistant", "content": []}


def kept(name: str, previous: str | None = None, **more: Any) -> StoredResponse:
    body = {"id": name, "output": [{**ITEM, "id": f"msg_{name}"}]}
    given: Json = {
        "status": "completed",
        "input": [{"role": "user", "content": name}],
        "body": body,
    }
    return StoredResponse(id=name, previous=previous, created=1.0, **{**given, **more})


def add(database: SqliteDatabase, *many: StoredResponse, owner: str = "o") -> None:
    for one in many:
        database.write(lambda c, one=one: responses.add(c, owner, one, []))  # type: ignore[misc]


def names(database: SqliteDatabase, name: str, owner: str = "o") -> list[str]:
    return [k.id for k in database.read(lambda c: responses.read_chain(c, owner, name))]


def test_a_response_comes_back_as_it_was(database: SqliteDatabase) -> None:
    one = kept("a", upstream="u", upstream_id="x", conversation="c", before=5)
    add(database, one)

    found = database.read(lambda c: responses.find(c, "o", "a"))
    assert found == one._replace(used=1.0, body={**one.body, "status": "completed"})
    assert database.read(lambda c: responses.find(c, "p", "a")) is None


def test_a_chain_is_oldest_first_and_its_owner_s(database: SqliteDatabase) -> None:
    add(database, kept("a"), kept("b", "a"), kept("c", "b"), kept("d", "b"), kept("e", "lost"))
    add(database, kept("b"), owner="p")

    assert names(database, "c") == ["a", "b", "c"]
    assert names(database, "d") == ["a", "b", "d"]
    assert names(database, "e") == ["e"]
    assert names(database, "none") == []
    assert names(database, "b", "p") == ["b"]
    assert names(database, "c", "p") == []


def test_a_chain_that_bites_its_tail_ends(database: SqliteDatabase, monkeypatch: Any) -> None:
    monkeypatch.setattr(responses, "MAX_CHAIN_LENGTH", 10)
    add(database, kept("a", "a"))

    assert len(names(database, "a")) == 11


def test_the_same_id_once_more_takes_the_place_of_the_first(database: SqliteDatabase) -> None:
    add(database, kept("a"), kept("a", status="incomplete"))

    found = database.read(lambda c: responses.find(c, "o", "a"))
    assert found is not None
    assert found.status == found.body["status"] == "incomplete"


def test_what_others_stand_on_is_deleted_with_them(database: SqliteDatabase) -> None:
    add(database, kept("a"), kept("b", "a"), kept("c", "b"))

    assert database.write(lambda c: responses.remove(c, "o", "b"))
    assert not database.write(lambda c: responses.remove(c, "o", "b"))
    assert names(database, "b") == []
    assert names(database, "c") == ["a", "b", "c"]
    assert database.read(lambda c: responses.find_items_by_id(c, "o", ["msg_b"])) == {}
    assert database.write(lambda c: responses.remove(c, "o", "c"))
    assert names(database, "a") == ["a"]
    count = database.read(lambda c: len(c.execute(responses.responses.select()).all()))
    assert count == 1


def test_items_are_found_where_they_were_given_last(database: SqliteDatabase) -> None:
    other = {**ITEM, "content": ["new"]}
    add(database, kept("a", body={"output": [ITEM]}), kept("b", body={"output": [other, {}]}))

    found = database.read(lambda c: responses.find_items_by_id(c, "o", ["msg_1", "msg_2"]))
    assert found == {"msg_1": other}
    assert database.read(lambda c: responses.find_items_by_id(c, "p", ["msg_1"])) == {}


def test_items_that_were_asked_with_are_found_unless_a_response_gave_them(
    database: SqliteDatabase,
) -> None:
    own = {"role": "user", "id": "mine", "content": "x"}
    given = [own, {**ITEM, "content": ["as sent back"]}, {"type": "item_reference", "id": "r"}]
    add(database, kept("a", body={"output": [ITEM]}), kept("b", "a")._replace(input=given))

    found = database.read(lambda c: responses.find_items_by_id(c, "o", ["mine", "msg_1", "r"]))
    assert found == {"mine": own, "msg_1": ITEM}


EVENTS: list[Json] = [{"type": "x", "delta": str(i), "sequence_number": i} for i in range(5)]


@pytest.mark.parametrize("cut", [0, 3])
@pytest.mark.parametrize("after", [-1, 0, 2, 3, 9])
def test_a_log_is_read_from_any_number_on(database: SqliteDatabase, after: int, cut: int) -> None:
    one = kept("a")
    pieces = [event_log.pack_events(part) for part in (EVENTS[:cut], EVENTS[cut:]) if part]
    database.write(lambda c: responses.add(c, "o", one, pieces))

    found = database.read(lambda c: responses.read_events_after(c, "o", one, after))
    assert found == [e for e in EVENTS if e["sequence_number"] > after]


@pytest.mark.parametrize(
    ("status", "cut", "told"), [("completed", 3, 5), ("completed", 0, 0), ("queued", 0, 5)]
)
def test_older_workers_find_all_of_a_log_or_nothing(
    database: SqliteDatabase, status: str, cut: int, told: int
) -> None:
    """They know nothing of the one place where a log of one piece may be, and then make one up."""
    pieces = [event_log.pack_events(part) for part in (EVENTS[:cut], EVENTS[cut:]) if part]
    database.write(lambda c: responses.add(c, "o", kept("a", status=status), pieces))

    found = database.read(lambda c: list(c.scalars(sa.select(tables.events.c.data))))
    assert sum(len(list(event_log.unpack_events(data, {}))) for data in found) == told


def test_a_use_is_noted(database: SqliteDatabase) -> None:
    add(database, kept("a"))
    stale = database.read(lambda c: responses.find(c, "o", "a"))
    assert stale is not None
    assert responses.is_stale(stale)

    database.write(lambda c: responses.touch(c, "o", ["a"]))
    fresh = database.read(lambda c: responses.find(c, "o", "a"))
    assert fresh is not None
    assert not responses.is_stale(fresh)


def test_a_response_whose_id_is_given_once_more_takes_the_place_of_the_first(
    database: SqliteDatabase,
) -> None:
    item = {"type": "message", "id": "msg_1"}
    for text in ("first", "second"):
        kept = StoredResponse("twice", "completed", [], {"text": text, "output": [item]}, 1.0)
        event = {"type": "x", "text": text, "sequence_number": 0}
        database.write(
            lambda c, k=kept, e=event: responses.add(c, "o", k, [event_log.pack_events([e])])
        )  # type: ignore[misc]

    found = database.read(lambda c: responses.find(c, "o", "twice"))
    assert found is not None
    assert found.body["text"] == "second"
    heard = database.read(lambda c: responses.read_events_after(c, "o", found, -1))
    assert [event["text"] for event in heard] == ["second"]
    assert database.read(lambda c: responses.find_items_by_id(c, "o", ["msg_1"])) == {"msg_1": item}
