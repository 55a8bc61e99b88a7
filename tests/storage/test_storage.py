"""Conversation state with and without a database."""

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
from forwarder.core.in_flight_requests import InFlightRequests
from forwarder.core.translation_context import LossReport
from forwarder.core.types import EventStream, Json
from forwarder.storage import DatabaseConversationStore, NullConversationStore, UpstreamMemory
from forwarder.storage.db import conversations
from forwarder.storage.db.conversations import Conversation
from forwarder.storage.db.database import SqliteDatabase
from tests.helpers.check_cases import check_each

CONTEXT = RequestContext("x", "responses", LossReport(), client_key="k")
UPSTREAM = UpstreamMemory("up")


def call_with_history(state: Any, request: Json, translated: bool = True) -> Json:
    requests: list[Json] = []

    def handler(request: Json) -> EventStream:
        requests.append(request)
        return iter(())

    list(state.with_history(handler, CONTEXT, UPSTREAM, translated)(request))
    return requests[0]


@check_each(
    ("more", "param", "code"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id", "previous_response_not_found"),
        ({"conversation": "conv_1"}, "conversation", "unsupported_parameter"),
        ({"background": True}, "background", "unsupported_parameter"),
    ],
)
def test_request_that_needs_a_database_is_rejected_without_one(
    more: Json, param: str, code: str
) -> None:
    with pytest.raises(ForwarderError) as refused:
        call_with_history(NullConversationStore(), {"input": "hi", **more})
    assert (refused.value.status, refused.value.param, refused.value.code) == (400, param, code)
    assert call_with_history(
        NullConversationStore(), {"input": "hi", **more}, translated=False
    ) == {
        "input": "hi",
        **more,
    }


def test_request_without_state_passes_without_a_database() -> None:
    request = {"input": "hi", "background": False, "previous_response_id": None}
    assert call_with_history(NullConversationStore(), request) == {"input": "hi"}
    stream: EventStream = iter(())
    assert (
        NullConversationStore().make_recorder("responses", request, CONTEXT, lambda: None)(stream)
        is stream
    )


@pytest.mark.parametrize("client", ["chat", "responses"])
def test_answers_are_stored(client: str, database: SqliteDatabase) -> None:
    state = DatabaseConversationStore(database, InFlightRequests())
    wrap = state.make_recorder(client, {"input": "hi", "store": True}, CONTEXT, lambda: None)
    stream: EventStream = iter(())
    assert wrap(stream) is not stream
    assert call_with_history(state, {"input": "hi", "background": None}) == {"input": "hi"}


def test_turn_locks_its_conversation_until_its_context_closes(
    database: SqliteDatabase,
) -> None:
    database.write(
        lambda c: conversations.create(c, hash_client_key("k"), Conversation("conv", 1.0, {}))
    )
    state, request = (
        DatabaseConversationStore(database, InFlightRequests()),
        {"input": "hi", "conversation": "conv"},
    )
    context = RequestContext("x", "responses", LossReport(), client_key="k")
    state.make_recorder("responses", request, context, lambda: None)
    other = RequestContext("y", "responses", LossReport(), client_key="k")
    with pytest.raises(ConversationLocked):
        state.make_recorder("responses", request, other, lambda: None)

    context.close()
    state.make_recorder("responses", request, other, lambda: None)
    other.close()


NEEDS_STORE: list[tuple[str, Json]] = [
    ("responses", {"input": "hi", "store": True}),
    ("responses", {"input": "hi", "conversation": "conv"}),
    ("responses", {"input": "hi", "store": False, "conversation": "conv"}),
    ("chat", {"messages": [], "store": True}),
]


@pytest.mark.parametrize(("client", "request_"), NEEDS_STORE)
def test_request_that_needs_the_store_is_refused_while_it_cannot_be_written(
    client: str, request_: Json, failing: SqliteDatabase
) -> None:
    with pytest.raises(StoreUnavailable):
        DatabaseConversationStore(failing, InFlightRequests()).make_recorder(
            client, request_, CONTEXT, lambda: None
        )


def test_response_without_store_parameter_is_served_while_the_store_fails(
    failing: SqliteDatabase,
) -> None:
    context = RequestContext("x", "responses", LossReport(), client_key="k")
    state = DatabaseConversationStore(failing, InFlightRequests())
    events = [
        {"type": kind, "response": {"id": "resp_1", "status": status, "store": True, "output": []}}
        for kind, status in (
            ("response.created", "in_progress"),
            ("response.completed", "completed"),
        )
    ]

    wrap = state.make_recorder("responses", {"input": "hi", "stream": True}, context, lambda: None)
    batches = list(wrap(iter([events])))

    assert [event["response"]["store"] for event in batches[0]] == [False, False]
    assert list(context.loss_report.losses) == ["store"]
    assert state.list_local_parameters("responses", {"input": "hi"}, translated=True) == set()


def test_strict_request_is_refused_while_its_response_cannot_be_stored(
    failing: SqliteDatabase,
) -> None:
    context = RequestContext("x", "responses", LossReport(strict=True), client_key="k")
    with pytest.raises(StoreUnavailable):
        DatabaseConversationStore(failing, InFlightRequests()).make_recorder(
            "responses", {"input": "hi"}, context, lambda: None
        )


@pytest.mark.parametrize(
    ("client", "request_"),
    [("responses", {"input": "hi", "store": False}), ("chat", {"messages": []})],
)
def test_request_that_needs_no_store_passes_untouched_while_it_fails(
    client: str, request_: Json, failing: SqliteDatabase
) -> None:
    stream: EventStream = iter(())
    wrap = DatabaseConversationStore(failing, InFlightRequests()).make_recorder(
        client, request_, CONTEXT, lambda: None
    )
    assert wrap(stream) is stream


@pytest.fixture
def failing(database: SqliteDatabase, monkeypatch: pytest.MonkeyPatch) -> SqliteDatabase:
    """A database that is not writable."""
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
def test_parameters_of_stored_answers_are_local(
    client: str, request_: Json, translated: bool, names: set[str], database: SqliteDatabase
) -> None:
    assert (
        DatabaseConversationStore(database, InFlightRequests()).list_local_parameters(
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
def test_completion_that_cannot_be_stored_is_rejected_early(
    more: Json, param: str, database: SqliteDatabase
) -> None:
    state = DatabaseConversationStore(database, InFlightRequests())
    with pytest.raises(InvalidRequest) as refused:
        state.make_recorder("chat", {"store": True, **more}, CONTEXT, lambda: None)
    assert refused.value.param == param


def test_unstored_completion_is_not_validated(database: SqliteDatabase) -> None:
    invalid_body = {"n": "2", "messages": "hi", "metadata": "x"}
    stream: EventStream = iter(())
    state = DatabaseConversationStore(database, InFlightRequests())
    assert state.make_recorder("chat", invalid_body, CONTEXT, lambda: None)(stream) is stream
