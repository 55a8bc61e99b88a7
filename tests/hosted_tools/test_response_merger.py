"""Upstreams with valid streams that differ from OpenAI's."""

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
    call,
    check_stream,
    make_events,
    make_response,
    make_text_item,
)

Json = dict[str, Any]


class Echo(HostedFunction):
    """A hosted function shown as an ``mcp_call``."""

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


def merge(events: list[Event], function: HostedFunction | None = None) -> tuple[list[Event], Round]:
    """The client's events of a round and its end, with all hosted calls run."""
    mint = make_counting_id_source()
    merger = ResponseMerger(
        {"echo": function or Echo("echo")}.get, mint, {"tools": []}, None, False
    )
    round_ = make_round(mint)
    out = collect_events(merger.read_round(iter([[event] for event in events]), round_))
    for thing in merger.take_held():
        if isinstance(thing, dict):
            out += merger.number_events([thing])
        elif thing.mode == "cut":
            out += merger.cut_call(thing)
        else:
            outcome = thing.function.start_call(thing.arguments).read_outcome(thing.item)
            out += merger.finish_call(thing, outcome)
    return out + merger.make_terminal(round_), round_


ITEMS = [make_text_item("Hm."), call("echo", "{}", "call_1"), call("echo", '{"a":1}', "call_2")]
RESPONSE = make_response({}, 1, "completed", ITEMS)
EVENTS = make_events(RESPONSE)


def test_hosted_calls_are_shown_as_their_own_items() -> None:
    events, round_ = merge(EVENTS)
    response = check_stream(events)
    assert [item["type"] for item in response["output"]] == ["message", "mcp_call", "mcp_call"]
    assert [call.arguments for call in round_.calls] == ["{}", '{"a":1}']
    assert round_.items == ITEMS


def test_calls_without_argument_events_are_shown() -> None:
    events, _ = merge([e for e in EVENTS if "function_call_arguments" not in e["type"]])
    assert [e["arguments"] for e in events if e["type"].endswith("arguments.done")] == [
        "{}", '{"a":1}'
    ]  # fmt: skip
    check_stream(events)


def test_items_that_only_the_end_has_are_shown() -> None:
    events, round_ = merge([*EVENTS[:2], EVENTS[-1]])
    response = check_stream(events)
    assert len(response["output"]) == 3
    assert round_.items == ITEMS


def test_output_that_the_end_lacks_is_taken_from_the_events() -> None:
    end = {**EVENTS[-1], "response": {**RESPONSE, "output": []}}
    events, _ = merge([*EVENTS[:-1], end])
    assert len(check_stream(events)["output"]) == 3


def test_items_with_other_ids_at_the_end_are_not_repeated() -> None:
    renamed = [{**item, "id": f"other_{i}"} for i, item in enumerate(ITEMS)]
    end = {**EVENTS[-1], "response": {**RESPONSE, "output": renamed}}
    events, _ = merge([*EVENTS[:-1], end])
    assert len(check_stream(events)["output"]) == 3


def test_item_that_is_only_done_at_the_end_is_done() -> None:
    last = max(i for i, e in enumerate(EVENTS) if e["type"] == "response.output_item.done")
    events, round_ = merge([e for i, e in enumerate(EVENTS) if i != last])
    assert len(check_stream(events)["output"]) == 3
    assert len(round_.calls) == 2


def test_interleaved_calls_keep_their_arguments() -> None:
    first, second = ([e for e in EVENTS if e.get("output_index") == i] for i in (1, 2))
    mixed = [event for pair in zip(first, second, strict=True) for event in pair]
    _, round_ = merge([*EVENTS[:2], *mixed, EVENTS[-1]])
    assert [call.arguments for call in round_.calls] == ["{}", '{"a":1}']


@check_each("namespace", ["other", None])
def test_function_of_a_clients_namespace_is_the_clients(namespace: str | None) -> None:
    own = {**call("echo", "{}"), "namespace": namespace}
    _, round_ = merge(make_events(make_response({}, 1, "completed", [own])))
    assert round_.has_client_calls is (namespace is not None)


class Quiet(Echo):
    """A hosted function without events for its arguments, like a search."""

    argument_events = ""


def test_quiet_call_keeps_its_place_before_later_items() -> None:
    own = call("weather", "{}", "call_3")
    events = make_events(make_response({}, 1, "completed", [ITEMS[1], own, ITEMS[2]]))
    places = [[e for e in events if e.get("output_index") == i] for i in range(3)]
    mixed = [event for row in zip(*places, strict=True) for event in row]
    merged, round_ = merge([*events[:2], *mixed, events[-1]], Quiet("echo"))
    response = check_stream(merged)
    kinds = [item["type"] for item in response["output"]]
    assert kinds == ["mcp_call", "function_call", "mcp_call"]
    assert [each.arguments for each in round_.calls] == ["{}", '{"a":1}']


@check_each("function", [Echo("echo"), Quiet("echo")], ids=["echo", "quiet"])
def test_call_that_is_never_done_is_cut(function: Echo) -> None:
    response = {**RESPONSE, "status": "incomplete", "output": [ITEMS[0]]}
    end = {"type": "response.incomplete", "sequence_number": 99, "response": response}
    begun = [e for e in EVENTS if e.get("output_index") in (0, 1)][:-1]
    merged, round_ = merge([*EVENTS[:2], *begun, end], function)
    assert [item["status"] for item in check_stream(merged)["output"]] == [
        "completed", "incomplete"
    ]  # fmt: skip
    assert round_.items == [ITEMS[0]]
