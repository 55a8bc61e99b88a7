"""``truncation: "auto"``: which messages are dropped."""

from __future__ import annotations

import contextlib
from itertools import chain
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forwarder.core.errors import UpstreamRefused
from forwarder.core.types import EventStream
from forwarder.middleware.truncation import MAX_TRUNCATIONS, is_context_too_long, with_truncation
from tests.helpers.check_cases import check_each
from tests.helpers.translating import collect_events
from tests.middleware.chatting import REQUEST, Scripted, make_chunk

Json = dict[str, Any]

TOO_LONG = UpstreamRefused(400, {"message": "Too long.", "code": "context_length_exceeded"})
ANSWER = [[make_chunk({"content": "ok"}, "stop")]]

WORDINGS = [
    "This model's maximum context length is 8192 tokens. However, your messages resulted in 9000 tokens.",
    "Your input exceeds the context window of this model. Please adjust your input and try again.",
    "The decoder prompt (length 5000) is longer than the maximum model length of 4096.",
    "The input (300 tokens) is longer than the model's context length (200 tokens).",
    "Requested token count exceeds the model's maximum context length of 131072 tokens.",
    "The input token count (1196265) exceeds the maximum number of tokens allowed (1048575).",
    "This model's maximum prompt length is 131072 but the request contains 537812 tokens.",
    "Please reduce the length of the messages or completion.",
    "<400> InternalError.Algo.InvalidParameter: Range of input length should be [1, 30720]",
    "Invalid request: Your request exceeded model token limit: 8192",
    "Prompt exceeds max length",
    "Prompt 超长",
    "invalid params, context window exceeds limit (2013)",
    "Prompt contains 40000 tokens and 0 draft tokens, too large for model with 32768 maximum context length",
    "the request exceeds the available context size, try increasing it",
    "The number of tokens to keep from the initial prompt is greater than the context length.",
    "However, the model is loaded with context length of only 4096 tokens",
    "prompt is too long: 213462 tokens > 200000 maximum",
    "prompt too long; exceeded max context length by 12 tokens",
    "prompt token count of 5000 exceeds the limit of 4096",
]


@check_each("message", WORDINGS)
def test_wording_of_every_provider_is_recognized(message: str) -> None:
    assert is_context_too_long(UpstreamRefused(400, {"message": message}))


@check_each(
    "error",
    [{"code": "context_length_exceeded"}, {"code": 1261}, {"type": "exceed_context_size_error"}],
)
def test_error_code_is_sufficient(error: Json) -> None:
    assert is_context_too_long(UpstreamRefused(400, {"message": "No.", **error}))


@check_each(
    ("status", "message"),
    [
        (429, "Rate limit: please reduce the length of the messages; tokens per minute exceeded."),
        (
            400,
            "max_tokens is too large: 99999. This model supports at most 16384 completion tokens.",
        ),
        (400, "Range of max_tokens should be [1, 8192]"),
        (400, "Invalid value: 'x'."),
        (500, "The server had an error."),
    ],
)
def test_other_refusals_are_not_context_errors(status: int, message: str) -> None:
    upstream = Scripted(UpstreamRefused(status, {"message": message}))
    with pytest.raises(UpstreamRefused, match=message[:9]):
        with_truncation(upstream)(
            make_chat_request(
                make_user_message("1"), make_answer_message("2"), make_user_message("3")
            )
        )
    assert len(upstream.requests) == 1


# -- removed messages ---------------------------------------------------------------------------


def make_user_message(text: str) -> Json:
    return {"role": "user", "content": text}


def make_answer_message(text: str) -> Json:
    return {"role": "assistant", "content": text}


def make_tool_round(*ids: str) -> list[Json]:
    """An assistant's calls and their results."""
    calls = [
        {"id": i, "type": "function", "function": {"name": "f", "arguments": "{}"}} for i in ids
    ]
    results = [{"role": "tool", "tool_call_id": i, "content": f"result {i}"} for i in ids]
    return [{"role": "assistant", "content": None, "tool_calls": calls}, *results]


def make_chat_request(*messages: Json) -> Json:
    return {**REQUEST, "messages": list(messages)}


SYSTEM = {"role": "developer", "content": "s" * 100}


def list_attempts(*messages: Json, refusals: int = MAX_TRUNCATIONS) -> list[list[Json]]:
    """The messages of every attempt if the upstream refuses the first ``refusals`` attempts."""
    upstream = Scripted(*[TOO_LONG] * refusals, ANSWER)
    with contextlib.suppress(UpstreamRefused):
        collect_events(with_truncation(upstream)(make_chat_request(*messages)))
    return [request["messages"] for request in upstream.requests]


def test_older_half_is_dropped_until_it_fits() -> None:
    turns = [
        m for i in range(8) for m in (make_user_message(f"q{i}"), make_answer_message(f"a{i}"))
    ]
    attempts = list_attempts(SYSTEM, *turns, make_user_message("now"), refusals=2)
    assert [len(messages) for messages in attempts] == [18, 10, 6]
    assert attempts[1] == [SYSTEM, *turns[8:], make_user_message("now")]
    assert attempts[2] == [SYSTEM, *turns[12:], make_user_message("now")]


def test_request_is_otherwise_unchanged() -> None:
    upstream = Scripted(TOO_LONG, ANSWER)
    request = {
        **make_chat_request(
            make_user_message("1"), make_answer_message("2"), make_user_message("3")
        ),
        "temperature": 0.5,
        "tools": [{"a": 1}],
    }
    assert (
        collect_events(with_truncation(upstream)(request))[0]["choices"][0]["delta"]["content"]
        == "ok"
    )
    assert upstream.requests[1] == {**request, "messages": [make_user_message("3")]}
    assert len(request["messages"]) == 3


def test_single_large_message_is_dropped_alone() -> None:
    attempts = list_attempts(
        make_user_message("x" * 900),
        make_answer_message("a"),
        make_user_message("b"),
        make_answer_message("c"),
        make_user_message("d"),
        refusals=1,
    )
    assert attempts[1] == [make_user_message("b"), make_answer_message("c"), make_user_message("d")]


def test_answer_is_dropped_with_its_question() -> None:
    attempts = list_attempts(
        make_user_message("x" * 900),
        *make_tool_round("1", "2"),
        make_answer_message("y"),
        make_user_message("z"),
        refusals=1,
    )
    assert attempts[1] == [make_user_message("z")]


def test_tool_rounds_after_the_last_question_are_droppable_except_the_last() -> None:
    rounds = [make_tool_round(f"{i}a", f"{i}b") for i in range(4)]
    attempts = list_attempts(SYSTEM, make_user_message("do it"), *chain(*rounds), refusals=5)
    assert attempts[1] == [SYSTEM, make_user_message("do it"), *rounds[2], *rounds[3]]
    assert attempts[-1] == [SYSTEM, make_user_message("do it"), *rounds[3]]


@check_each(
    "messages",
    [[make_user_message("x")], [SYSTEM, make_user_message("x")], [SYSTEM], make_tool_round("1")],
)
def test_refusal_is_raised_if_nothing_is_removable(messages: list[Json]) -> None:
    upstream = Scripted(TOO_LONG)
    with pytest.raises(UpstreamRefused) as caught:
        with_truncation(upstream)(make_chat_request(*messages))
    assert caught.value is TOO_LONG
    assert len(upstream.requests) == 1


def test_number_of_attempts_is_limited() -> None:
    turns = [
        m for i in range(500) for m in (make_user_message(f"q{i}"), make_answer_message(f"a{i}"))
    ]
    upstream = Scripted(*[TOO_LONG] * (MAX_TRUNCATIONS + 1))
    with pytest.raises(UpstreamRefused):
        with_truncation(upstream)(make_chat_request(*turns, make_user_message("now")))
    assert len(upstream.requests) == MAX_TRUNCATIONS + 1


blocks = st.one_of(
    st.just([make_user_message("question")]),
    st.just([make_answer_message("answer")]),
    st.just([SYSTEM]),
    st.integers(1, 3).map(lambda n: make_tool_round(*map(str, range(n)))),
)


@given(st.lists(blocks, min_size=1, max_size=12))
def test_calls_and_results_stay_together(conversation: list[list[Json]]) -> None:
    messages = [message for block in conversation for message in block]
    questions = [m for m in messages if m["role"] == "user"]
    attempts = list_attempts(*messages)
    assert [len(m) for m in attempts] == sorted({len(m) for m in attempts}, reverse=True)
    for attempt in attempts:
        assert [m for m in attempt if m is SYSTEM or m == SYSTEM] == [
            m for m in messages if m == SYSTEM
        ]
        assert not questions or make_user_message("question") in attempt
        assert attempt[-1] == messages[-1]
        assert _list_calls(attempt) == _list_results(attempt)


def _list_calls(messages: list[Json]) -> list[str]:
    return [call["id"] for m in messages for call in m.get("tool_calls") or ()]


def _list_results(messages: list[Json]) -> list[str]:
    return [m["tool_call_id"] for m in messages if m["role"] == "tool"]


# -- position of the refusal --------------------------------------------------------------------


def test_error_event_before_the_first_chunk_is_truncated_and_retried() -> None:
    refusal = {"error": {"message": "x", "code": "context_length_exceeded"}}
    upstream = Scripted([[refusal]], [TOO_LONG], ANSWER)
    turns = [
        m for i in range(8) for m in (make_user_message(f"q{i}"), make_answer_message(f"a{i}"))
    ]
    events = collect_events(
        with_truncation(upstream)(make_chat_request(*turns, make_user_message("now")))
    )
    assert events == ANSWER[0]
    assert [len(r["messages"]) for r in upstream.requests] == [17, 9, 5]


def test_error_after_the_first_event_is_passed_on() -> None:
    upstream = Scripted([[make_chunk({"content": "a"})], TOO_LONG])
    stream: EventStream = with_truncation(upstream)(
        make_chat_request(make_user_message("1"), make_answer_message("2"), make_user_message("3"))
    )
    assert next(stream)
    with pytest.raises(UpstreamRefused):
        next(stream)


def test_other_error_event_is_raised_unchanged() -> None:
    upstream = Scripted([[{"error": {"message": "no balance", "code": 402}}]])
    with pytest.raises(UpstreamRefused, match="no balance"):
        with_truncation(upstream)(
            make_chat_request(
                make_user_message("1"), make_answer_message("2"), make_user_message("3")
            )
        )


def test_answer_is_complete() -> None:
    script = [[], [make_chunk({"content": "a"})], [], [make_chunk({}, "stop")]]
    assert (
        list(with_truncation(Scripted(script))(make_chat_request(make_user_message("1")))) == script
    )
