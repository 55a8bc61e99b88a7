from __future__ import annotations

from typing import Any

from forwarder.translation.chat_over_responses.calls import ToolCallDeltaWriter

Json = dict[str, Any]


def make_item(kind: str = "function_call", **more: Any) -> Json:
    return {"type": kind, "call_id": "c", "name": "f", **more}


def make_delta(index: int, text: str, kind: str = "function_call_arguments") -> Json:
    return {"type": f"response.{kind}.delta", "output_index": index, "delta": text}


def test_calls_are_numbered_in_opening_order_and_may_interleave() -> None:
    calls = ToolCallDeltaWriter(uses_function_call=False)
    [first], [second] = (
        calls.open_call(3, make_item()),
        calls.open_call(5, make_item("custom_tool_call")),
    )
    assert first["tool_calls"] == [
        {"index": 0, "id": "c", "type": "function", "function": {"name": "f", "arguments": ""}}
    ]
    assert second["tool_calls"] == [
        {"index": 1, "id": "c", "type": "custom", "custom": {"name": "f", "input": ""}}
    ]
    assert calls.open_call(3, make_item()) == []
    assert calls.append_input(make_delta(5, "x", "custom_tool_call_input")) == [
        {"tool_calls": [{"index": 1, "custom": {"input": "x"}}]}
    ]
    assert calls.append_input(make_delta(3, "{")) == [
        {"tool_calls": [{"index": 0, "function": {"arguments": "{"}}]}
    ]
    assert calls.output_indexes == {3, 5}


def test_finished_call_sends_the_missing_input() -> None:
    calls = ToolCallDeltaWriter(uses_function_call=False)
    calls.open_call(0, make_item())
    calls.append_input(make_delta(0, '{"a"'))
    finished_item = make_item(arguments='{"a": 1}')
    assert calls.finish_call(0, finished_item) == [
        {"tool_calls": [{"index": 0, "function": {"arguments": ": 1}"}}]}
    ]
    assert calls.finish_call(0, finished_item) == []
    assert len(calls.finish_call(1, finished_item)) == 2


def test_input_of_an_unannounced_call_waits() -> None:
    calls = ToolCallDeltaWriter(uses_function_call=False)
    assert calls.append_input(make_delta(0, "{}")) == []
    assert (calls.output_indexes, calls.finish_reason) == (set(), "stop")


def test_namespace_joins_the_name_and_the_item_id_is_the_fallback() -> None:
    item = {"type": "function_call", "id": "fc_1", "name": "f", "namespace": "n"}
    [opening] = ToolCallDeltaWriter(uses_function_call=False).open_call(0, item)
    assert opening["tool_calls"][0]["id"] == "fc_1"
    assert opening["tool_calls"][0]["function"]["name"] == "n__f"


def test_legacy_function_call_deltas() -> None:
    calls = ToolCallDeltaWriter(uses_function_call=True)
    assert calls.finish_call(0, make_item(arguments="{}")) == [
        {"function_call": {"name": "f", "arguments": ""}},
        {"function_call": {"arguments": "{}"}},
    ]
    assert calls.finish_reason == "function_call"
