"""Stop sequences and low limits of Messages clients over Responses upstreams."""

from __future__ import annotations

from collections import deque
from typing import Any

import pytest

from forwarder.core.errors import UpstreamUnreachable
from forwarder.core.types import EventStream, Json
from forwarder.middleware.messages_stop_and_token_limit import with_messages_limits
from forwarder.middleware.usage_estimate import EstimatedUsage
from forwarder.protocols.messages import fold_messages
from tests.helpers.check_cases import check_each

REQUEST: Json = {
    "model": "m",
    "max_tokens": 100,
    "system": "x" * 400,
    "messages": [{"role": "user", "content": "Hello"}],
}
START = {
    "type": "message_start",
    "message": {
        "content": [],
        "usage": {"input_tokens": 0, "output_tokens": 0, "service_tier": "standard"},
    },
}
END = [
    {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 9}},
    {"type": "message_stop"},
]


def make_block(index: int, kind: str, *pieces: str) -> list[Json]:
    delta, field = {"text": ("text_delta", "text"), "thinking": ("thinking_delta", "thinking")}[
        kind
    ]
    return [
        {"type": "content_block_start", "index": index, "content_block": {"type": kind, kind: ""}},
        *(
            {"type": "content_block_delta", "index": index, "delta": {"type": delta, field: piece}}
            for piece in pieces
        ),
        {"type": "content_block_stop", "index": index},
    ]


class Upstream:
    """Answers with these events, and records whether its stream is closed."""

    def __init__(self, *events: Json, error: Exception | None = None) -> None:
        self._events = [START, *events]
        self._error = error
        self.request: Json = {}
        self.is_closed = False

    def __call__(self, request: Json) -> EventStream:
        self.request = request
        return self._stream()

    def _stream(self) -> EventStream:
        try:
            for event in self._events:
                yield [event]
            if self._error is not None:
                raise self._error
            yield END
        except GeneratorExit:
            self.is_closed = True
            raise


def read_answer(upstream: Upstream, drain: bool = False, **request: Any) -> Json:
    return fold_messages(with_messages_limits(upstream, drain, ignore)({**REQUEST, **request}))


def ignore(usage: Json) -> None:
    """Record nothing."""


def test_answer_is_cut_at_the_stop_sequence() -> None:
    upstream = Upstream(*make_block(0, "thinking", "a END"), *make_block(1, "text", "a E", "ND b"))

    message = read_answer(upstream, stop_sequences=["X", "END"])

    assert [
        content_block.get("text", content_block.get("thinking"))
        for content_block in message["content"]
    ] == [
        "a END",
        "a ",
    ]
    assert (message["stop_reason"], message["stop_sequence"]) == ("stop_sequence", "END")
    assert upstream.is_closed
    assert upstream.request["stream"] is True


def test_usage_of_a_cut_answer_is_estimated() -> None:
    """The input includes the system prompt, the output includes the thinking before the text."""
    upstream = Upstream(*make_block(0, "thinking", "t" * 80), *make_block(1, "text", "a END"))
    recorded: list[Json] = []
    handler = with_messages_limits(upstream, False, recorded.append)

    request = {**REQUEST, "stop_sequences": ["END"]}
    events = [event for batch in handler(request) for event in batch]

    usage = events[-2]["usage"]
    assert usage.keys() == {"input_tokens", "output_tokens"}  # without the service tier
    assert 100 < usage["input_tokens"] < 120
    assert usage["output_tokens"] == 21
    assert recorded == [usage]
    assert isinstance(recorded[0], EstimatedUsage)


def test_answer_is_cut_if_the_conversation_has_no_chat_form() -> None:
    upstream = Upstream(*make_block(0, "text", "a END"))
    messages = [{"role": "system", "content": "say hi"}]

    message = read_answer(upstream, messages=messages, stop_sequences=["END"])

    assert message["stop_reason"] == "stop_sequence"


@check_each("error", [None, UpstreamUnreachable("broken")])
def test_drained_answers_have_the_usage_of_the_upstream(error: Exception | None) -> None:
    """The usage is estimated if the rest of the answer fails."""
    upstream = Upstream(*make_block(0, "text", "a END", "more"), error=error)

    message = read_answer(upstream, drain=True, stop_sequences=["END"])

    assert message["content"][0]["text"] == "a "
    assert message["stop_sequence"] == "END"
    assert message["usage"]["output_tokens"] == (1 if error else 9)
    assert "stream" not in upstream.request


def test_partial_stop_sequence_is_sent() -> None:
    upstream = Upstream(*make_block(0, "text", "a E"), *make_block(1, "text", "ND"))

    message = read_answer(upstream, stop_sequences=["END"])

    assert [content_block["text"] for content_block in message["content"]] == ["a E", "ND"]
    assert message["stop_reason"] == "end_turn"
    assert message["usage"]["output_tokens"] == 9


def test_stop_sequence_at_the_end_of_a_block_is_found() -> None:
    message = read_answer(Upstream(*make_block(0, "text", "aEND")), stop_sequences=["ENDE", "END"])

    assert message["content"][0]["text"] == "a"
    assert message["stop_sequence"] == "END"


def test_low_limit_cuts_the_text() -> None:
    upstream = Upstream(*make_block(0, "text", "one two", " three"))

    message = read_answer(upstream, max_tokens=2)

    assert message["content"][0]["text"] == "one two"
    assert message["stop_reason"] == "max_tokens"
    assert message["usage"]["output_tokens"] == 2  # of the 9 that the upstream made
    assert "input_tokens" in message["usage"]


def test_text_before_a_failure_is_sent() -> None:
    upstream = Upstream(*make_block(0, "text", "a E")[:-1], error=UpstreamUnreachable("broken"))
    received_events: list[Json] = []

    stream = with_messages_limits(upstream, False, ignore)({"stop_sequences": ["END"]})
    with pytest.raises(UpstreamUnreachable):
        deque(map(received_events.extend, stream), 0)
    assert [e["delta"]["text"] for e in received_events if "delta" in e] == ["a ", "E"]


@check_each("stops", [None, [], "END", [1], [""]])
def test_other_requests_pass_unchanged(stops: Any) -> None:
    upstream = Upstream(*make_block(0, "text", "a END"))

    message = read_answer(upstream, stop_sequences=stops)

    assert message["content"][0]["text"] == "a END"
    assert "stream" not in upstream.request
