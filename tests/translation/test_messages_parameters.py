"""Parameters of Messages requests: limits, thinking, schemas, tools."""

from __future__ import annotations

from typing import Any

import pytest

from forwarder.core.errors import ClientError
from forwarder.core.translation_context import LossReport
from forwarder.translation.messages_parameters import (
    ThinkingSettings,
    copy_parameters,
    is_strict_schema,
    make_cache_key,
    read_schema,
    read_service_tier,
    read_stop_sequences,
    read_thinking_settings,
    read_token_limit,
    read_tool_choice,
    read_tools,
    read_user,
)
from tests.helpers.check_cases import check_each
from tests.helpers.translating import make_translator_context

Json = dict[str, Any]

FUNCTION = {"name": "f", "input_schema": {"type": "object"}}


def thinking(kind: str, **fields: Any) -> Json:
    return {"thinking": {"type": kind, **fields}}


@check_each(
    ("request", "settings"),
    [
        ({}, (None, False, True)),
        ({"output_config": {"effort": "max"}}, ("max", False, True)),
        (thinking("disabled"), ("none", False, True)),
        (thinking("enabled", budget_tokens=1024), ("low", True, True)),
        (thinking("enabled", budget_tokens=4096), ("medium", True, True)),
        (thinking("enabled", budget_tokens=31999), ("high", True, True)),
        (thinking("adaptive"), ("medium", True, True)),
        (thinking("between_tools"), ("none", False, True)),
        (thinking("adaptive", display="updates"), ("medium", True, True)),
        (thinking("adaptive", display="omitted"), ("medium", True, False)),
        ({**thinking("adaptive"), "output_config": {"effort": "low"}}, ("low", True, True)),
    ],
)
def test_thinking_becomes_an_effort(request: Json, settings: tuple[Any, ...]) -> None:
    assert read_thinking_settings(request) == ThinkingSettings(*settings)


@check_each(
    "schema",
    [
        {"type": "string"},
        {"type": "object", "properties": {}, "additionalProperties": False},
        {
            "type": "object",
            "properties": {"a": {"type": "array", "items": {"type": "string"}}},
            "required": ["a"],
            "additionalProperties": False,
        },
    ],
)
def test_strict_schemas_are_recognized(schema: Json) -> None:
    assert is_strict_schema(schema)


@check_each(
    "schema",
    [
        {"type": "object"},
        {"type": "object", "properties": {"a": {}}, "additionalProperties": False},
        {"type": "array", "items": {"type": "object", "properties": {}}},
        {"anyOf": [{"type": "string"}, {"type": "object"}]},
    ],
)
def test_other_schemas_are_not_strict(schema: Json) -> None:
    assert not is_strict_schema(schema)


def test_schema_comes_from_either_parameter() -> None:
    output_format = {"type": "json_schema", "schema": {"type": "object"}}
    assert read_schema({"output_config": {"format": output_format}}) == {"type": "object"}
    assert read_schema({"output_format": output_format}) == {"type": "object"}
    assert read_schema({"output_config": {"effort": "low"}}) is None


def test_cache_key_is_stable_within_a_conversation() -> None:
    first_request = {"metadata": {"user_id": "u"}, "cache_control": {"type": "ephemeral"}}
    block = {"type": "text", "text": "x", "cache_control": {"type": "ephemeral"}}
    later_request = {
        "metadata": {"user_id": "u"},
        "messages": [{"role": "user", "content": [block]}],
    }

    assert make_cache_key(first_request, "s") == make_cache_key(later_request, "s")
    assert make_cache_key(first_request, "s") != make_cache_key(first_request, "t")
    assert make_cache_key(first_request, "s") != make_cache_key(
        {**first_request, "metadata": {}}, "s"
    )
    assert make_cache_key({"messages": [{"role": "user", "content": "x"}]}, "s") is None
    tools = {"tools": [{"name": "f", "cache_control": {"type": "ephemeral"}}]}
    assert make_cache_key(tools, "s")


def test_long_ids_of_users_are_hashed() -> None:
    assert read_user({"metadata": {"user_id": "u" * 64}}) == "u" * 64
    hashed = read_user({"metadata": {"user_id": "u" * 65}})
    assert hashed is not None
    assert len(hashed) == 64
    assert read_user({}) is None


@check_each(
    ("request", "tier"),
    [
        ({}, None),
        ({"service_tier": "auto"}, None),
        ({"service_tier": "standard_only"}, "default"),
        ({"speed": "fast"}, "priority"),
        ({"speed": "standard", "service_tier": "standard_only"}, "default"),
    ],
)
def test_service_tiers_are_mapped(request: Json, tier: str | None) -> None:
    assert read_service_tier(request) == tier


def test_tools_with_known_schemas_become_functions() -> None:
    tools = [{"type": kind, "name": "own"} for kind in ("bash_20250124", "text_editor_20250728")]
    tools += [{"type": "text_editor_20250124"}, {"type": "memory_20250818"}]

    functions = read_tools({"tools": tools}, LossReport()).functions

    names = ["own", "own", "str_replace_editor", "memory"]
    assert [function.name for function in functions] == names
    assert all(
        function.parameters["type"] == "object" and function.description for function in functions
    )


def test_unsupported_tools_are_reported() -> None:
    loss_report = LossReport()
    tools = [{"type": kind, "name": "x"} for kind in ("web_fetch_20250910", "computer_20250124")]

    assert read_tools({"tools": tools}, loss_report) == ([], None, None)
    assert sorted(loss_report.losses) == ["tools.computer_20250124", "tools.web_fetch_20250910"]


def test_web_search_keeps_its_filters_and_place() -> None:
    tool = {
        "type": "web_search_20260318",
        "name": "web_search",
        "blocked_domains": ["example.com"],
        "user_location": {"type": "approximate", "country": "NO"},
        "max_uses": 2,
    }

    assert read_tools({"tools": [tool]}, LossReport()).search == {
        "type": "web_search",
        "filters": {"blocked_domains": ["example.com"]},
        "user_location": {"type": "approximate", "country": "NO"},
    }


def test_search_limit_is_read_from_the_search_tool() -> None:
    fetch = {"type": "web_fetch_20250910", "name": "web_fetch", "max_uses": 7}
    search = {"type": "web_search_20250305", "name": "web_search"}

    request = {"tools": [fetch, {**search, "max_uses": 2}]}
    assert read_tools(request, LossReport()).max_searches == 2
    assert read_tools({"tools": [fetch, search]}, LossReport()).max_searches is None


def add_tool(**definition: Any) -> Json:
    addition = {"type": "tool_definition", "definition": definition}
    block = {"type": "tool_addition", "tool": addition}
    return {"role": "system", "content": [block]}


def test_tools_defined_in_system_messages_are_offered() -> None:
    schema = {"type": "object", "properties": {}}
    reference = {"type": "tool_addition", "tool": {"type": "tool_reference", "name": "f"}}
    messages = [
        {"role": "user", "content": "Hi"},
        {"role": "system", "content": [reference]},
        {"role": "system", "content": "Be brief."},
        add_tool(name="g", input_schema=schema),
        add_tool(name="f", input_schema=schema),
    ]

    functions = read_tools({"tools": [FUNCTION], "messages": messages}, LossReport()).functions

    assert [(function.name, function.parameters) for function in functions] == [
        ("g", schema),
        ("f", schema),
    ]


def test_fields_without_counterpart_are_reported() -> None:
    report = LossReport()
    function_with_fields = {
        **FUNCTION,
        "cache_control": {"type": "ephemeral"},
        "allowed_callers": ["direct"],
    }
    callers = ["code_execution_20250825"]
    function = {
        **FUNCTION, "input_examples": [{}], "defer_loading": True, "allowed_callers": callers,
        "eager_input_streaming": True,
    }  # fmt: skip
    search = {"type": "web_search_20260318", "name": "s", "response_inclusion": "excluded"}

    read_tools({"tools": [function_with_fields]}, report)
    assert report.losses == {}
    read_tools({"tools": [function, search]}, report)
    assert sorted(report.losses) == [
        "tools.allowed_callers",
        "tools.defer_loading",
        "tools.input_examples",
        "tools.response_inclusion",
    ]


def test_fields_of_settings_without_counterpart_are_reported() -> None:
    context = make_translator_context()
    config = {"effort": "low", "task_budget": {"type": "tokens", "total": 9}, "format": None}
    request = {"model": "m", "top_p": 1, "output_config": config, "metadata": {"user_id": "u"}}

    assert copy_parameters(request, context) == {"model": "m", "top_p": 1}
    assert list(context.loss_report.losses) == ["output_config.task_budget"]


@check_each(
    ("choice", "expected"),
    [
        ({"type": "auto"}, ("auto", None, None)),
        ({"type": "any", "disable_parallel_tool_use": True}, ("required", None, False)),
        ({"type": "none", "disable_parallel_tool_use": False}, ("none", None, None)),
        ({"type": "tool", "name": "f"}, ("required", "f", None)),
    ],
)
def test_tool_choices_are_read(choice: Json, expected: tuple[Any, ...]) -> None:
    request = {"tools": [FUNCTION], "tool_choice": choice}
    assert read_tool_choice(request, read_tools(request, LossReport())) == expected


def read_parameters(request: Json) -> None:
    """Read all parameters that may be rejected."""
    read_token_limit({"max_tokens": 1, **request})
    read_stop_sequences(request)
    read_thinking_settings(request)
    read_schema(request)
    read_user(request)
    read_service_tier(request)
    read_tool_choice(request, read_tools(request, LossReport()))


REFUSED: dict[str, Json] = {
    "max_tokens": {"max_tokens": 0},
    "stop_sequences[0]": {"stop_sequences": [""]},
    "stop_sequences[1]": {"stop_sequences": ["a", 1]},
    "thinking.type": thinking("sometimes"),
    "thinking.budget_tokens": thinking("enabled"),
    "thinking.display": thinking("adaptive", display="x"),
    "output_config.effort": {"output_config": {"effort": "huge"}},
    "output_config.format.type": {"output_config": {"format": {"type": "xml"}}},
    "output_format.schema": {"output_format": {"type": "json_schema"}},
    "metadata.user_id": {"metadata": {"user_id": 1}},
    "service_tier": {"service_tier": "flex"},
    "speed": {"speed": "slow"},
    "tools[0].name": {"tools": [{"input_schema": {}}]},
    "tools[0].input_schema": {"tools": [{"name": "f"}]},
    "tools[0]": {"tools": ["f"]},
    "tools[0].blocked_domains[0]": {
        "tools": [{"type": "web_search_20250305", "blocked_domains": [1]}],
    },
    "messages[0].content[0].tool.definition.name": {"messages": [add_tool(input_schema={})]},
    "tool_choice.type": {"tool_choice": {"type": "x"}},
    "tool_choice.name": {
        "tools": [FUNCTION, {"type": "web_fetch_20250910", "name": ["x"]}],
        "tool_choice": {"type": "tool", "name": "g"},
    },
}


@check_each("param", REFUSED)
def test_invalid_parameters_are_named(param: str) -> None:
    with pytest.raises(ClientError) as caught:
        read_parameters(REFUSED[param])
    assert caught.value.param == param


def test_unsupported_tools_cannot_be_forced() -> None:
    fetch = {"type": "web_fetch_20250910", "name": "web_fetch"}
    request = {"tools": [fetch], "tool_choice": {"type": "tool", "name": "web_fetch"}}
    with pytest.raises(ClientError, match="cannot be forced"):
        read_parameters(request)
