"""Stored responses: chains, items, event logs."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa

from forwarder.core.stored_data_limit import StoredDataLimit
from forwarder.core.types import Json
from forwarder.storage.db import event_log_encoding, responses, tables
from forwarder.storage.db.database import SqliteDatabase
from forwarder.storage.db.responses import StoredResponse

ITEM: Json = {"type": "message", "id": "msg_1", "role": "assistant", "content": []}


def make_response(name: str, previous: str | None = None, **more: Any) -> StoredResponse:
    body = {"id": name, "output": [{**ITEM, "id": f"msg_{name}"}]}
    fields: Json = {
        "status": "completed",
        "input": [{"role": "user", "content": name}],
        "body": body,
    }
    return StoredResponse(id=name, previous=previous, created=1.0, **{**fields, **more})


def add_responses(
    database: SqliteDatabase, *stored_responses: StoredResponse, owner: str = "o"
) -> None:
    for stored in stored_responses:
        database.write(lambda c, one=stored: responses.add(c, owner, one, []))  # type: ignore[misc]


def list_chain(database: SqliteDatabase, name: str, owner: str = "o") -> list[str]:
    return [k.id for k in database.read(lambda c: responses.read_chain(c, owner, name))]


def test_response_round_trip(database: SqliteDatabase) -> None:
    one = make_response("a", upstream="u", upstream_id="x", conversation="c", before=5)
    add_responses(database, one)

    stored = database.read(lambda c: responses.find(c, "o", "a"))
    assert stored == one._replace(used=1.0, body={**one.body, "status": "completed"})
    assert database.read(lambda c: responses.find(c, "p", "a")) is None


def test_chain_is_ordered_and_limited_to_its_owner(database: SqliteDatabase) -> None:
    add_responses(
        database,
        make_response("a"),
        make_response("b", "a"),
        make_response("c", "b"),
        make_response("d", "b"),
        make_response("e", "lost"),
    )
    add_responses(database, make_response("b"), owner="p")

    assert list_chain(database, "c") == ["a", "b", "c"]
    assert list_chain(database, "d") == ["a", "b", "d"]
    assert list_chain(database, "e") == ["e"]
    assert list_chain(database, "none") == []
    assert list_chain(database, "b", "p") == ["b"]
    assert list_chain(database, "c", "p") == []


def test_cyclic_chain_ends(database: SqliteDatabase, monkeypatch: Any) -> None:
    monkeypatch.setattr(responses, "MAX_CHAIN_LENGTH", 10)
    add_responses(database, make_response("a", "a"))

    assert len(list_chain(database, "a")) == 11


def test_response_with_the_same_id_is_replaced(database: SqliteDatabase) -> None:
    add_responses(database, make_response("a"), make_response("a", status="incomplete"))

    stored = database.read(lambda c: responses.find(c, "o", "a"))
    assert stored is not None
    assert stored.status == stored.body["status"] == "incomplete"


def test_continued_response_is_hidden_until_its_successors_are_deleted(
    database: SqliteDatabase,
) -> None:
    add_responses(database, make_response("a"), make_response("b", "a"), make_response("c", "b"))

    assert database.write(lambda c: responses.remove(c, "o", "b"))
    assert not database.write(lambda c: responses.remove(c, "o", "b"))
    assert list_chain(database, "b") == []
    assert list_chain(database, "c") == ["a", "b", "c"]
    assert (
        database.read(lambda c: responses.find_items_by_id(c, "o", ["msg_b"], StoredDataLimit()))
        == {}
    )
    assert database.write(lambda c: responses.remove(c, "o", "c"))
    assert list_chain(database, "a") == ["a"]
    count = database.read(lambda c: len(c.execute(responses.responses.select()).all()))
    assert count == 1


def test_item_is_found_in_its_latest_response(database: SqliteDatabase) -> None:
    other = {**ITEM, "content": ["new"]}
    add_responses(
        database,
        make_response("a", body={"output": [ITEM]}),
        make_response("b", body={"output": [other, {}]}),
    )

    stored = database.read(
        lambda c: responses.find_items_by_id(c, "o", ["msg_1", "msg_2"], StoredDataLimit())
    )
    assert stored == {"msg_1": other}
    assert (
        database.read(lambda c: responses.find_items_by_id(c, "p", ["msg_1"], StoredDataLimit()))
        == {}
    )


def test_input_item_is_found_unless_an_output_has_its_id(
    database: SqliteDatabase,
) -> None:
    message = {"role": "user", "id": "mine", "content": "x"}
    fields = [message, {**ITEM, "content": ["as sent back"]}, {"type": "item_reference", "id": "r"}]
    add_responses(
        database,
        make_response("a", body={"output": [ITEM]}),
        make_response("b", "a")._replace(input=fields),
    )

    stored = database.read(
        lambda c: responses.find_items_by_id(c, "o", ["mine", "msg_1", "r"], StoredDataLimit())
    )
    assert stored == {"mine": message, "msg_1": ITEM}


EVENTS: list[Json] = [{"type": "x", "delta": str(i), "sequence_number": i} for i in range(5)]


@pytest.mark.parametrize("cut", [0, 3])
@pytest.mark.parametrize("after", [-1, 0, 2, 3, 9])
def test_event_log_is_read_from_any_number(database: SqliteDatabase, after: int, cut: int) -> None:
    one = make_response("a")
    pieces = [event_log_encoding.pack_events(part) for part in (EVENTS[:cut], EVENTS[cut:]) if part]
    database.write(lambda c: responses.add(c, "o", one, pieces))

    stored = database.read(lambda c: responses.read_events_after(c, "o", one, after))
    assert stored == [e for e in EVENTS if e["sequence_number"] > after]


@pytest.mark.parametrize(
    ("status", "cut", "event_count"), [("completed", 3, 5), ("completed", 0, 0), ("queued", 0, 5)]
)
def test_older_workers_find_either_a_complete_log_or_no_log(
    database: SqliteDatabase, status: str, cut: int, event_count: int
) -> None:
    """Older versions ignore the ``log`` column and synthesize events instead."""
    pieces = [event_log_encoding.pack_events(part) for part in (EVENTS[:cut], EVENTS[cut:]) if part]
    database.write(lambda c: responses.add(c, "o", make_response("a", status=status), pieces))

    stored = database.read(lambda c: list(c.scalars(sa.select(tables.events.c.data))))
    assert (
        sum(len(list(event_log_encoding.unpack_events(data, {}))) for data in stored) == event_count
    )


def test_use_is_recorded(database: SqliteDatabase) -> None:
    add_responses(database, make_response("a"))
    stale = database.read(lambda c: responses.find(c, "o", "a"))
    assert stale is not None
    assert responses.is_stale(stale)

    database.write(lambda c: responses.touch(c, "o", ["a"]))
    fresh = database.read(lambda c: responses.find(c, "o", "a"))
    assert fresh is not None
    assert not responses.is_stale(fresh)


def test_reused_id_replaces_response_and_log(
    database: SqliteDatabase,
) -> None:
    item = {"type": "message", "id": "msg_1"}
    for text in ("first", "second"):
        stored = StoredResponse("twice", "completed", [], {"text": text, "output": [item]}, 1.0)
        event = {"type": "x", "text": text, "sequence_number": 0}
        database.write(
            lambda c, k=stored, e=event: responses.add(
                c, "o", k, [event_log_encoding.pack_events([e])]
            )
        )  # type: ignore[misc]

    stored = database.read(lambda c: responses.find(c, "o", "twice"))
    assert stored is not None
    assert stored.body["text"] == "second"
    log = database.read(lambda c: responses.read_events_after(c, "o", stored, -1))
    assert [event["text"] for event in log] == ["second"]
    assert database.read(
        lambda c: responses.find_items_by_id(c, "o", ["msg_1"], StoredDataLimit())
    ) == {"msg_1": item}
