"""A chat client, which knows no reasoning items, over a Responses upstream that wants them back."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.fake_provider import ScriptedUpstream
from tests.fake_provider.answers import Answer, Call
from tests.live.conftest import Serve, make_settings
from tests.live.server import Server
from tests.live.talk import send_request

Json = dict[str, Any]
MODEL = "responses/gpt-5.5"
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]


def take_turn(
    server: Server, messages: list[Json], stream: bool = False, **headers: str
) -> list[Json]:
    """One turn of a plain client: it keeps only the documented fields of the answer."""
    body = {"model": MODEL, "messages": messages, "tools": TOOLS, "stream": stream}
    message = send_request(server, "chat", body, **headers).message
    assistant_message = {k: message[k] for k in ("role", "content", "tool_calls") if message.get(k)}
    results = [
        {"role": "tool", "tool_call_id": call["id"], "content": "42"}
        for call in message.get("tool_calls") or ()
    ]
    return [*messages, assistant_message, *results]


def list_sent_kinds(upstream: ScriptedUpstream) -> list[str]:
    """The upstream's latest request."""
    return [
        item["encrypted_content"] if item["type"] == "reasoning" else item["type"]
        for item in upstream.requests[-1].body["input"]
    ]


@pytest.mark.parametrize("stream", [False, True])
def test_reasoning_is_sent_back_in_each_turn_of_a_tool_loop(
    stream: bool, forwarder: Server, upstream: ScriptedUpstream
) -> None:
    upstream.script(
        Answer(reasoning="one", text="Let me look.", calls=[Call("f", id=f"a{stream}")]),
        Answer(reasoning="two", calls=[Call("f", id=f"b{stream}"), Call("f", id=f"c{stream}")]),
        Answer(reasoning="three", text="42 it is."),
    )
    messages: list[Json] = [{"role": "user", "content": f"go {stream}"}]
    for _ in range(3):
        messages = take_turn(forwarder, messages, stream)
    take_turn(forwarder, [*messages, {"role": "user", "content": "sure?"}])

    one, two, three = [s for s in list_sent_kinds(upstream) if s not in PLAIN]
    assert list_sent_kinds(upstream) == [
        "message",
        one, "message", "function_call", "function_call_output",
        two, "function_call", "function_call", "function_call_output", "function_call_output",
        three, "message",
        "message",
    ]  # fmt: skip
    assert len({one, two, three}) == 3
    for request in upstream.requests:
        assert request.body["include"] == ["reasoning.encrypted_content"]
        assert request.body["store"] is False
        assert request.violations == []


@pytest.fixture
def servers(serve: Serve, upstream: ScriptedUpstream, database: str) -> Callable[[], Server]:
    """Servers that share a database; each turn goes to another one."""
    settings = make_settings(upstream, FORWARDER_DATABASE_URL=database, FORWARDER_SECRET_KEY="s")
    running = itertools.cycle([serve(settings), serve(settings)])
    return lambda: next(running)


@pytest.mark.parametrize("stream", [False, True])
def test_cached_reasoning_is_shared_by_workers(
    stream: bool, servers: Callable[[], Server], upstream: ScriptedUpstream
) -> None:
    upstream.script(
        Answer(reasoning="one", text="Let me look.", calls=[Call("f", id=f"p{stream}")]),
        Answer(reasoning="two", calls=[Call("f", id=f"q{stream}"), Call("f", id=f"r{stream}")]),
        Answer(reasoning="three", text="42 it is."),
    )
    messages: list[Json] = [{"role": "user", "content": f"across {stream}"}]
    for _ in range(3):
        messages = take_turn(servers(), messages, stream)
    take_turn(servers(), [*messages, {"role": "user", "content": "sure?"}])

    one, two, three = [s for s in list_sent_kinds(upstream) if s not in PLAIN]
    assert list_sent_kinds(upstream) == [
        "message",
        one, "message", "function_call", "function_call_output",
        two, "function_call", "function_call", "function_call_output", "function_call_output",
        three, "message",
        "message",
    ]  # fmt: skip
    assert len({one, two, three}) == 3
    assert [request.violations for request in upstream.requests] == [[]] * 4


def test_no_worker_gives_cached_reasoning_to_another_client(
    servers: Callable[[], Server], upstream: ScriptedUpstream
) -> None:
    upstream.script(Answer(reasoning="secret", calls=[Call("f", id="x2")]), Answer(text="Hi."))
    messages = take_turn(servers(), [{"role": "user", "content": "go"}], authorization="Bearer a")
    for _ in range(2):
        take_turn(servers(), messages, authorization="Bearer b")
        assert set(list_sent_kinds(upstream)) <= set(PLAIN)
    take_turn(servers(), messages, authorization="Bearer a")
    assert not set(list_sent_kinds(upstream)) <= set(PLAIN)


def test_signatures_are_kept_in_memory_without_a_store(
    serve: Serve, upstream: ScriptedUpstream
) -> None:
    server = serve(make_settings(upstream, FORWARDER_DATABASE_URL="none"))
    upstream.script(Answer(reasoning="x", calls=[Call("f", id="n1")]), Answer(text="Hi."))
    take_turn(server, take_turn(server, [{"role": "user", "content": "go"}]))

    assert not set(list_sent_kinds(upstream)) <= set(PLAIN)


PLAIN = ("message", "function_call", "function_call_output")


def test_cached_reasoning_is_not_given_to_another_client(
    serve: Serve, upstream: ScriptedUpstream
) -> None:
    server = serve(make_settings(upstream, FORWARDER_API_KEYS="a,b"))
    upstream.script(Answer(reasoning="secret", calls=[Call("f", id="x1")]), Answer(text="Hi."))
    messages = take_turn(server, [{"role": "user", "content": "go"}], authorization="Bearer a")

    take_turn(server, messages, authorization="Bearer b")

    assert set(list_sent_kinds(upstream)) <= set(PLAIN)


def test_changed_history_is_sent_without_cached_reasoning(
    forwarder: Server, upstream: ScriptedUpstream
) -> None:
    upstream.script(Answer(reasoning="x", calls=[Call("f", id="y1")]), Answer(text="Hi."))
    messages = take_turn(forwarder, [{"role": "user", "content": "go"}])
    messages[1] = json.loads(json.dumps(messages[1]).replace('"{}"', '"{\\"changed\\": 1}"'))

    assert take_turn(forwarder, messages)[-1]["content"].endswith("Hi.")
    assert set(list_sent_kinds(upstream)) <= set(PLAIN)


def test_reasoning_cache_can_be_disabled(serve: Serve, upstream: ScriptedUpstream) -> None:
    server = serve(make_settings(upstream, FORWARDER_REASONING_TTL="0"))
    upstream.script(Answer(reasoning="x", calls=[Call("f", id="z1")]), Answer(text="Hi."))
    take_turn(server, take_turn(server, [{"role": "user", "content": "go"}]))

    assert set(list_sent_kinds(upstream)) <= set(PLAIN)
    assert "include" not in upstream.requests[0].body
