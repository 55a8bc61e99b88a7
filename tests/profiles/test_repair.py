"""Native Responses streams that are almost right."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import pytest

from forwarder.mint import Mint
from forwarder.profiles.repair import repaired
from tests.helpers import sdk
from tests.support import Answer, Call
from tests.support.answers import Ask
from tests.support.responses import events

Json = dict[str, Any]

FULL = Answer(text="Hello there.", reasoning="I think.", calls=[Call("look", {"city": "Bern"})])


def made(stream: list[Json], done: bool = True, streamed: bool = True) -> list[Json]:
    numbers = itertools.count(1)
    mint = Mint(lambda prefix: f"{prefix}_{next(numbers)}", lambda: 1)
    before = copy.deepcopy(stream)
    batches = repaired(iter([[event] for event in stream]), lambda: done, streamed, mint)
    result = [event for batch in batches for event in batch]
    assert stream == before
    return result


@pytest.fixture
def proper() -> list[Json]:
    ask = Ask("responses", {"model": "m", "input": "hi", "stream": True}, 1)
    return without(list(events(FULL, ask)), "obfuscation")


def without(stream: list[Json], *keys: str) -> list[Json]:
    """The stream in which no event, item or response has these."""

    def stripped(event: Json) -> Json:
        kept = {k: v for k, v in event.items() if k not in keys}
        for name in ("item", "response"):
            if isinstance(kept.get(name), dict):
                kept[name] = {k: v for k, v in kept[name].items() if k not in keys}
        return kept

    return [stripped(event) for event in stream]


def of(stream: list[Json], *kinds: str) -> list[Json]:
    return [e for e in stream if e["type"].removeprefix("response.") not in kinds]


def test_a_proper_stream_stays_as_it_is(proper: list[Json]) -> None:
    assert made(proper) == proper


BREAKS: dict[str, Any] = {
    "no numbers": lambda s: without(s, "sequence_number"),
    "no indexes": lambda s: without(s, "output_index", "content_index"),
    "no ids": lambda s: without(s, "id", "item_id"),
    "no ids or indexes": lambda s: without(s, "id", "item_id", "output_index"),
    "no call ids": lambda s: without(s, "call_id"),
    "not opened": lambda s: of(s, "created", "in_progress"),
    "no parts": lambda s: of(s, "content_part.added", "content_part.done"),
    "no items": lambda s: of(s, "output_item.added", "content_part.added"),
    "items never done": lambda s: of(s, "output_item.done"),
    "no output in the end": lambda s: [
        *s[:-1], {**s[-1], "response": {**s[-1]["response"], "output": []}}
    ],
    "no status": lambda s: without(s, "status"),
    "no usage details": lambda s: [
        *s[:-1],
        {**s[-1], "response": {**s[-1]["response"], "usage": {"input_tokens": 1,
                                                              "output_tokens": 2}}},
    ],
    "bare responses": lambda s: [
        {**e, "response": {"usage": e["response"].get("usage")}} if "response" in e else e
        for e in s
    ],
    "no end": lambda s: s[:-1],
}  # fmt: skip


@pytest.mark.parametrize("broken", BREAKS)
def test_what_is_missing_is_added(broken: str, proper: list[Json]) -> None:
    stream = made(BREAKS[broken](copy.deepcopy(proper)))
    assert [m for e in stream for m in sdk.event_mistakes(e)] == []
    assert [e["sequence_number"] for e in stream] == list(range(len(stream)))
    assert stream[0]["type"] == "response.created"
    sdk.rebuilt_response(stream)
    last = stream[-1]["response"]
    assert last["status"] == "completed"
    assert {e["response"]["id"] for e in stream if "response" in e} == {last["id"]}
    kinds = [item["type"] for item in last["output"]]
    assert sorted(kinds) == ["function_call", "message", "reasoning"]
    done = [e["item"] for e in stream if e["type"] == "response.output_item.done"]
    assert [item["id"] for item in done] == [item["id"] for item in last["output"]]
    (call,) = (item for item in last["output"] if item["type"] == "function_call")
    assert call["arguments"] == '{"city": "Bern"}'
    assert call["call_id"]


def test_a_cut_stream_is_not_made_whole(proper: list[Json]) -> None:
    for cut in range(1, len(proper) - 1):
        stream = made(proper[:cut], done=False)
        assert stream[-1]["type"] != "response.completed"
    for said in (proper[:4], []):
        assert not any(e["type"] == "response.completed" for e in made(said))


def test_a_whole_answer_is_one_event_with_everything_in_it(proper: list[Json]) -> None:
    bare = {"output": proper[-1]["response"]["output"], "usage": {"input_tokens": 1}}
    (event,) = made([{"type": "response.completed", "response": bare}], streamed=False)
    assert sdk.response_mistakes(event["response"]) == []
    assert event["response"]["usage"]["total_tokens"] == 1


def test_usage_in_chats_words_is_understood(proper: list[Json]) -> None:
    usage = {"prompt_tokens": 3, "completion_tokens": 4}
    end = {**proper[-1], "response": {**proper[-1]["response"], "usage": usage}}
    assert made([*proper[:-1], end])[-1]["response"]["usage"]["total_tokens"] == 7


def test_errors_are_passed_on_with_their_number(proper: list[Json]) -> None:
    error = {"type": "error", "message": "no"}
    assert made([*proper[:2], error], done=False)[-1] == {**error, "sequence_number": 2}
