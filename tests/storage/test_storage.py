"""With a store, and without one."""

from __future__ import annotations

from typing import Any

import pytest

from forwarder.context.client_identity import digest_key
from forwarder.context.request_context import Exchange
from forwarder.core.errors import (
    ConversationLocked,
    ForwarderError,
    InvalidRequest,
    StoreUnavailable,
)
from forwarder.core.shutdown import Running
from forwarder.core.translation_context import Ledger
from forwarder.core.types import Json, Stream
from forwarder.storage import Forgetful, Memory, Remembering
from forwarder.storage.db import conversations
from forwarder.storage.db.conversations import Talk
from forwarder.storage.db.database import Sqlite

EXCHANGE = Exchange("x", "responses", Ledger(), client_key="k")
UP = Memory("up")


def left(state: Any, request: Json, translated: bool = True) -> Json:
    found: list[Json] = []

    def call(asked: Json) -> Stream:
        found.append(asked)
        return iter(())

    list(state.resumed(call, EXCHANGE, UP, translated)(request))
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
        left(Forgetful(), {"input": "hi", **more})
    assert (refused.value.status, refused.value.param, refused.value.code) == (400, param, code)
    assert left(Forgetful(), {"input": "hi", **more}, translated=False) == {"input": "hi", **more}


def test_without_a_store_what_asks_for_nothing_is_let_pass() -> None:
    asked = {"input": "hi", "background": False, "previous_response_id": None}
    assert left(Forgetful(), asked) == {"input": "hi"}
    stream: Stream = iter(())
    assert Forgetful().kept("responses", asked, EXCHANGE, lambda: None)(stream) is stream


@pytest.mark.parametrize("client", ["chat", "responses"])
def test_with_a_store_answers_are_kept(client: str, database: Sqlite) -> None:
    state = Remembering(database, Running())
    wrap = state.kept(client, {"input": "hi", "store": True}, EXCHANGE, lambda: None)
    stream: Stream = iter(())
    assert wrap(stream) is not stream
    assert left(state, {"input": "hi", "background": None}) == {"input": "hi"}


def test_a_turn_holds_its_conversation_for_as_long_as_its_exchange(database: Sqlite) -> None:
    database.write(lambda c: conversations.create(c, digest_key("k"), Talk("conv", 1.0, {})))
    state, asked = Remembering(database, Running()), {"input": "hi", "conversation": "conv"}
    exchange = Exchange("x", "responses", Ledger(), client_key="k")
    state.kept("responses", asked, exchange, lambda: None)
    other = Exchange("y", "responses", Ledger(), client_key="k")
    with pytest.raises(ConversationLocked):
        state.kept("responses", asked, other, lambda: None)

    exchange.close()
    state.kept("responses", asked, other, lambda: None)
    other.close()


NEEDS_STORE: list[tuple[str, Json]] = [
    ("responses", {"input": "hi", "store": True}),
    ("responses", {"input": "hi", "conversation": "conv"}),
    ("responses", {"input": "hi", "store": False, "conversation": "conv"}),
    ("chat", {"messages": [], "store": True}),
]


@pytest.mark.parametrize(("client", "asked"), NEEDS_STORE)
def test_request_that_needs_the_store_is_refused_while_it_cannot_be_written(
    client: str, asked: Json, failing: Sqlite
) -> None:
    with pytest.raises(StoreUnavailable):
        Remembering(failing, Running()).kept(client, asked, EXCHANGE, lambda: None)


def test_response_that_is_not_asked_to_be_stored_is_served_while_the_store_fails(
    failing: Sqlite,
) -> None:
    exchange = Exchange("x", "responses", Ledger(), client_key="k")
    state = Remembering(failing, Running())
    events = [
        {"type": kind, "response": {"id": "resp_1", "status": status, "store": True, "output": []}}
        for kind, status in (
            ("response.created", "in_progress"),
            ("response.completed", "completed"),
        )
    ]

    kept = state.kept("responses", {"input": "hi", "stream": True}, exchange, lambda: None)
    batches = list(kept(iter([events])))

    assert [event["response"]["store"] for event in batches[0]] == [False, False]
    assert list(exchange.ledger.dropped) == ["store"]
    assert state.honours("responses", {"input": "hi"}, translated=True) == set()


def test_strict_request_is_refused_while_its_response_cannot_be_stored(failing: Sqlite) -> None:
    exchange = Exchange("x", "responses", Ledger(strict=True), client_key="k")
    with pytest.raises(StoreUnavailable):
        Remembering(failing, Running()).kept("responses", {"input": "hi"}, exchange, lambda: None)


@pytest.mark.parametrize(
    ("client", "request_"),
    [("responses", {"input": "hi", "store": False}), ("chat", {"messages": []})],
)
def test_request_that_needs_no_store_passes_untouched_while_it_fails(
    client: str, request_: Json, failing: Sqlite
) -> None:
    stream: Stream = iter(())
    kept = Remembering(failing, Running()).kept(client, request_, EXCHANGE, lambda: None)
    assert kept(stream) is stream


@pytest.fixture
def failing(database: Sqlite, monkeypatch: pytest.MonkeyPatch) -> Sqlite:
    """A database that cannot be written."""
    monkeypatch.setattr(database.writing, "error", "disk is full")
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
    client: str, request_: Json, translated: bool, names: set[str], database: Sqlite
) -> None:
    assert Remembering(database, Running()).honours(client, request_, translated) == names
    assert Forgetful().honours(client, request_, translated) == set()


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
    more: Json, param: str, database: Sqlite
) -> None:
    state = Remembering(database, Running())
    with pytest.raises(InvalidRequest) as refused:
        state.kept("chat", {"store": True, **more}, EXCHANGE, lambda: None)
    assert refused.value.param == param


def test_one_that_is_not_to_be_stored_may_be_anything(database: Sqlite) -> None:
    odd = {"n": "2", "messages": "hi", "metadata": "x"}
    stream: Stream = iter(())
    state = Remembering(database, Running())
    assert state.kept("chat", odd, EXCHANGE, lambda: None)(stream) is stream
