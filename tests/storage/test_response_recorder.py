"""Responses are stored before their terminal event is sent."""

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
from forwarder.core.stored_data_limit import StoredDataLimit
from forwarder.core.types import Batch, Json
from forwarder.storage.conversation_lock import ConversationLocks
from forwarder.storage.db import conversations, responses
from forwarder.storage.db.conversations import Conversation
from forwarder.storage.db.database import SqliteDatabase
from forwarder.storage.db.responses import StoredResponse
from forwarder.storage.db.tables import is_valid_id
from forwarder.storage.repositories.history import HistoryRepository, find_items
from forwarder.storage.repositories.responses import ResponseRepository
from forwarder.storage.response_recorder import ResponseRecorder

ITEM: Json = {"type": "message", "id": "msg_1", "role": "assistant", "content": []}
NAME = "resp_" + "0" * 32


def make_answer(name: str = NAME, deltas: int = 2, status: str = "completed") -> list[Batch]:
    created = {"id": name, "status": "in_progress", "output": []}
    completed = {"id": name, "status": status, "output": [ITEM]}
    events: Batch = [
        {"type": "response.created", "response": created},
        *({"type": "response.output_text.delta", "delta": "x"} for _ in range(deltas)),
        {"type": f"response.{status}", "response": completed},
    ]
    return [[{**event, "sequence_number": i}] for i, event in enumerate(events)]


def make_recorder(
    database: SqliteDatabase, origin: str | None = None, **request: Any
) -> ResponseRecorder:
    body = {"model": "m", "input": "hi", **request}
    return ResponseRecorder(ResponseRepository(database), "o", body, lambda: origin)


def find_stored(database: SqliteDatabase, name: str = NAME) -> StoredResponse | None:
    return database.read(lambda c: responses.find(c, "o", name))


@pytest.mark.parametrize("status", ["completed", "incomplete", "failed"])
def test_answer_is_stored_before_its_end_is_sent(database: SqliteDatabase, status: str) -> None:
    for batch in make_recorder(database).record(iter(make_answer(status=status))):
        stored = find_stored(database)
        assert (stored is not None) == (batch[-1]["type"] == f"response.{status}")

    assert stored is not None
    assert stored.body == batch[-1]["response"]
    assert (stored.status, stored.input[0]["content"]) == (status, "hi")


@pytest.mark.parametrize("at_once", [1, 3, 512])
def test_event_log_equals_the_stream(
    database: SqliteDatabase, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("forwarder.storage.response_recorder.MAX_EVENTS_PER_CHUNK", at_once)
    batches = list(make_recorder(database, stream=True).record(iter(make_answer(deltas=9))))

    stored = find_stored(database)
    assert stored is not None
    log = database.read(lambda c: responses.read_events_after(c, "o", stored, -1))
    assert log == [event for batch in batches for event in batch]


@pytest.mark.parametrize(
    "numbers",
    [[0] * 12, [-1] * 12, [*range(6), *range(6)], [*range(9), 8, 9, 10], [*range(9), 2**63, 9, 9]],
)
def test_invalid_upstream_numbers_disable_the_log(
    database: SqliteDatabase, numbers: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("forwarder.storage.response_recorder.MAX_EVENTS_PER_CHUNK", 3)
    events = [event for batch in make_answer(deltas=10) for event in batch]
    batches = [[{**e, "sequence_number": n}] for e, n in zip(events, numbers, strict=True)]
    list(make_recorder(database, stream=True).record(iter(batches)))

    stored = find_stored(database)
    assert stored is not None
    assert database.read(lambda c: responses.read_events_after(c, "o", stored, -1)) == []


def test_gaps_in_upstream_numbers_are_allowed(
    database: SqliteDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("forwarder.storage.response_recorder.MAX_EVENTS_PER_CHUNK", 3)
    events = [event for batch in make_answer(deltas=10) for event in batch]
    upstream_batches = [
        [{**e, "sequence_number": 7 + 2 * i + i // 5}] for i, e in enumerate(events)
    ]
    batches = [
        e
        for batch in make_recorder(database, stream=True).record(iter(upstream_batches))
        for e in batch
    ]

    stored = find_stored(database)
    assert stored is not None
    for after in range(5, 40):
        log = database.read(
            lambda c, after=after: responses.read_events_after(c, "o", stored, after)
        )  # type: ignore[misc]
        assert log == [event for event in batches if event["sequence_number"] > after]


def test_unstored_stream_is_unchanged(database: SqliteDatabase) -> None:
    stream = iter(make_answer())
    assert make_recorder(database, store=False).record(stream) is stream


def test_response_contains_its_history_fields(database: SqliteDatabase) -> None:
    recorder = make_recorder(database, previous_response_id="resp_0", store=False)
    first, *_, last = recorder.record(iter(make_answer()))
    for event in (*first, *last):
        assert event["response"]["previous_response_id"] == "resp_0"
        assert event["response"]["store"] is False
    assert find_stored(database) is None


def test_opening_events_after_a_keepalive_have_the_own_id(database: SqliteDatabase) -> None:
    [created], *others = make_answer("up_1")
    alive: Json = {"type": "keepalive"}
    events = [created, alive, {**created, "type": "response.in_progress"}]
    batches = [*([event] for event in events), *others]
    numbered = [[{**event, "sequence_number": i}] for i, [event] in enumerate(batches)]
    shown = [e for batch in make_recorder(database).record(iter(numbered)) for e in batch]
    assert shown[1] == {**alive, "sequence_number": 1}
    [own_id] = {event["response"]["id"] for event in shown if "response" in event}
    assert own_id != "up_1"


def test_upstream_ids_are_replaced_unless_stored_there(database: SqliteDatabase) -> None:
    batches = list(make_recorder(database).record(iter(make_answer("1"))))
    names = {e["response"]["id"] for batch in batches for e in batch if "response" in e}
    [name] = names
    stored = find_stored(database, name)
    assert stored is not None
    assert (len(name), stored.upstream, stored.upstream_id) == (37, None, "1")

    list(make_recorder(database, "up").record(iter(make_answer("1"))))
    stored = find_stored(database, "1")
    assert stored is not None
    assert (stored.upstream, stored.upstream_id) == ("up", "1")


def test_turn_is_appended_to_its_conversation(database: SqliteDatabase) -> None:
    database.write(lambda c: conversations.create(c, "o", Conversation("conv_1", 1.0, {})))
    for status in ("completed", "failed"):
        list(
            make_recorder(database, conversation="conv_1").record(iter(make_answer(status=status)))
        )

    items = database.read(lambda c: conversations.read_items(c, "o", "conv_1"))
    assert [each.data["role"] for each in items] == ["user", "assistant"]
    stored = find_stored(database)
    assert stored is not None
    assert (stored.conversation, stored.before) == ("conv_1", items[-1].number)


def test_unstored_turn_is_appended_to_its_conversation(database: SqliteDatabase) -> None:
    database.write(lambda c: conversations.create(c, "o", Conversation("conv_1", 1.0, {})))
    for stream in (False, True):
        recorder = make_recorder(database, conversation="conv_1", store=False, stream=stream)
        [*_, (last,)] = recorder.record(iter(make_answer("1")))
        assert find_stored(database, last["response"]["id"]) is None

    items = database.read(lambda c: conversations.read_items(c, "o", "conv_1"))
    assert [each.data["role"] for each in items].count("user") == 2


def test_referenced_items_are_appended_to_the_conversation(database: SqliteDatabase) -> None:
    database.write(lambda c: conversations.create(c, "o", Conversation("conv_1", 1.0, {})))
    list(make_recorder(database).record(iter(make_answer())))
    listed = HistoryRepository(database).list_input_items("o", NAME)
    assert listed is not None
    references = [{"type": "item_reference", "id": name} for name in (listed[0]["id"], "unknown")]
    another = iter(make_answer("resp_" + "1" * 32))
    list(make_recorder(database, conversation="conv_1", input=references).record(another))

    items = database.read(lambda c: conversations.read_items(c, "o", "conv_1"))
    assert items[0].data["content"] == "hi"
    assert [each.id for each in items] == [listed[0]["id"], "unknown", "msg_1"]


def test_storage_error_fails_the_stream(
    database: SqliteDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail_write(work: Any) -> None:
        raise StoreUnavailable

    monkeypatch.setattr(database, "write", fail_write)
    stream = make_recorder(database).record(iter(make_answer()))
    assert len([next(stream) for _ in range(3)]) == 3
    with pytest.raises(StoreUnavailable):
        next(stream)


def test_malformed_terminal_event_is_an_upstream_error(database: SqliteDatabase) -> None:
    events: list[Any] = [[{"type": "response.completed", "response": {"output": 5}}]]
    with pytest.raises(UpstreamProtocolError):
        list(make_recorder(database).record(iter(events)))


def test_heartbeats_are_passed_on(database: SqliteDatabase) -> None:
    beats: list[Batch] = [[], *make_answer(), []]
    assert list(make_recorder(database).record(iter(beats)))[0] == []  # noqa: RUF015


def record_locked(database: SqliteDatabase, stored: bool) -> Iterator[Batch]:
    """Return the recorded stream of a turn that holds a conversation lock."""
    lock = ConversationLocks(database).acquire("o", "conv")
    body = {"model": "m", "input": "hi", "conversation": "conv", "store": stored}
    recorder = ResponseRecorder(ResponseRepository(database), "o", body, lambda: None, lock)
    return iter(recorder.record(iter(make_answer())))


def is_free(database: SqliteDatabase) -> bool:
    try:
        ConversationLocks(database).acquire("o", "conv").release_now()
    except ConversationLocked:
        return False
    return True


@pytest.mark.parametrize("stored", [True, False])
def test_conversation_is_released_before_the_end_is_sent(
    database: SqliteDatabase, stored: bool
) -> None:
    database.write(lambda c: conversations.create(c, "o", Conversation("conv", 1.0, {})))
    stream = record_locked(database, stored)
    for batch in stream:
        assert is_free(database) == (batch[-1]["type"] == "response.completed")


def test_conversation_is_released_when_the_client_disconnects(database: SqliteDatabase) -> None:
    database.write(lambda c: conversations.create(c, "o", Conversation("conv", 1.0, {})))
    stream = record_locked(database, True)
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    assert is_free(database)


def test_conversation_is_released_after_a_storage_error(
    database: SqliteDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    database.write(lambda c: conversations.create(c, "o", Conversation("conv", 1.0, {})))
    monkeypatch.setattr(ResponseRepository, "store_answer", lambda *arguments: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        list(record_locked(database, True))
    assert is_free(database)


def test_items_beyond_the_parameter_limit_of_a_statement_are_stored(
    database: SqliteDatabase,
) -> None:
    items = [{"id": f"msg_{i}", "role": "user", "content": "x"} for i in range(40_000)]
    list(make_recorder(database, input=items).record(iter(make_answer())))

    found_items = database.read(
        lambda c: find_items(c, "o", [item["id"] for item in items], StoredDataLimit())
    )
    assert len(found_items) == 40_000


@pytest.mark.parametrize("name", ["a\0b", "x" * 2000])
def test_unindexable_upstream_ids_are_replaced(database: SqliteDatabase, name: str) -> None:
    conversation = Conversation("conv_1", 1.0, {})
    database.write(lambda c: conversations.create(c, "o", conversation))
    batches = make_answer(name)
    batches[-1][-1]["response"]["output"] = [{**ITEM, "id": name}]

    batches = list(make_recorder(database, "up", conversation="conv_1").record(iter(batches)))

    response_id = batches[-1][-1]["response"]["id"]
    assert is_valid_id(response_id)
    stored = find_stored(database, response_id)
    assert stored is not None
    assert stored.upstream_id is None
    items = database.read(lambda c: conversations.read_items(c, "o", "conv_1"))
    assert all(is_valid_id(item.id) for item in items)
    assert database.read(lambda c: find_items(c, "o", [name], StoredDataLimit())) == {}


@pytest.mark.parametrize("name", ["a\0b", "x" * 2000])
@pytest.mark.parametrize("param", ["previous_response_id", "conversation", "input[0].id"])
def test_unindexable_ids_are_rejected(database: SqliteDatabase, param: str, name: str) -> None:
    request = {param: name} if "[" not in param else {"input": [{"id": name, "role": "user"}]}
    with pytest.raises(InvalidRequest) as refused:
        make_recorder(database, **request)
    assert (refused.value.param, refused.value.code) == (param, "invalid_value")
    assert name not in refused.value.message
