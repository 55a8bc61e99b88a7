"""Repair of native Responses streams."""

from __future__ import annotations

import copy
import itertools
import json
from typing import Any

import pytest

from forwarder.core.ids import IdSource
from forwarder.providers.responses_repair import repair_stream
from tests.fake_provider import Answer, Call
from tests.fake_provider.answers import ModelRequest
from tests.fake_provider.responses import make_events
from tests.helpers import sdk
from tests.helpers.check_cases import check_each

Json = dict[str, Any]

FULL = Answer(text="Hello there.", reasoning="I think.", calls=[Call("look", {"city": "Bern"})])


def repair(stream: list[Json], done: bool = True) -> list[Json]:
    numbers = itertools.count(1)
    id_source = IdSource(lambda prefix: f"{prefix}_{next(numbers)}", lambda: 1)
    before = copy.deepcopy(stream)
    batches = repair_stream(iter([[event] for event in stream]), lambda: done, id_source)
    result = [event for batch in batches for event in batch]
    assert stream == before
    return result


@pytest.fixture
def proper_events() -> list[Json]:
    ask = ModelRequest("responses", {"model": "m", "input": "hi", "stream": True}, 1)
    return drop_keys(list(make_events(FULL, ask)), "obfuscation")


def drop_keys(stream: list[Json], *keys: str) -> list[Json]:
    """Return the stream without these keys in events, items and responses."""

    def drop_from_event(event: Json) -> Json:
        fields = {k: v for k, v in event.items() if k not in keys}
        for name in ("item", "response"):
            if isinstance(fields.get(name), dict):
                fields[name] = {k: v for k, v in fields[name].items() if k not in keys}
        return fields

    return [drop_from_event(event) for event in stream]


def drop_events(stream: list[Json], *kinds: str) -> list[Json]:
    return [e for e in stream if e["type"].removeprefix("response.") not in kinds]


def test_complete_stream_is_unchanged(proper_events: list[Json]) -> None:
    assert repair(proper_events) == proper_events


DEFECTS: dict[str, Any] = {
    "no numbers": lambda s: drop_keys(s, "sequence_number"),
    "no indexes": lambda s: drop_keys(s, "output_index", "content_index"),
    "no ids": lambda s: drop_keys(s, "id", "item_id"),
    "no ids or indexes": lambda s: drop_keys(s, "id", "item_id", "output_index"),
    "no call ids": lambda s: drop_keys(s, "call_id"),
    "not opened": lambda s: drop_events(s, "created", "in_progress"),
    "no parts": lambda s: drop_events(s, "content_part.added", "content_part.done"),
    "no items": lambda s: drop_events(s, "output_item.added", "content_part.added"),
    "items never done": lambda s: drop_events(s, "output_item.done"),
    "no output in the end": lambda s: [
        *s[:-1], {**s[-1], "response": {**s[-1]["response"], "output": []}}
    ],
    "no status": lambda s: drop_keys(s, "status"),
    "no usage details": lambda s: [
        *s[:-1],
        {**s[-1], "response": {**s[-1]["response"], "usage": {"input_tokens": 1,
                                                              "output_tokens": 2}}},
    ],
    "null in usage details": lambda s: [
        *s[:-1],
        {**s[-1], "response": {**s[-1]["response"], "usage": {
            "input_tokens": 1, "output_tokens": 2,
            "input_tokens_details": {"cached_tokens": None, "cache_write_tokens": None}}}},
    ],
    "no annotations": lambda s: json.loads(json.dumps(s).replace('"annotations": [], ', "")),
    "bare responses": lambda s: [
        {**e, "response": {"usage": e["response"].get("usage")}} if "response" in e else e
        for e in s
    ],
    "no end": lambda s: s[:-1],
}  # fmt: skip


@check_each("defect", DEFECTS)
def test_repair_adds_missing_parts(defect: str, proper_events: list[Json]) -> None:
    stream = repair(DEFECTS[defect](copy.deepcopy(proper_events)))
    assert [m for e in stream for m in sdk.event_mistakes(e)] == []
    assert [e["sequence_number"] for e in stream] == list(range(len(stream)))
    assert stream[0]["type"] == "response.created"
    sdk.rebuild_response(stream)
    response = stream[-1]["response"]
    assert response["status"] == "completed"
    assert {e["response"]["id"] for e in stream if "response" in e} == {response["id"]}
    kinds = [item["type"] for item in response["output"]]
    assert sorted(kinds) == ["function_call", "message", "reasoning"]
    done = [e["item"] for e in stream if e["type"] == "response.output_item.done"]
    assert [item["id"] for item in done] == [item["id"] for item in response["output"]]
    (call,) = (item for item in response["output"] if item["type"] == "function_call")
    assert call["arguments"] == '{"city": "Bern"}'
    assert call["call_id"]


def test_truncated_stream_stays_truncated(proper_events: list[Json]) -> None:
    for length in range(1, len(proper_events) - 1):
        stream = repair(proper_events[:length], done=False)
        assert stream[-1]["type"] != "response.completed"
    for incomplete in (proper_events[:4], []):
        assert not any(e["type"] == "response.completed" for e in repair(incomplete))


def test_repair_complete_answer(proper_events: list[Json]) -> None:
    response = {"output": proper_events[-1]["response"]["output"], "usage": {"input_tokens": 1}}
    event = repair([{"type": "response.completed", "response": response}])[-1]
    assert sdk.response_mistakes(event["response"]) == []
    assert event["response"]["usage"]["total_tokens"] == 1


def test_repair_usage_with_chat_names(proper_events: list[Json]) -> None:
    usage = {"prompt_tokens": 3, "completion_tokens": 4}
    terminal_event = {
        **proper_events[-1],
        "response": {**proper_events[-1]["response"], "usage": usage},
    }
    assert (
        repair([*proper_events[:-1], terminal_event])[-1]["response"]["usage"]["total_tokens"] == 7
    )


def test_errors_get_sequence_numbers(proper_events: list[Json]) -> None:
    error = {"type": "error", "message": "no"}
    assert repair([*proper_events[:2], error], done=False)[-1] == {**error, "sequence_number": 2}


# -- observed streams -------------------------------------------------------------------------------


def with_reasoning_parts(stream: list[Json], name: str) -> list[Json]:
    """Return the stream with announced and closed text parts of reasoning."""
    events = []
    for event in stream:
        if event["type"].startswith("response.reasoning_summary_text."):
            event_type = event["type"].replace("reasoning_summary_text", "reasoning_text")
            position = {k: event[k] for k in ("item_id", "output_index")} | {"content_index": 0}
            values = {k: event[k] for k in ("delta", "text") if k in event}
            events.append({"type": event_type, **position, **values})
        elif event["type"].startswith("response.reasoning_summary_part."):
            step = event["type"].rpartition(".")[2]
            position = {k: event[k] for k in ("item_id", "output_index")} | {"content_index": 0}
            part = {"type": "reasoning_text", "text": event["part"]["text"]}
            events.append({"type": f"response.{name}.{step}", **position, "part": part})
        else:
            events.append(event)
    return [{**e, "sequence_number": i} for i, e in enumerate(events)]


@check_each("name", ["content_part", "reasoning_part"])
def test_reasoning_parts_belong_to_reasoning(name: str, proper_events: list[Json]) -> None:
    """DeepSeek, LM Studio and OpenRouter announce content parts, vLLM reasoning parts."""
    stream = with_reasoning_parts(proper_events, name)
    assert any(e["type"] == f"response.{name}.added" for e in stream)
    assert repair(stream) == with_reasoning_parts(proper_events, "content_part")


def test_changing_ids_become_the_first_id(proper_events: list[Json]) -> None:
    """GitHub Copilot sends a new id for an item in each event and in the output."""
    numbers = itertools.count()

    def rename_ids(event: Json) -> Json:
        event = copy.deepcopy(event)
        if "item_id" in event:
            event["item_id"] = f"id_{next(numbers)}"
        output = event.get("response", {}).get("output", [])
        for item in [*output, *filter(None, [event.get("item")])]:
            item["id"] = f"id_{next(numbers)}"
        return event

    stream = repair([rename_ids(event) for event in proper_events])
    ids = {e["output_index"]: e["item"]["id"] for e in stream
           if e["type"] == "response.output_item.added"}  # fmt: skip
    for event in stream:
        if "item_id" in event:
            assert event["item_id"] == ids[event["output_index"]]
        if "item" in event:
            assert event["item"]["id"] == ids[event["output_index"]]
    assert [item["id"] for item in stream[-1]["response"]["output"]] == list(ids.values())


def test_events_of_other_items_keep_id_and_index(proper_events: list[Json]) -> None:
    """Events of hosted tools are no messages; they keep the first id of their item too."""
    position = {"item_id": "ci_9", "output_index": 0}
    item = {"id": "ci_1", "type": "code_interpreter_call", "code": "", "container_id": "c",
            "outputs": None, "status": "in_progress"}  # fmt: skip
    tool_events = [
        {"type": "response.output_item.added", "output_index": 0, "item": item},
        {"type": "response.code_interpreter_call_code.delta", **position, "delta": "1+1"},
        {"type": "response.code_interpreter_call_code.done", **position, "code": "1+1"},
        {"type": "response.code_interpreter_call.completed", **position},
        {"type": "response.output_item.done", "output_index": 0,
         "item": {**item, "id": "ci_5", "code": "1+1", "status": "completed"}},
    ]  # fmt: skip
    terminal_event = {
        **proper_events[-1],
        "response": {**proper_events[-1]["response"], "output": []},
    }
    stream = repair([*proper_events[:2], *tool_events, terminal_event])
    assert [e["type"] for e in stream] == [
        e["type"] for e in [*proper_events[:2], *tool_events, terminal_event]
    ]
    assert {e["item_id"] for e in stream if "item_id" in e} == {"ci_1"}
    [done] = stream[-1]["response"]["output"]
    assert (done["id"], done["code"]) == ("ci_1", "1+1")


def test_terminal_event_without_output_gets_items(proper_events: list[Json]) -> None:
    """ChatGPT's backend leaves out the output."""
    terminal_event = {
        **proper_events[-1],
        "response": {**proper_events[-1]["response"], "output": []},
    }
    assert repair([*proper_events[:-1], terminal_event]) == proper_events


def test_citations_get_missing_fields(proper_events: list[Json]) -> None:
    """xAI sends only the URL."""
    annotation = {"type": "url_citation", "url": "https://x.ai"}
    events: list[Json] = []
    for event in copy.deepcopy(proper_events):
        if event["type"] == "response.output_text.done":
            position = {k: event[k] for k in ("item_id", "output_index", "content_index")}
            kind = "response.output_text.annotation.added"
            events.append(
                {"type": kind, **position, "annotation_index": 0, "annotation": annotation}
            )
        if event["type"] == "response.content_part.done":
            event["part"]["annotations"] = [annotation]
        items = [event["item"]] if event["type"] == "response.output_item.done" else []
        for item in [*items, *event.get("response", {}).get("output", [])]:
            for part in item["content"] if item["type"] == "message" else ():
                part["annotations"] = [annotation]
        events.append(event)
    stream = repair([{**e, "sequence_number": i} for i, e in enumerate(events)])
    assert json.dumps(events).count("https://x.ai") == json.dumps(stream).count('"title": ""') == 4
    assert [m for e in stream for m in sdk.event_mistakes(e)] == []
