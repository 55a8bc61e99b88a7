"""Merging of rounds from upstreams with valid streams that differ from OpenAI's."""

from __future__ import annotations

from typing import Any

from forwarder.core.types import Event
from forwarder.hosted_tools.hosted_function import (
    CallOutcome,
    FinishedCall,
    HostedFunction,
    RunningCall,
    make_function_tool,
)
from forwarder.hosted_tools.response_merger import ResponseMerger, Round, make_round
from tests.helpers.check_cases import check_each
from tests.helpers.translating import collect_events, make_counting_id_source
from tests.hosted_tools.scripted_upstream import (
    check_stream,
    make_call,
    make_events,
    make_response,
    make_text_item,
)

Json = dict[str, Any]


class Echo(HostedFunction):
    """A hosted function whose calls are ``mcp_call`` items."""

    id_prefix = "mcp"
    argument_events = "response.mcp_call_arguments"

    @property
    def definition(self) -> Json:
        return make_function_tool(self.name, None, {})

    def make_item(self, item_id: str, arguments: str) -> Json:
        return {
            "id": item_id,
            "type": "mcp_call",
            "name": "echo",
            "server_label": "l",
            "arguments": arguments,
            "status": "in_progress",
        }

    def start_call(self, arguments: str) -> RunningCall:
        return FinishedCall(lambda item: CallOutcome({**item, "status": "completed"}, (), "out"))


def merge_round(
    events: list[Event], function: HostedFunction | None = None
) -> tuple[list[Event], Round]:
    """The client's events of a round and its end, with all hosted calls run."""
    id_source = make_counting_id_source()
    merger = ResponseMerger(
        {"echo": function or Echo("echo")}.get, id_source, {"tools": []}, None, False
    )
    round_ = make_round(id_source)
    merged_events = collect_events(merger.read_round(iter([[event] for event in events]), round_))
    for held in merger.take_held():
        if isinstance(held, dict):
            merged_events += merger.number_events([held])
        elif held.mode == "cut":
            merged_events += merger.cut_call(held)
        else:
            outcome = held.function.start_call(held.arguments).read_outcome(held.item)
            merged_events += merger.finish_call(held, outcome)
    return merged_events + merger.make_terminal(round_), round_


ITEMS = [
    make_text_item("Hm."),
    make_call("echo", "{}", "call_1"),
    make_call("echo", '{"a":1}', "call_2"),
]
RESPONSE = make_response({}, 1, "completed", ITEMS)
EVENTS = make_events(RESPONSE)


def test_hosted_calls_are_shown_as_their_own_items() -> None:
    events, round_ = merge_round(EVENTS)
    response = check_stream(events)
    assert [item["type"] for item in response["output"]] == ["message", "mcp_call", "mcp_call"]
    assert [make_call.arguments for make_call in round_.calls] == ["{}", '{"a":1}']
    assert round_.items == ITEMS


def test_calls_without_argument_events_are_shown() -> None:
    events, _ = merge_round([e for e in EVENTS if "function_call_arguments" not in e["type"]])
    assert [e["arguments"] for e in events if e["type"].endswith("arguments.done")] == [
        "{}", '{"a":1}'
    ]  # fmt: skip
    check_stream(events)


def test_items_only_in_the_terminal_event_are_sent() -> None:
    events, round_ = merge_round([*EVENTS[:2], EVENTS[-1]])
    response = check_stream(events)
    assert len(response["output"]) == 3
    assert round_.items == ITEMS


def test_output_missing_in_the_terminal_event_is_taken_from_the_events() -> None:
    end = {**EVENTS[-1], "response": {**RESPONSE, "output": []}}
    events, _ = merge_round([*EVENTS[:-1], end])
    assert len(check_stream(events)["output"]) == 3


def test_items_with_other_ids_in_the_terminal_event_are_not_repeated() -> None:
    renamed_items = [{**item, "id": f"other_{i}"} for i, item in enumerate(ITEMS)]
    end = {**EVENTS[-1], "response": {**RESPONSE, "output": renamed_items}}
    events, _ = merge_round([*EVENTS[:-1], end])
    assert len(check_stream(events)["output"]) == 3


def test_event_without_an_item_takes_no_place_in_the_output() -> None:
    first = next(i for i, e in enumerate(EVENTS) if e["type"] == "response.output_item.added")
    keepalive = {"type": "keepalive", "sequence_number": 99}
    events, _ = merge_round([*EVENTS[:first], keepalive, *EVENTS[first:]])
    assert events[first] == {"type": "keepalive", "sequence_number": first}
    indexes = [e["output_index"] for e in events if e["type"] == "response.output_item.added"]
    assert indexes == [0, 1, 2]


def test_text_of_events_without_an_item_is_sent_once() -> None:
    message = {"type": "message", "id": "msg_1", "content": [{"type": "output_text", "text": "hi"}]}
    delta = {"type": "response.output_text.delta", "delta": "hi"}
    end = {"type": "response.completed", "response": {**RESPONSE, "output": [message]}}
    events, _ = merge_round([EVENTS[0], delta, end])
    assert [event["type"] for event in events][1:] == [delta["type"], end["type"]]
    assert events[-1]["response"]["output"] == [message]


def test_item_only_done_in_the_terminal_event_is_done() -> None:
    last = max(i for i, e in enumerate(EVENTS) if e["type"] == "response.output_item.done")
    events, round_ = merge_round([e for i, e in enumerate(EVENTS) if i != last])
    assert len(check_stream(events)["output"]) == 3
    assert len(round_.calls) == 2


def test_interleaved_calls_keep_their_arguments() -> None:
    first, second = ([e for e in EVENTS if e.get("output_index") == i] for i in (1, 2))
    interleaved = [event for pair in zip(first, second, strict=True) for event in pair]
    _, round_ = merge_round([*EVENTS[:2], *interleaved, EVENTS[-1]])
    assert [make_call.arguments for make_call in round_.calls] == ["{}", '{"a":1}']


@check_each("namespace", ["other", None])
def test_function_in_a_namespace_is_a_client_call(namespace: str | None) -> None:
    client_call = {**make_call("echo", "{}"), "namespace": namespace}
    _, round_ = merge_round(make_events(make_response({}, 1, "completed", [client_call])))
    assert round_.has_client_calls is (namespace is not None)


class EchoWithoutArgumentEvents(Echo):
    """A hosted function without events for its arguments, like a search."""

    argument_events = ""


def test_call_without_argument_events_precedes_later_items() -> None:
    client_call = make_call("weather", "{}", "call_3")
    events = make_events(make_response({}, 1, "completed", [ITEMS[1], client_call, ITEMS[2]]))
    events_of_items = [[e for e in events if e.get("output_index") == i] for i in range(3)]
    interleaved = [event for row in zip(*events_of_items, strict=True) for event in row]
    merged, round_ = merge_round(
        [*events[:2], *interleaved, events[-1]], EchoWithoutArgumentEvents("echo")
    )
    response = check_stream(merged)
    kinds = [item["type"] for item in response["output"]]
    assert kinds == ["mcp_call", "function_call", "mcp_call"]
    assert [hosted_call.arguments for hosted_call in round_.calls] == ["{}", '{"a":1}']


@check_each("function", [Echo("echo"), EchoWithoutArgumentEvents("echo")], ids=["echo", "quiet"])
def test_call_without_done_event_is_incomplete(function: Echo) -> None:
    response = {**RESPONSE, "status": "incomplete", "output": [ITEMS[0]]}
    end = {"type": "response.incomplete", "sequence_number": 99, "response": response}
    unfinished_events = [e for e in EVENTS if e.get("output_index") in (0, 1)][:-1]
    merged, round_ = merge_round([*EVENTS[:2], *unfinished_events, end], function)
    assert [item["status"] for item in check_stream(merged)["output"]] == [
        "completed", "incomplete"
    ]  # fmt: skip
    assert round_.items == [ITEMS[0]]
