"""Answers are stored before the event that says they are over."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from forwarder.core.errors import (
    ConversationLocked,
    InvalidRequest,
    StoreUnavailable,
    UpstreamProtocolError,
)
from forwarder.core.types import Batch, Json
from forwarder.storage import references
from forwarder.storage.conversation_lock import ConversationLocks
from forwarder.storage.db import conversations, responses
from forwarder.storage.db.conversations import Conversation
from forwarder.storage.db.database import SqliteDatabase
from forwarder.storage.db.ids import is_valid_id
from forwarder.storage.db.responses import StoredResponse
from forwarder.storage.response_recorder import ResponseRecorder
from forwarder.storage.resume import read_response_input

ITEM: Json = {"type": "message", "id": "msg_1", "role": "assistant", "content": []}
NAME = "resp_" + "0" * 32


def answer(name: str = NAME, deltas: int = 2, status: str = "completed") -> list[Batch]:
    begun = {"id": name, "status": "in_progress", "output": []}
    over = {"id": name, "status": status, "output": [ITEM]}
    events: Batch = [
        {"type": "response.created", "response": begun},
        *({"type": "response.output_text.delta", "delta": "x"} for _ in range(deltas)),
        {"type": f"response.{status}", "response": over},
    ]
    return [[{**event, "sequence_number": i}] for i, event in enumerate(events)]


def keeper(database: SqliteDatabase, origin: str | None = None, **request: Any) -> ResponseRecorder:
    return ResponseRecorder(database, "o", {"model": "m", "input": "hi", **request}, lambda: origin)


def found(database: SqliteDatabase, name: str = NAME) -> StoredResponse | None:
    return database.read(lambda c: responses.find(c, "o", name))


@pytest.mark.parametrize("status", ["completed", "incomplete", "failed"])
def test_who_hears_the_end_finds_it_stored(database: SqliteDatabase, status: str) -> None:
    for batch in keeper(database).record(iter(answer(status=status))):
        kept = found(database)
        assert (kept is not None) == (batch[-1]["type"] == f"response.{status}")

    assert kept is not None
    assert kept.body == batch[-1]["response"]
    assert (kept.status, kept.input[0]["content"]) == (status, "hi")


@pytest.mark.parametrize("at_once", [1, 3, 512])
def test_a_stream_is_logged_as_it_was_heard(
    database: SqliteDatabase, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("forwarder.storage.response_recorder.MAX_EVENTS_PER_CHUNK", at_once)
    heard = list(keeper(database, stream=True).record(iter(answer(deltas=9))))

    kept = found(database)
    assert kept is not None
    log = database.read(lambda c: responses.read_events_after(c, "o", kept, -1))
    assert log == [event for batch in heard for event in batch]


@pytest.mark.parametrize(
    "numbers",
    [[0] * 12, [-1] * 12, [*range(6), *range(6)], [*range(9), 8, 9, 10], [*range(9), 2**63, 9, 9]],
)
def test_an_upstream_that_does_not_count_on_has_no_log(
    database: SqliteDatabase, numbers: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("forwarder.storage.response_recorder.MAX_EVENTS_PER_CHUNK", 3)
    events = [event for batch in answer(deltas=10) for event in batch]
    odd = [[{**e, "sequence_number": n}] for e, n in zip(events, numbers, strict=True)]
    list(keeper(database, stream=True).record(iter(odd)))

    kept = found(database)
    assert kept is not None
    assert database.read(lambda c: responses.read_events_after(c, "o", kept, -1)) == []


def test_an_upstream_may_leave_numbers_out(
    database: SqliteDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("forwarder.storage.response_recorder.MAX_EVENTS_PER_CHUNK", 3)
    events = [event for batch in answer(deltas=10) for event in batch]
    odd = [[{**e, "sequence_number": 7 + 2 * i + i // 5}] for i, e in enumerate(events)]
    heard = [e for batch in keeper(database, stream=True).record(iter(odd)) for e in batch]

    kept = found(database)
    assert kept is not None
    for after in range(5, 40):
        log = database.read(lambda c, after=after: responses.read_events_after(c, "o", kept, after))  # type: ignore[misc]
        assert log == [event for event in heard if event["sequence_number"] > after]


def test_what_is_not_to_be_stored_passes_untouched(database: SqliteDatabase) -> None:
    stream = iter(answer())
    assert keeper(database, store=False).record(stream) is stream


def test_an_answer_says_what_it_stands_on(database: SqliteDatabase) -> None:
    given = keeper(database, previous_response_id="resp_0", store=False)
    first, *_, last = given.record(iter(answer()))
    for event in (*first, *last):
        assert event["response"]["previous_response_id"] == "resp_0"
        assert event["response"]["store"] is False
    assert found(database) is None


def test_ids_of_others_are_replaced_unless_they_keep_them(database: SqliteDatabase) -> None:
    heard = list(keeper(database).record(iter(answer("1"))))
    names = {e["response"]["id"] for batch in heard for e in batch if "response" in e}
    [name] = names
    kept = found(database, name)
    assert kept is not None
    assert (len(name), kept.upstream, kept.upstream_id) == (37, None, "1")

    list(keeper(database, "up").record(iter(answer("1"))))
    kept = found(database, "1")
    assert kept is not None
    assert (kept.upstream, kept.upstream_id) == ("up", "1")


def test_a_conversation_hears_what_was_asked_and_answered(database: SqliteDatabase) -> None:
    database.write(lambda c: conversations.create(c, "o", Conversation("conv_1", 1.0, {})))
    for status in ("completed", "failed"):
        list(keeper(database, conversation="conv_1").record(iter(answer(status=status))))

    said = database.read(lambda c: conversations.read_items(c, "o", "conv_1"))
    assert [each.data["role"] for each in said] == ["user", "assistant"]
    kept = found(database)
    assert kept is not None
    assert (kept.conversation, kept.before) == ("conv_1", said[-1].number)


def test_a_conversation_hears_what_is_not_stored_beside_it(database: SqliteDatabase) -> None:
    database.write(lambda c: conversations.create(c, "o", Conversation("conv_1", 1.0, {})))
    for stream in (False, True):
        given = keeper(database, conversation="conv_1", store=False, stream=stream)
        [*_, (last,)] = given.record(iter(answer("1")))
        assert found(database, last["response"]["id"]) is None

    said = database.read(lambda c: conversations.read_items(c, "o", "conv_1"))
    assert [each.data["role"] for each in said].count("user") == 2


def test_a_conversation_has_the_items_that_are_referred_to(database: SqliteDatabase) -> None:
    database.write(lambda c: conversations.create(c, "o", Conversation("conv_1", 1.0, {})))
    list(keeper(database).record(iter(answer())))
    listed = database.read(lambda c: read_response_input(c, "o", NAME))
    given = [{"type": "item_reference", "id": name} for name in (listed[0]["id"], "unknown")]
    another = iter(answer("resp_" + "1" * 32))
    list(keeper(database, conversation="conv_1", input=given).record(another))

    said = database.read(lambda c: conversations.read_items(c, "o", "conv_1"))
    assert said[0].data["content"] == "hi"
    assert [each.id for each in said] == [listed[0]["id"], "unknown", "msg_1"]


def test_what_cannot_be_stored_has_failed(
    database: SqliteDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(work: Any) -> None:
        raise StoreUnavailable

    monkeypatch.setattr(database, "write", broken)
    stream = keeper(database).record(iter(answer()))
    assert len([next(stream) for _ in range(3)]) == 3
    with pytest.raises(StoreUnavailable):
        next(stream)


def test_an_end_that_cannot_be_read_is_the_upstream_s_fault(database: SqliteDatabase) -> None:
    events: list[Any] = [[{"type": "response.completed", "response": {"output": 5}}]]
    with pytest.raises(UpstreamProtocolError):
        list(keeper(database).record(iter(events)))


def test_heartbeats_pass(database: SqliteDatabase) -> None:
    beats: list[Batch] = [[], *answer(), []]
    assert list(keeper(database).record(iter(beats)))[0] == []  # noqa: RUF015


def held(database: SqliteDatabase, stored: bool) -> Iterator[Batch]:
    """The answer to a turn that holds its conversation."""
    hold = ConversationLocks(database).acquire("o", "conv")
    given = {"model": "m", "input": "hi", "conversation": "conv", "store": stored}
    return iter(ResponseRecorder(database, "o", given, lambda: None, hold).record(iter(answer())))


def is_free(database: SqliteDatabase) -> bool:
    try:
        ConversationLocks(database).acquire("o", "conv").release_now()
    except ConversationLocked:
        return False
    return True


@pytest.mark.parametrize("stored", [True, False])
def test_who_hears_the_end_may_go_on_with_the_conversation(
    database: SqliteDatabase, stored: bool
) -> None:
    database.write(lambda c: conversations.create(c, "o", Conversation("conv", 1.0, {})))
    stream = held(database, stored)
    for batch in stream:
        assert is_free(database) == (batch[-1]["type"] == "response.completed")


def test_who_does_not_wait_for_the_end_may_too(database: SqliteDatabase) -> None:
    database.write(lambda c: conversations.create(c, "o", Conversation("conv", 1.0, {})))
    stream = held(database, True)
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    assert is_free(database)


def test_what_cannot_be_stored_holds_nothing(
    database: SqliteDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    database.write(lambda c: conversations.create(c, "o", Conversation("conv", 1.0, {})))
    monkeypatch.setattr(ResponseRecorder, "_write_response", lambda *given: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        list(held(database, True))
    assert is_free(database)


def test_more_items_with_ids_than_a_statement_takes_parameters(database: SqliteDatabase) -> None:
    said = [{"id": f"msg_{i}", "role": "user", "content": "x"} for i in range(40_000)]
    list(keeper(database, input=said).record(iter(answer())))

    there = database.read(lambda c: references.find_items(c, "o", [item["id"] for item in said]))
    assert len(there) == 40_000


@pytest.mark.parametrize("name", ["a\0b", "x" * 2000])
def test_ids_of_an_upstream_that_no_database_can_index_are_replaced(
    database: SqliteDatabase, name: str
) -> None:
    talk = Conversation("conv_1", 1.0, {})
    database.write(lambda c: conversations.create(c, "o", talk))
    batches = answer(name)
    batches[-1][-1]["response"]["output"] = [{**ITEM, "id": name}]

    heard = list(keeper(database, "up", conversation="conv_1").record(iter(batches)))

    given = heard[-1][-1]["response"]["id"]
    assert is_valid_id(given)
    kept = found(database, given)
    assert kept is not None
    assert kept.upstream_id is None
    items = database.read(lambda c: conversations.read_items(c, "o", "conv_1"))
    assert all(is_valid_id(item.id) for item in items)
    assert database.read(lambda c: references.find_items(c, "o", [name])) == {}


@pytest.mark.parametrize("name", ["a\0b", "x" * 2000])
@pytest.mark.parametrize("param", ["previous_response_id", "conversation", "input[0].id"])
def test_ids_that_no_database_can_index_are_refused(
    database: SqliteDatabase, param: str, name: str
) -> None:
    asked = {param: name} if "[" not in param else {"input": [{"id": name, "role": "user"}]}
    with pytest.raises(InvalidRequest) as refused:
        keeper(database, **asked)
    assert (refused.value.param, refused.value.code) == (param, "invalid_value")
    assert name not in refused.value.message
