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


def call(number: int | None, call_id: str | None = None, arguments: str = "") -> Json:
    """The delta of a call."""
    begun = {"id": call_id, "type": "function"} if call_id else {}
    name = {"name": f"f_{call_id}"} if call_id else {}
    place = {} if number is None else {"index": number}
    return {**place, **begun, "function": {**name, "arguments": arguments}}


def keep_single_call(*deltas: Json) -> list[Event]:
    script: list[Batch] = [[make_chunk(delta)] for delta in deltas]
    return collect_events(
        with_single_chat_tool_call(Scripted([*script, [make_chunk({}, "tool_calls")]]))(SINGLE)
    )


def calls_of(events: list[Event]) -> list[tuple[str, str]]:
    message = fold_chat(iter([events]))["choices"][0]["message"]
    return [(c["id"], c["function"]["arguments"]) for c in message.get("tool_calls") or ()]


ONE_AFTER_THE_OTHER = [call(0, "a"), call(0, None, "{}"), call(1, "b"), call(1, None, "{1}")]
INTERLEAVED = [
    call(0, "a"),
    call(1, "b"),
    call(0, None, "{"),
    call(1, None, "{1}"),
    call(0, None, "}"),
]
ON_ONE_INDEX = [call(0, "a"), call(0, None, "{}"), call(0, "b"), call(0, None, "{1}")]
WITHOUT_INDEX = [call(None, "a"), call(None, None, "{}"), call(None, "b"), call(None, None, "{1}")]


@check_each("calls", [ONE_AFTER_THE_OTHER, INTERLEAVED, ON_ONE_INDEX, WITHOUT_INDEX])
def test_only_the_first_call_is_kept(calls: list[Json]) -> None:
    events = keep_single_call(*({"tool_calls": [delta]} for delta in calls))
    assert calls_of(events) == [("a", "{}")]
    assert events[-1]["choices"][0]["finish_reason"] == "tool_calls"
    assert all(e["choices"][0]["delta"] for e in events[:-1])


def test_further_calls_in_one_delta_are_removed() -> None:
    events = keep_single_call(
        {"content": "hm", "tool_calls": [call(0, "a", "{}"), call(1, "b", "{1}")]}
    )
    assert calls_of(events) == [("a", "{}")]
    assert events[0]["choices"][0]["delta"]["content"] == "hm"


def test_other_fields_of_a_delta_are_kept() -> None:
    events = keep_single_call(
        {"tool_calls": [call(0, "a", "{}")]}, {"content": "and", "tool_calls": [call(1, "b")]}
    )
    assert events[1]["choices"][0]["delta"] == {"content": "and"}


def test_each_choice_keeps_its_first_call() -> None:
    script = [
        [make_chunk({"tool_calls": [call(0, f"{letter}{index}", "{}")]}, index=index)]
        for letter in "ab"
        for index in (0, 1)
    ]
    completion = fold_chat(with_single_chat_tool_call(Scripted(script))(SINGLE))
    kept = [[c["id"] for c in choice["message"]["tool_calls"]] for choice in completion["choices"]]
    assert kept == [["a0"], ["a1"]]


def test_whole_answer_keeps_its_first_call() -> None:
    message = {
        "role": "assistant",
        "content": None,
        "tool_calls": [call(None, "a"), call(None, "b")],
    }
    completion = {
        **BASE,
        "choices": [{"index": 0, "message": message, "finish_reason": "tool_calls"}],
    }
    [[kept]] = with_single_chat_tool_call(Scripted([[completion]]))({**SINGLE, "stream": False})
    assert kept["choices"][0]["message"]["tool_calls"] == [call(None, "a")]


def test_usage_of_an_emptied_chunk_is_kept() -> None:
    told = {**make_chunk({"tool_calls": [call(1, "b")]}), "usage": USAGE}
    script: list[Batch] = [[make_chunk({"tool_calls": [call(0, "a")]})], [], [told]]
    batches = list(with_single_chat_tool_call(Scripted(script))(SINGLE))
    assert batches[1] == []
    assert batches[2] == [{**told, "choices": []}]


@check_each("parallel", [{}, {"parallel_tool_calls": True}, {"parallel_tool_calls": None}])
def test_other_requests_get_the_inner_stream(parallel: Json) -> None:
    stream = iter([[]])
    assert with_single_chat_tool_call(lambda request: stream)({**REQUEST, **parallel}) is stream


def test_upstream_still_gets_the_parameter() -> None:
    upstream = Scripted([[make_chunk({}, "stop")]])
    with_single_chat_tool_call(upstream)(SINGLE)
    assert upstream.requests == [SINGLE]
