"""With a store, and without one."""

from __future__ import annotations

from typing import Any

import pytest

from forwarder.context.client_identity import hash_client_key
from forwarder.context.request_context import RequestContext
from forwarder.core.errors import (
    ConversationLocked,
    ForwarderError,
    InvalidRequest,
    StoreUnavailable,
)
from forwarder.core.shutdown import InFlightRequests
from forwarder.core.translation_context import LossReport
from forwarder.core.types import EventStream, Json
from forwarder.storage import ConversationStore, NullConversationStore, UpstreamMemory
from forwarder.storage.db import conversations
from forwarder.storage.db.conversations import Conversation
from forwarder.storage.db.database import SqliteDatabase

EXCHANGE = RequestContext("x", "responses", LossReport(), client_key="k")
UP = UpstreamMemory("up")


def left(state: Any, request: Json, translated: bool = True) -> Json:
    found: list[Json] = []

    def call(asked: Json) -> EventStream:
        found.append(asked)
        return iter(())

    list(state.with_history(call, EXCHANGE, UP, translated)(request))
    return found[0]


@pytest.mark.parametrize(
    ("more", "param", "code"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id", "previous_response_not_found"),
        ({"conversation": "conv_1"}, "conversation", "unsupported_parameter"),
        ({"background": True}, "background", "unsupported_parameter"),
    ],
)
def test_without_a_store_what_needs_one_is_refused(more: Json, param: str, code: str) -> None:
    with pytest.raises(ForwarderError) as refused:
        left(NullConversationStore(), {"input": "hi", **more})
    assert (refused.value.status, refused.value.param, refused.value.code) == (400, param, code)
    assert left(NullConversationStore(), {"input": "hi", **more}, translated=False) == {
        "input": "hi",
        **more,
    }


def test_without_a_store_what_asks_for_nothing_is_let_pass() -> None:
    asked = {"input": "hi", "background": False, "previous_response_id": None}
    assert left(NullConversationStore(), asked) == {"input": "hi"}
    stream: EventStream = iter(())
    assert (
        NullConversationStore().make_recorder("responses", asked, EXCHANGE, lambda: None)(stream)
        is stream
    )


@pytest.mark.parametrize("client", ["chat", "responses"])
def test_with_a_store_answers_are_kept(client: str, database: SqliteDatabase) -> None:
    state = ConversationStore(database, InFlightRequests())
    wrap = state.make_recorder(client, {"input": "hi", "store": True}, EXCHANGE, lambda: None)
    stream: EventStream = iter(())
    assert wrap(stream) is not stream
    assert left(state, {"input": "hi", "background": None}) == {"input": "hi"}


def test_a_turn_holds_its_conversation_for_as_long_as_its_exchange(
    database: SqliteDatabase,
) -> None:
    database.write(
        lambda c: conversations.create(c, hash_client_key("k"), Conversation("conv", 1.0, {}))
    )
    state, asked = (
        ConversationStore(database, InFlightRequests()),
        {"input": "hi", "conversation": "conv"},
    )
    exchange = RequestContext("x", "responses", LossReport(), client_key="k")
    state.make_recorder("responses", asked, exchange, lambda: None)
    other = RequestContext("y", "responses", LossReport(), client_key="k")
    with pytest.raises(ConversationLocked):
        state.make_recorder("responses", asked, other, lambda: None)

    exchange.close()
    state.make_recorder("responses", asked, other, lambda: None)
    other.close()


NEEDS_STORE: list[tuple[str, Json]] = [
    ("responses", {"input": "hi", "store": True}),
    ("responses", {"input": "hi", "conversation": "conv"}),
    ("responses", {"input": "hi", "store": False, "conversation": "conv"}),
    ("chat", {"messages": [], "store": True}),
]


@pytest.mark.parametrize(("client", "asked"), NEEDS_STORE)
def test_request_that_needs_the_store_is_refused_while_it_cannot_be_written(
    client: str, asked: Json, failing: SqliteDatabase
) -> None:
    with pytest.raises(StoreUnavailable):
        ConversationStore(failing, InFlightRequests()).make_recorder(
            client, asked, EXCHANGE, lambda: None
        )


def test_response_that_is_not_asked_to_be_stored_is_served_while_the_store_fails(
    failing: SqliteDatabase,
) -> None:
    exchange = RequestContext("x", "responses", LossReport(), client_key="k")
    state = ConversationStore(failing, InFlightRequests())
    events = [
        {"type": kind, "response": {"id": "resp_1", "status": status, "store": True, "output": []}}
        for kind, status in (
            ("response.created", "in_progress"),
            ("response.completed", "completed"),
        )
    ]

    kept = state.make_recorder("responses", {"input": "hi", "stream": True}, exchange, lambda: None)
    batches = list(kept(iter([events])))

    assert [event["response"]["store"] for event in batches[0]] == [False, False]
    assert list(exchange.loss_report.losses) == ["store"]
    assert state.list_local_parameters("responses", {"input": "hi"}, translated=True) == set()


def test_strict_request_is_refused_while_its_response_cannot_be_stored(
    failing: SqliteDatabase,
) -> None:
    exchange = RequestContext("x", "responses", LossReport(strict=True), client_key="k")
    with pytest.raises(StoreUnavailable):
        ConversationStore(failing, InFlightRequests()).make_recorder(
            "responses", {"input": "hi"}, exchange, lambda: None
        )


@pytest.mark.parametrize(
    ("client", "request_"),
    [("responses", {"input": "hi", "store": False}), ("chat", {"messages": []})],
)
def test_request_that_needs_no_store_passes_untouched_while_it_fails(
    client: str, request_: Json, failing: SqliteDatabase
) -> None:
    stream: EventStream = iter(())
    kept = ConversationStore(failing, InFlightRequests()).make_recorder(
        client, request_, EXCHANGE, lambda: None
    )
    assert kept(stream) is stream


@pytest.fixture
def failing(database: SqliteDatabase, monkeypatch: pytest.MonkeyPatch) -> SqliteDatabase:
    """A database that cannot be written."""
    monkeypatch.setattr(database.write_breaker, "error", "disk is full")
    return database


@pytest.mark.parametrize(
    ("client", "request_", "translated", "names"),
    [
        ("chat", {"store": True}, False, {"store", "metadata"}),
        ("chat", {"store": True}, True, {"store", "metadata"}),
        ("chat", {}, True, set()),
        ("chat", {"store": False}, True, set()),
        ("responses", {}, True, {"metadata"}),
        ("responses", {"store": True}, True, {"metadata"}),
        ("responses", {"store": False}, True, set()),
        ("responses", {}, False, set()),
    ],
)
def test_what_is_stored_here_is_honoured_here(
    client: str, request_: Json, translated: bool, names: set[str], database: SqliteDatabase
) -> None:
    assert (
        ConversationStore(database, InFlightRequests()).list_local_parameters(
            client, request_, translated
        )
        == names
    )
    assert NullConversationStore().list_local_parameters(client, request_, translated) == set()


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"store": "yes"}, "store"),
        ({"n": "2"}, "n"),
        ({"n": True}, "n"),
        ({"metadata": "x"}, "metadata"),
        ({"messages": "hi"}, "messages"),
        ({"messages": ["hi"]}, "messages[0]"),
    ],
)
def test_a_completion_that_cannot_be_stored_is_refused_before_it_is_made(
    more: Json, param: str, database: SqliteDatabase
) -> None:
    state = ConversationStore(database, InFlightRequests())
    with pytest.raises(InvalidRequest) as refused:
        state.make_recorder("chat", {"store": True, **more}, EXCHANGE, lambda: None)
    assert refused.value.param == param


def test_one_that_is_not_to_be_stored_may_be_anything(database: SqliteDatabase) -> None:
    odd = {"n": "2", "messages": "hi", "metadata": "x"}
    stream: EventStream = iter(())
    state = ConversationStore(database, InFlightRequests())
    assert state.make_recorder("chat", odd, EXCHANGE, lambda: None)(stream) is stream
