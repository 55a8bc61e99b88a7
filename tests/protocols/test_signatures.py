"""Recognition and merging of signatures."""

from __future__ import annotations

import copy
from typing import Any

from forwarder.protocols.signatures import (
    SignatureCollector,
    attach_call_signatures,
    has_signature,
    merge_value,
    read_call_signatures,
    read_merged,
    read_message_signatures,
    read_tool_calls,
    strip_call_signatures,
)
from tests.helpers.check_cases import check_each

Json = dict[str, Any]
GOOGLE = {"google": {"thought_signature": "s"}}
CALL: Json = {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}


@check_each(
    ("old", "new", "merged"),
    [
        (None, GOOGLE, GOOGLE),
        ({"a": 1, "b": {"c": 1}}, {"b": {"d": 2}}, {"a": 1, "b": {"c": 1, "d": 2}}),
        ("old", "new", "new"),
        (["s"], ["s", "t"], ["s", "t"]),
        (None, [{"type": "thinking", "thinking": "a"}], [{"type": "thinking", "thinking": "a"}]),
        (
            [{"type": "thinking", "thinking": "a"}],
            [{"type": "thinking", "thinking": "b", "signature": "s"}],
            [{"type": "thinking", "thinking": "ab", "signature": "s"}],
        ),
    ],
)
def test_merge_value(old: Any, new: Any, merged: Any) -> None:
    before = copy.deepcopy((old, new))
    value = merge_value(merge_value(None, old), new)
    assert read_merged(value) == merged
    assert read_merged(merge_value(value, {})) == (merged if type(merged) is dict else {})
    assert old == before[0]
    assert new == before[1]


def test_collector_selects_signatures_of_mixed_fields() -> None:
    collector = SignatureCollector()
    collector.add_delta({"extra_content": {"google": {"thought": True}}, "content": "Hm."})
    assert not collector.has_message

    collector.add_delta({"extra_content": GOOGLE, "provider_specific_fields": {"citations": [1]}})
    collector.add_delta({"provider_specific_fields": {"thought_signatures": ["s"]}})
    assert collector.pop_message_fields() == {
        "extra_content": GOOGLE,
        "provider_specific_fields": {"thought_signatures": ["s"]},
    }
    assert collector.pop_message_fields() == {}


def test_collector_returns_whole_fields_of_changed_calls() -> None:
    collector = SignatureCollector()
    collector.add_call(0, {**CALL, "thought_signature": "s"})
    collector.add_call(1, CALL)
    assert collector.pop_calls() == {0: {"thought_signature": "s"}}
    assert collector.pop_calls() == {}

    collector.add_call(0, {"extra_content": GOOGLE})
    assert collector.pop_calls() == {0: {"thought_signature": "s", "extra_content": GOOGLE}}


def test_call_signatures_keep_their_place() -> None:
    signed = {**CALL, "extra_content": GOOGLE}
    signed["function"] = {**CALL["function"], "provider_specific_fields": {"thought_signature": 1}}
    fields = read_call_signatures(signed)

    assert read_call_signatures(CALL) == {}
    assert attach_call_signatures(CALL, fields) == signed
    assert (
        attach_call_signatures({**CALL, "extra_content": "own"}, fields)["extra_content"] == "own"
    )
    assert strip_call_signatures(signed, ()) == CALL
    assert strip_call_signatures(signed, ("extra_content",)) == {**CALL, "extra_content": GOOGLE}
    assert read_call_signatures({**CALL, "function": None}) == {}


@check_each(
    ("fields", "signed"),
    [
        ({"reasoning_details": [{"type": "reasoning.text", "text": "Hm."}]}, False),
        ({"reasoning_details": [{"type": "reasoning.text", "signature": "s"}]}, True),
        ({"reasoning_details": [{"type": "reasoning.encrypted", "data": "d"}]}, True),
        ({"thinking_blocks": [{"type": "thinking", "thinking": "a", "signature": None}]}, False),
        ({"reasoning_opaque": "o"}, True),
        ({"extra_content": GOOGLE}, True),
        ({}, False),
    ],
)
def test_has_signature(fields: Json, signed: bool) -> None:
    assert has_signature(fields) is signed
    assert read_message_signatures({"role": "assistant", **fields}) == fields


@check_each("calls", [None, "a", ["a"], {}])
def test_read_tool_calls_of_malformed_message(calls: Any) -> None:
    assert read_tool_calls({"tool_calls": calls}) == []
