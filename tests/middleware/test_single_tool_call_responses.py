"""``parallel_tool_calls: false`` over Responses: one call."""

from __future__ import annotations

from typing import Any

from forwarder.core.types import Batch, Event
from forwarder.middleware.single_tool_call_responses import with_single_responses_tool_call
from tests.helpers.check_cases import check_each
from tests.helpers.translating import collect_events
from tests.middleware.chatting import Scripted

Json = dict[str, Any]
SINGLE: Json = {"model": "m", "input": "hi", "parallel_tool_calls": False}
TEXT: Json = {"type": "message", "id": "msg_1", "role": "assistant", "content": []}
SEARCH: Json = {"type": "web_search_call", "id": "ws_1", "status": "completed"}


def make_call(name: str, kind: str = "function_call") -> Json:
    key = "arguments" if kind == "function_call" else "input"
    return {"type": kind, "id": f"id_{name}", "call_id": name, "name": name, key: "{}"}


def make_events(*items: Json, indexed: bool = True) -> list[Event]:
    """The events of a response with these items."""
    events: list[Event] = [{"type": "response.created", "response": {"id": "r", "output": []}}]
    for i, item in enumerate(items):
        place = {"output_index": i} if indexed else {}
        events.append({"type": "response.output_item.added", **place, "item": item})
        stem = {
            "function_call": "function_call_arguments",
            "custom_tool_call": "custom_tool_call_input",
        }.get(item["type"], "output_text")
        for step in ("delta", "done"):
            events.append({"type": f"response.{stem}.{step}", "item_id": item["id"], **place})
        events.append({"type": "response.output_item.done", **place, "item": item})
    events.append({"type": "response.completed", "response": {"id": "r", "output": list(items)}})
    return [{**event, "sequence_number": i} for i, event in enumerate(events)]


def keep_single_call(events: list[Event], request: Json = SINGLE) -> list[Event]:
    script: list[Batch] = [[event] for event in events]
    return collect_events(with_single_responses_tool_call(Scripted(script))(request))


@check_each("indexed", [True, False])
@check_each("kind", ["function_call", "custom_tool_call"])
@check_each("before", [[], [TEXT], [SEARCH]])
@check_each("after", [[], [{**TEXT, "id": "msg_2"}]])
def test_first_call_is_kept_and_later_items_are_renumbered(
    before: list[Json], after: list[Json], kind: str, indexed: bool
) -> None:
    items = [*before, make_call("a"), make_call("b", kind), make_call("c"), *after]
    expected_items = [*before, make_call("a"), *after]
    assert keep_single_call(make_events(*items, indexed=indexed)) == make_events(
        *expected_items, indexed=indexed
    )


def test_interleaved_calls_are_distinguished() -> None:
    events = make_events(make_call("a"), make_call("b"))
    events = [events[0], events[1], events[5], *events[2:5], *events[6:]]
    events = [{**event, "sequence_number": i} for i, event in enumerate(events)]
    assert keep_single_call(events) == make_events(make_call("a"))


def test_call_without_added_event_is_recognized() -> None:
    events = [
        e for e in make_events(make_call("a"), make_call("b")) if not e["type"].endswith("added")
    ]
    expected_events = [e for e in make_events(make_call("a")) if not e["type"].endswith("added")]
    received_events = [
        {k: v for k, v in e.items() if k != "sequence_number"} for e in keep_single_call(events)
    ]
    assert received_events == [
        {k: v for k, v in e.items() if k != "sequence_number"} for e in expected_events
    ]


def test_whole_answer_has_one_call() -> None:
    events = make_events(TEXT, make_call("a"), make_call("b"))[-1:]
    assert keep_single_call(events)[0]["response"]["output"] == [TEXT, make_call("a")]


def test_hosted_tool_calls_are_kept() -> None:
    events = make_events(SEARCH, {**SEARCH, "id": "ws_2"}, TEXT, make_call("a"))
    assert keep_single_call(events) == events


def test_empty_batches_are_passed_on() -> None:
    events = make_events(make_call("a"), make_call("b"))
    script: list[Batch] = [[events[0]], [], events[1:5], events[5:9], [events[-1]]]
    batches = list(with_single_responses_tool_call(Scripted(script))(SINGLE))
    assert [len(batch) for batch in batches] == [1, 0, 4, 1]


@check_each("parameters", [{}, {"parallel_tool_calls": True}])
def test_other_requests_get_the_inner_stream(parameters: Json) -> None:
    stream = iter([[]])
    request = {"model": "m", "input": "hi", **parameters}
    assert with_single_responses_tool_call(lambda request: stream)(request) is stream
