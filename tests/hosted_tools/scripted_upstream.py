"""A Responses upstream that answers with scripted items, and checks of a client's stream."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

from forwarder.core.types import Batch, Event, EventStream
from tests.helpers.sdk import event_mistakes, response_mistakes

Json = dict[str, Any]

USAGE: Json = {
    "input_tokens": 10,
    "input_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 0},
    "output_tokens": 5,
    "output_tokens_details": {"reasoning_tokens": 2},
    "total_tokens": 15,
}


def make_text_item(content: str, name: str = "msg_1") -> Json:
    part = {"type": "output_text", "text": content, "annotations": [], "logprobs": []}
    return {
        "type": "message",
        "id": name,
        "role": "assistant",
        "status": "completed",
        "content": [part],
    }


def make_call(name: str, arguments: str, call_id: str = "call_1") -> Json:
    return {
        "type": "function_call",
        "id": f"fc_{call_id}",
        "call_id": call_id,
        "name": name,
        "arguments": arguments,
        "status": "completed",
    }


def make_reasoning_item(content: str, name: str = "rs_1") -> Json:
    return {
        "type": "reasoning",
        "id": name,
        "summary": [{"type": "summary_text", "text": content}],
        "encrypted_content": f"sealed {content}",
        "status": "completed",
    }


Round = list[Json] | Exception | tuple[str, list[Json]] | Callable[[Json], list[Json]]
"""Items, an error, a status with items, or a function that returns items for the request."""


class ScriptedUpstream:
    """A handler that answers each request with the next round, and records the requests."""

    def __init__(self, *rounds: Round, streamed: bool = True) -> None:
        self.requests: list[Json] = []
        self.open = 0
        self._rounds = list(rounds)
        self._streamed = streamed

    def __call__(self, request: Json) -> EventStream:
        self.requests.append(copy.deepcopy(request))
        answer = self._rounds.pop(0)
        if isinstance(answer, Exception):
            raise answer
        if callable(answer):
            answer = answer(request)
        status, items = answer if isinstance(answer, tuple) else ("completed", answer)
        self.open += 1
        stream = self._stream(make_response(request, len(self.requests), status, items))
        next(stream)
        return stream

    def _stream(self, response: Json) -> Iterator[Batch]:
        try:
            yield []
            for event in (
                make_events(response) if self._streamed else make_terminal_events(response)
            ):
                yield [copy.deepcopy(event)]
        finally:
            self.open -= 1


def make_response(request: Json, number: int, status: str, items: list[Json]) -> Json:
    reason = {"reason": "max_output_tokens"} if status == "incomplete" else None
    error = {"code": "server_error", "message": "broken"} if status == "failed" else None
    return {
        "id": f"resp_{number}",
        "object": "response",
        "created_at": 1_700_000_000 + number,
        "status": status,
        "model": "m",
        "output": items,
        "parallel_tool_calls": True,
        "tool_choice": request.get("tool_choice") or "auto",
        "tools": request.get("tools") or [],
        "max_output_tokens": request.get("max_output_tokens"),
        "usage": USAGE,
        "incomplete_details": reason,
        "error": error,
    }


def make_terminal_events(response: Json) -> list[Event]:
    return [{"type": f"response.{response['status']}", "response": response}]


def make_events(response: Json) -> list[Event]:
    initial_response = {**response, "status": "in_progress", "output": [], "usage": None}
    initial_response |= {"incomplete_details": None, "error": None}
    events: list[Event] = [
        {"type": "response.created", "response": initial_response},
        {"type": "response.in_progress", "response": initial_response},
    ]
    for index, item in enumerate(response["output"]):
        events += make_item_events(index, item)
    events += make_terminal_events(response)
    return [{**event, "sequence_number": i} for i, event in enumerate(events)]


def make_item_events(index: int, item: Json) -> list[Event]:
    index_field = {"output_index": index}
    at_item = {**index_field, "item_id": item["id"]}
    added_item: Json = {**item, "status": "in_progress"}
    content_events: list[Event] = []
    if item["type"] == "message":
        part = item["content"][0]
        added_item["content"] = []
        at_part = {**at_item, "content_index": 0}
        content_events = make_text_events(at_part, part)
    elif item["type"] == "function_call":
        added_item["arguments"] = ""
        stem = "response.function_call_arguments"
        content_events = [
            {"type": f"{stem}.delta", **at_item, "delta": item["arguments"]},
            {
                "type": f"{stem}.done",
                **at_item,
                "arguments": item["arguments"],
                "name": item["name"],
            },
        ]
    elif item["type"] == "reasoning":
        added_item = {k: v for k, v in added_item.items() if k != "encrypted_content"} | {
            "summary": []
        }
        content_events = make_summary_events(at_item, item["summary"][0]["text"])
    return [
        {"type": "response.output_item.added", **index_field, "item": added_item},
        *content_events,
        {"type": "response.output_item.done", **index_field, "item": item},
    ]


def make_text_events(place: Json, part: Json) -> list[Event]:
    content = part["text"]
    pieces = [content[i : i + 5] for i in range(0, len(content), 5)]
    return [
        {"type": "response.content_part.added", **place, "part": {**part, "text": ""}},
        *(
            {"type": "response.output_text.delta", **place, "delta": piece, "logprobs": []}
            for piece in pieces
        ),
        {"type": "response.output_text.done", **place, "text": content, "logprobs": []},
        {"type": "response.content_part.done", **place, "part": part},
    ]


def make_summary_events(at_item: Json, content: str) -> list[Event]:
    place = {**at_item, "summary_index": 0}
    part = {"type": "summary_text", "text": content}
    stem = "response.reasoning_summary"
    return [
        {"type": f"{stem}_part.added", **place, "part": {**part, "text": ""}},
        {"type": f"{stem}_text.delta", **place, "delta": content},
        {"type": f"{stem}_text.done", **place, "text": content},
        {"type": f"{stem}_part.done", **place, "part": part},
    ]


# -- checks -------------------------------------------------------------------------------------

_HOSTED = (
    "mcp_call", "web_search_call", "file_search_call", "code_interpreter_call",
    "image_generation_call",
)  # fmt: skip


def check_stream(events: list[Event]) -> Json:
    """Assert that a client's stream is valid; return its final response."""
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    kinds = [event["type"] for event in events]
    assert kinds[:2] == ["response.created", "response.in_progress"]
    terminal_kinds = [
        kind
        for kind in kinds
        if kind.removeprefix("response.") in ("completed", "incomplete", "failed")
    ]
    assert len(terminal_kinds) == 1
    assert kinds[-1] == terminal_kinds[0]
    mistakes = [mistake for event in events for mistake in event_mistakes(event)]
    assert not mistakes, mistakes[:3]
    response: Json = events[-1]["response"]
    assert not response_mistakes(response)
    assert {e["response"]["id"] for e in events if "response" in e} == {response["id"]}
    check_items(events, response["output"])
    return response


def check_items(events: list[Event], output: list[Json]) -> None:
    opened: list[Json] = []
    done: dict[int, Json] = {}
    for event in events:
        kind = event["type"]
        if kind == "response.output_item.added":
            assert event["output_index"] == len(opened)
            unfinished = [i for i, item in enumerate(opened) if i not in done]
            assert not any(opened[i]["type"] in _HOSTED for i in unfinished), "an open hosted call"
            opened.append(event["item"])
        elif kind == "response.output_item.done":
            item = done[event["output_index"]] = event["item"]
            added_item = opened[event["output_index"]]
            assert (item["id"], item["type"]) == (added_item["id"], added_item["type"])
        elif "output_index" in event:
            assert event["output_index"] < len(opened)
            assert event["output_index"] not in done
            assert event["item_id"] == opened[event["output_index"]]["id"]
    assert [done[i] for i in range(len(opened))] == output
    assert len({item["id"] for item in output}) == len(output)
