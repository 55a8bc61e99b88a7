from __future__ import annotations

import json
from typing import Any

from forwarder.protocols.input_items import CLIENT_CALLS
from forwarder.translation.responses_over_chat.client_tool_kinds import (
    CALL_TYPES,
    OUTPUT_TYPES,
    TOOL_KINDS,
)
from tests.fake_provider import check_chat
from tests.helpers.check_cases import check_each

Json = dict[str, Any]


@check_each("name", TOOL_KINDS)
def test_kinds_are_found_by_call_and_output_type(name: str) -> None:
    kind = TOOL_KINDS[name]
    assert CALL_TYPES[kind.call_type] == (name, kind)
    assert OUTPUT_TYPES[kind.output_type] is kind


def test_calls_of_all_kinds_are_answered_by_the_client() -> None:
    for kind in TOOL_KINDS.values():
        assert CLIENT_CALLS[kind.call_type] == kind.output_type


@check_each("name", TOOL_KINDS)
def test_every_kind_makes_a_valid_strict_function(name: str) -> None:
    kind = TOOL_KINDS[name]
    function = {
        "name": name,
        "description": kind.describe({}) or "",
        "parameters": kind.make_parameters({}),
    }
    tools = [{"type": "function", "function": function}]
    assert (
        check_chat({"model": "m", "messages": [{"role": "user", "content": "x"}], "tools": tools})
        == []
    )


def test_schemas_are_not_shared_between_requests() -> None:
    for kind in TOOL_KINDS.values():
        first = kind.make_parameters({})
        first["properties"]["x"] = 1
        assert kind.make_parameters({}) != first


WRITTEN: list[tuple[str, Any, Json]] = [
    ("local_shell", {"command": ["ls", "-l"]},
     {"command": ["ls", "-l"], "env": {}, "timeout_ms": None, "working_directory": None}),
    ("local_shell", {"command": "ls | wc", "env": {"A": 1}, "timeout_ms": "5", "working_directory": "/"},
     {"command": ["bash", "-lc", "ls | wc"], "env": {"A": "1"}, "timeout_ms": 5, "working_directory": "/"}),
    ("local_shell", "no object", {"command": ["bash", "-lc", ""], "env": {}, "timeout_ms": None,
                                  "working_directory": None}),
    ("shell", {"commands": ["a", 1]}, {"commands": ["a", "1"], "timeout_ms": None, "max_output_length": None}),
    ("shell", {"command": "a", "timeout_ms": 1.0, "max_output_length": "x"},
     {"commands": ["a"], "timeout_ms": 1, "max_output_length": None}),
    ("apply_patch", {"type": "delete_file", "path": "p", "diff": "d"}, {"type": "delete_file", "path": "p"}),
    ("apply_patch", {"type": "create_file", "path": "p", "diff": "d"},
     {"type": "create_file", "path": "p", "diff": "d"}),
    ("apply_patch", {"type": "rename", "path": None}, {"type": "update_file", "path": "", "diff": ""}),
    ("tool_search", {"query": "q"}, {"query": "q"}),
    ("tool_search", ["q"], {}),
]  # fmt: skip


@check_each(("name", "arguments", "expected"), WRITTEN)
def test_arguments_become_call_fields(name: str, arguments: Any, expected: Json) -> None:
    fields = TOOL_KINDS[name].make_call_fields(json.dumps(arguments))
    field, _ = TOOL_KINDS[name].input_field
    value = fields[field]
    assert {k: v for k, v in value.items() if name != "local_shell" or k != "type"} == expected


HISTORY_CALLS: list[tuple[str, Json, Any]] = [
    ("function", {"arguments": '{"a": 1}'}, {"a": 1}),
    ("function", {"arguments": ""}, {}),
    ("function", {"arguments": None}, {}),
    ("custom", {"input": 'a "b"'}, {"input": 'a "b"'}),
    ("custom", {}, {"input": ""}),
    ("local_shell", {"action": {"type": "exec", "command": ["ls"], "env": {}, "user": "me"}}, {"command": ["ls"]}),
    ("shell", {"action": {"commands": ["ls"], "timeout_ms": None}}, {"commands": ["ls"]}),
    ("apply_patch", {"operation": {"type": "delete_file", "path": "p"}}, {"type": "delete_file", "path": "p"}),
    ("tool_search", {"arguments": {"query": "q"}}, {"query": "q"}),
]  # fmt: skip


@check_each(("name", "item", "arguments"), HISTORY_CALLS)
def test_history_call_becomes_arguments(name: str, item: Json, arguments: Any) -> None:
    assert json.loads(TOOL_KINDS[name].make_arguments(item)) == arguments


RESULTS: list[tuple[str, Json, str]] = [
    ("function", {"output": "x"}, "x"),
    ("custom", {"output": "x"}, "x"),
    ("local_shell", {"output": '{"x": 1}'}, '{"x": 1}'),
    ("shell", {"output": [{"stdout": "x"}]}, '[{"stdout":"x"}]'),
    ("apply_patch", {"status": "completed"}, "completed"),
    ("apply_patch", {"status": "failed", "output": "why"}, "failed: why"),
    ("tool_search", {"tools": [{"name": "a"}, {"name": "b"}]}, '{"tools":["a","b"]}'),
]


@check_each(("name", "item", "text"), RESULTS)
def test_output_becomes_the_tool_message_text(name: str, item: Json, text: str) -> None:
    assert TOOL_KINDS[name].read_result(item, "input[0]") == text
