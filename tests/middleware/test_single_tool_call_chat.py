"""``parallel_tool_calls: false``: one call for each choice."""

from __future__ import annotations

from typing import Any

from forwarder.core.types import Batch, Event
from forwarder.middleware.single_tool_call_chat import with_single_chat_tool_call
from forwarder.protocols.fold import fold_chat
from tests.helpers.check_cases import check_each
from tests.helpers.translating import collect_events
from tests.middleware.chatting import BASE, REQUEST, USAGE, Scripted, make_chunk

Json = dict[str, Any]
SINGLE = {**REQUEST, "parallel_tool_calls": False}


def make_call(number: int | None, call_id: str | None = None, arguments: str = "") -> Json:
    """The delta of a call."""
    call_head = {"id": call_id, "type": "function"} if call_id else {}
    name = {"name": f"f_{call_id}"} if call_id else {}
    call_index = {} if number is None else {"index": number}
    return {**call_index, **call_head, "function": {**name, "arguments": arguments}}


def keep_single_call(*deltas: Json) -> list[Event]:
    script: list[Batch] = [[make_chunk(delta)] for delta in deltas]
    return collect_events(
        with_single_chat_tool_call(Scripted([*script, [make_chunk({}, "tool_calls")]]))(SINGLE)
    )


def list_calls(events: list[Event]) -> list[tuple[str, str]]:
    message = fold_chat(iter([events]))["choices"][0]["message"]
    return [(c["id"], c["function"]["arguments"]) for c in message.get("tool_calls") or ()]


ONE_AFTER_THE_OTHER = [
    make_call(0, "a"),
    make_call(0, None, "{}"),
    make_call(1, "b"),
    make_call(1, None, "{1}"),
]
INTERLEAVED = [
    make_call(0, "a"),
    make_call(1, "b"),
    make_call(0, None, "{"),
    make_call(1, None, "{1}"),
    make_call(0, None, "}"),
]
ON_ONE_INDEX = [
    make_call(0, "a"),
    make_call(0, None, "{}"),
    make_call(0, "b"),
    make_call(0, None, "{1}"),
]
WITHOUT_INDEX = [
    make_call(None, "a"),
    make_call(None, None, "{}"),
    make_call(None, "b"),
    make_call(None, None, "{1}"),
]


@check_each("calls", [ONE_AFTER_THE_OTHER, INTERLEAVED, ON_ONE_INDEX, WITHOUT_INDEX])
def test_calls_after_the_first_are_removed(calls: list[Json]) -> None:
    events = keep_single_call(*({"tool_calls": [delta]} for delta in calls))
    assert list_calls(events) == [("a", "{}")]
    assert events[-1]["choices"][0]["finish_reason"] == "tool_calls"
    assert all(e["choices"][0]["delta"] for e in events[:-1])


def test_further_calls_in_one_delta_are_removed() -> None:
    events = keep_single_call(
        {"content": "hm", "tool_calls": [make_call(0, "a", "{}"), make_call(1, "b", "{1}")]}
    )
    assert list_calls(events) == [("a", "{}")]
    assert events[0]["choices"][0]["delta"]["content"] == "hm"


def test_other_fields_of_a_delta_are_kept() -> None:
    events = keep_single_call(
        {"tool_calls": [make_call(0, "a", "{}")]},
        {"content": "and", "tool_calls": [make_call(1, "b")]},
    )
    assert events[1]["choices"][0]["delta"] == {"content": "and"}


def test_each_choice_keeps_its_first_call() -> None:
    script = [
        [make_chunk({"tool_calls": [make_call(0, f"{letter}{index}", "{}")]}, index=index)]
        for letter in "ab"
        for index in (0, 1)
    ]
    completion = fold_chat(with_single_chat_tool_call(Scripted(script))(SINGLE))
    call_ids = [
        [c["id"] for c in choice["message"]["tool_calls"]] for choice in completion["choices"]
    ]
    assert call_ids == [["a0"], ["a1"]]


def test_whole_answer_keeps_its_first_call() -> None:
    message = {
        "role": "assistant",
        "content": None,
        "tool_calls": [make_call(None, "a"), make_call(None, "b")],
    }
    completion = {
        **BASE,
        "choices": [{"index": 0, "message": message, "finish_reason": "tool_calls"}],
    }
    [[answer]] = with_single_chat_tool_call(Scripted([[completion]]))({**SINGLE, "stream": False})
    assert answer["choices"][0]["message"]["tool_calls"] == [make_call(None, "a")]


def test_usage_chunk_is_sent_without_its_removed_call() -> None:
    chunk = {**make_chunk({"tool_calls": [make_call(1, "b")]}), "usage": USAGE}
    script: list[Batch] = [[make_chunk({"tool_calls": [make_call(0, "a")]})], [], [chunk]]
    batches = list(with_single_chat_tool_call(Scripted(script))(SINGLE))
    assert batches[1] == []
    assert batches[2] == [{**chunk, "choices": []}]


@check_each("parameters", [{}, {"parallel_tool_calls": True}, {"parallel_tool_calls": None}])
def test_other_requests_get_the_inner_stream(parameters: Json) -> None:
    stream = iter([[]])
    assert with_single_chat_tool_call(lambda request: stream)({**REQUEST, **parameters}) is stream


def test_upstream_still_gets_the_parameter() -> None:
    upstream = Scripted([[make_chunk({}, "stop")]])
    with_single_chat_tool_call(upstream)(SINGLE)
    assert upstream.requests == [SINGLE]
