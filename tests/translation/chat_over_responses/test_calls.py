from __future__ import annotations

from typing import Any

from forwarder.translation.chat_over_responses.calls import ToolCallDeltaWriter

Json = dict[str, Any]


def item(kind: str = "function_call", **more: Any) -> Json:
    return {"type": kind, "call_id": "c", "name": "f", **more}


def delta(index: int, said: str, kind: str = "function_call_arguments") -> Json:
    return {"type": f"response.{kind}.delta", "output_index": index, "delta": said}


def test_calls_are_numbered_as_they_open_and_may_interleave() -> None:
    calls = ToolCallDeltaWriter(uses_function_call=False)
    [first], [second] = calls.open_call(3, item()), calls.open_call(5, item("custom_tool_call"))
    assert first["tool_calls"] == [
        {"index": 0, "id": "c", "type": "function", "function": {"name": "f", "arguments": ""}}
    ]
    assert second["tool_calls"] == [
        {"index": 1, "id": "c", "type": "custom", "custom": {"name": "f", "input": ""}}
    ]
    assert calls.open_call(3, item()) == []
    assert calls.append_input(delta(5, "x", "custom_tool_call_input")) == [
        {"tool_calls": [{"index": 1, "custom": {"input": "x"}}]}
    ]
    assert calls.append_input(delta(3, "{")) == [
        {"tool_calls": [{"index": 0, "function": {"arguments": "{"}}]}
    ]
    assert calls.output_indexes == {3, 5}


def test_the_end_of_a_call_brings_what_is_missing() -> None:
    calls = ToolCallDeltaWriter(uses_function_call=False)
    calls.open_call(0, item())
    calls.append_input(delta(0, '{"a"'))
    whole = item(arguments='{"a": 1}')
    assert calls.finish_call(0, whole) == [
        {"tool_calls": [{"index": 0, "function": {"arguments": ": 1}"}}]}
    ]
    assert calls.finish_call(0, whole) == []
    assert len(calls.finish_call(1, whole)) == 2


def test_what_was_never_announced_waits() -> None:
    calls = ToolCallDeltaWriter(uses_function_call=False)
    assert calls.append_input(delta(0, "{}")) == []
    assert (calls.output_indexes, calls.finish_reason) == (set(), "stop")


def test_a_name_in_a_namespace_is_told_whole_and_an_id_stands_in() -> None:
    made = {"type": "function_call", "id": "fc_1", "name": "f", "namespace": "n"}
    [opened] = ToolCallDeltaWriter(uses_function_call=False).open_call(0, made)
    assert opened["tool_calls"][0]["id"] == "fc_1"
    assert opened["tool_calls"][0]["function"]["name"] == "n__f"


def test_the_legacy_dialect_knows_one_call() -> None:
    calls = ToolCallDeltaWriter(uses_function_call=True)
    assert calls.finish_call(0, item(arguments="{}")) == [
        {"function_call": {"name": "f", "arguments": ""}},
        {"function_call": {"arguments": "{}"}},
    ]
    assert calls.finish_reason == "function_call"
