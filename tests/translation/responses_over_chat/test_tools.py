from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forwarder.core.errors import InvalidRequest, Unsupported
from forwarder.core.translation_context import LossReport, TranslationContext
from forwarder.translation.responses_over_chat.client_tool_kinds import CUSTOM, FUNCTION, SHELL
from forwarder.translation.responses_over_chat.tools import (
    MAX_TOOL_NAME_LENGTH,
    ClientTool,
    Toolbox,
    flatten_name,
    make_search_options,
)
from tests.helpers.check_cases import check_each
from tests.helpers.translating import catch_error, make_translator_context, translate

Json = dict[str, Any]


def make_toolbox(*tools: Json, context: TranslationContext | None = None) -> Toolbox:
    toolbox = Toolbox(context or make_translator_context())
    toolbox.add_tools(list(tools), "tools")
    return toolbox


def make_function(name: str, **more: Any) -> Json:
    return {"type": "function", "name": name, **more}


def make_namespace(name: str, *tools: Json) -> Json:
    return {"type": "namespace", "name": name, "description": "", "tools": list(tools)}


# -- names --------------------------------------------------------------------------------------


@check_each(
    ("name", "namespace", "expected"),
    [
        ("read", None, "read"),
        ("read", "mcp__files", "mcp__files__read"),
        ("a" * 64, None, "a" * 64),
        ("read", "", "read"),
    ],
)
def test_flatten_name_keeps_valid_names(name: str, namespace: str | None, expected: str) -> None:
    assert flatten_name(name, namespace) == expected


NAMES = st.text(alphabet="ab_.-é", min_size=1, max_size=3) | st.sampled_from(
    ["a" * 63, "b" * 64, "b" * 90]
)


@given(NAMES, st.none() | NAMES)
def test_flatten_name_returns_valid_names(name: str, namespace: str | None) -> None:
    flat_name = flatten_name(name, namespace)
    assert re.fullmatch(r"[A-Za-z0-9_-]+", flat_name)
    assert len(flat_name) <= MAX_TOOL_NAME_LENGTH
    assert flat_name == flatten_name(name, namespace)


@given(st.lists(st.tuples(NAMES, st.none() | NAMES), min_size=1, max_size=6, unique=True))
def test_flat_names_stay_unique_or_are_refused(names: list[tuple[str, str | None]]) -> None:
    """Every tool is found by its flat name, or the collision is refused."""
    tools = [
        make_namespace(namespace, make_function(name)) if namespace else make_function(name)
        for name, namespace in names
    ]
    refusal = catch_error(lambda: make_toolbox(*tools))
    if refusal is not None:
        assert refusal.code == "tool_name_collision"
        assert len({flatten_name(*name_and_namespace) for name_and_namespace in names}) < len(names)
        return
    toolbox = make_toolbox(*tools)
    flat_names = [tool["function"]["name"] for tool in toolbox.chat_tools]
    assert [
        (toolbox.find(flat_name).name, toolbox.find(flat_name).namespace)
        for flat_name in flat_names
    ] == names


def test_tools_with_the_same_flat_name_are_refused() -> None:
    with pytest.raises(InvalidRequest, match="'a__b__c'") as caught:
        make_toolbox(
            make_namespace("a", make_function("b__c")), make_namespace("a__b", make_function("c"))
        )
    assert (caught.value.param, caught.value.code) == ("tools[1].tools[0]", "tool_name_collision")


def test_first_definition_of_a_tool_wins() -> None:
    toolbox = make_toolbox(
        make_function("f", description="first"), make_function("f", description="second")
    )
    toolbox.add_tools(
        [make_function("f", description="third"), make_function("g")], "input[0].tools"
    )
    assert [t["function"].get("description") for t in toolbox.chat_tools] == ["first", None]


def test_unknown_tool_is_a_function() -> None:
    assert make_toolbox().find("unheard_of") == ClientTool(FUNCTION, "unheard_of")


# -- definitions --------------------------------------------------------------------------------

EMPTY = {"type": "object", "properties": {}}


@check_each(
    ("tool", "expected"),
    [
        (make_function("f"), {"name": "f", "parameters": EMPTY}),
        (make_function("f", parameters=None, strict=None, description=None), {"name": "f", "parameters": EMPTY}),
        (make_function("f", strict=False), {"name": "f", "parameters": EMPTY, "strict": False}),
        (
            make_function("f", description="d", parameters={"type": "object"}, strict=True,
                     defer_loading=True, output_schema={}, allowed_callers=["direct"]),
            {"name": "f", "description": "d", "parameters": {"type": "object"}, "strict": True},
        ),
    ],
)  # fmt: skip
def test_function_definition_is_nested(tool: Json, expected: Json) -> None:
    assert make_toolbox(tool).chat_tools == [{"type": "function", "function": expected}]


GRAMMAR = {"type": "grammar", "syntax": "regex", "definition": "a+"}


def test_custom_tool_becomes_a_function_with_its_grammar_in_the_description() -> None:
    [tool] = make_toolbox(
        {"type": "custom", "name": "c", "description": "d", "format": GRAMMAR}
    ).chat_tools
    assert tool["function"]["description"] == "d\n\nThe input must follow this regex grammar:\na+"
    assert tool["function"]["parameters"]["required"] == ["input"]
    assert tool["function"]["parameters"]["properties"]["input"]["type"] == "string"


@check_each(
    ("input_format", "expected"),
    [
        (GRAMMAR, {"type": "grammar", "grammar": {"syntax": "regex", "definition": "a+"}}),
        ({"type": "text"}, {"type": "text"}),
        (None, None),
    ],
)
def test_custom_tool_is_nested_for_upstreams_with_custom_tools(
    input_format: Any, expected: Any
) -> None:
    toolbox = make_toolbox(
        {"type": "custom", "name": "c", "format": input_format},
        context=make_translator_context(custom_tools=True),
    )
    assert toolbox.chat_tools[0]["custom"].get("format") == expected
    assert toolbox.is_native(CUSTOM)
    assert not toolbox.is_native(SHELL)


HOSTED = [
    {"type": "web_search"},
    {"type": "mcp", "server_label": "x"},
    {"type": "shell", "environment": {"type": "container_auto"}},
    {"type": "tool_search"},
    {"type": "computer_use_preview", "environment": "linux"},
]


@check_each("tool", HOSTED)
def test_hosted_tool_is_dropped_and_reported_or_refused(tool: Json) -> None:
    dropping = make_translator_context()
    assert make_toolbox(tool, context=dropping).chat_tools == []
    assert set(dropping.loss_report.losses) == {f"tools.{tool['type']}"}
    for refusing in (
        make_translator_context(hosted_tools="refuse"),
        make_translator_context(strict=True),
    ):
        with pytest.raises(Unsupported):
            make_toolbox(tool, context=refusing)


@check_each(
    ("tool", "param"),
    [
        ("f", "tools[0]"),
        ({}, "tools[0].type"),
        ({"type": 1}, "tools[0].type"),
        (make_function(None), "tools[0].name"),  # type: ignore[arg-type]
        (make_function("f", parameters=[]), "tools[0].parameters"),
        (make_function("f", strict="yes"), "tools[0].strict"),
        (make_function("f", description=1), "tools[0].description"),
        ({"type": "custom", "name": "c", "format": "x"}, "tools[0].format"),
        ({"type": "shell", "environment": "x"}, "tools[0].environment"),
        ({"type": "namespace", "tools": []}, "tools[0].name"),
        ({"type": "namespace", "name": "n"}, "tools[0].tools"),
        (make_namespace("n", make_function("f", parameters=1)), "tools[0].tools[0].parameters"),
    ],
)
def test_malformed_definition_error_names_the_path(tool: Any, param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        make_toolbox(tool)
    assert caught.value.param == param


# -- choosing -----------------------------------------------------------------------------------

CHOICES: list[tuple[Any, Any]] = [
    ("none", "none"),
    ("auto", "auto"),
    ("required", "required"),
    ({"type": "function", "name": "f"}, {"type": "function", "function": {"name": "f"}}),
    ({"type": "custom", "name": "c"}, {"type": "function", "function": {"name": "c"}}),
    ({"type": "shell"}, {"type": "function", "function": {"name": "shell"}}),
    ({"type": "function", "name": "n__g"}, {"type": "function", "function": {"name": "n__g"}}),
    ({"type": "function", "name": "g", "namespace": "n"}, {"type": "function", "function": {"name": "n__g"}}),
    ({"type": "function", "name": "g"}, {"type": "function", "function": {"name": "n__g"}}),
    (
        {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "f"}]},
        {"type": "allowed_tools", "allowed_tools": {
            "mode": "required", "tools": [{"type": "function", "function": {"name": "f"}}]}},
    ),
    (
        {"type": "allowed_tools", "tools": [{"type": "web_search"}, {"type": "shell"}]},
        {"type": "allowed_tools", "allowed_tools": {
            "mode": "auto", "tools": [{"type": "function", "function": {"name": "shell"}}]}},
    ),
]  # fmt: skip


def make_offered_toolbox() -> Toolbox:
    return make_toolbox(
        make_function("f"), {"type": "custom", "name": "c"}, {"type": "shell"},
        make_namespace("n", make_function("g")), {"type": "web_search"},
    )  # fmt: skip


@check_each(("choice", "expected"), CHOICES)
def test_tool_choice_is_nested(choice: Any, expected: Any) -> None:
    assert make_offered_toolbox().convert_choice(choice) == expected


def test_choice_of_a_native_custom_tool_stays_custom() -> None:
    toolbox = make_toolbox(
        {"type": "custom", "name": "c"}, context=make_translator_context(custom_tools=True)
    )
    choice = toolbox.convert_choice({"type": "custom", "name": "c"})
    assert choice == {"type": "custom", "custom": {"name": "c"}}


@check_each("mode", ["none", "auto"])
def test_tool_choice_is_omitted_without_tools(mode: str) -> None:
    assert make_toolbox({"type": "web_search"}).convert_choice(mode) is None


@check_each(
    ("choice", "error", "param"),
    [
        ("always", InvalidRequest, "tool_choice"),
        ({}, InvalidRequest, "tool_choice.type"),
        ({"type": "function"}, InvalidRequest, "tool_choice.name"),
        ({"type": "function", "name": "other"}, InvalidRequest, "tool_choice"),
        ({"type": "function", "name": "g", "namespace": "m"}, InvalidRequest, "tool_choice"),
        ({"type": "web_search"}, Unsupported, "tool_choice"),
        ({"type": "mcp", "server_label": "x"}, Unsupported, "tool_choice"),
        ({"type": "allowed_tools", "tools": [{"type": "web_search"}]}, Unsupported, "tool_choice"),
        ({"type": "allowed_tools", "tools": ["f"]}, InvalidRequest, "tool_choice.tools[0]"),
        (
            {"type": "allowed_tools", "mode": "none", "tools": []},
            InvalidRequest,
            "tool_choice.mode",
        ),
    ],
)
def test_impossible_tool_choice_is_refused(choice: Any, error: Any, param: str) -> None:
    with pytest.raises(error) as caught:
        make_offered_toolbox().convert_choice(choice)
    assert caught.value.param == param


@check_each(("tools", "error"), [([], InvalidRequest), ([{"type": "web_search"}], Unsupported)])
def test_required_tool_choice_needs_a_tool(tools: list[Json], error: Any) -> None:
    with pytest.raises(error) as caught:
        make_toolbox(*tools).convert_choice("required")
    assert caught.value.param == "tool_choice"


# -- web search ---------------------------------------------------------------------------------

OSLO = {"type": "approximate", "city": "Oslo", "country": "NO", "region": None}
NESTED = {"type": "approximate", "approximate": {"city": "Oslo", "country": "NO"}}


@check_each(
    ("tool", "expected", "losses"),
    [
        ({}, {}, []),
        ({"search_context_size": "high", "user_location": None}, {"search_context_size": "high"}, []),
        ({"user_location": OSLO}, {"user_location": NESTED}, []),
        ({"filters": {"allowed_domains": ["a"]}, "external_web_access": False}, {},
         ["external_web_access", "filters"]),
        ({"filters": None}, {}, []),
    ],
)  # fmt: skip
def test_search_options_are_converted_for_chat(
    tool: Json, expected: Json, losses: list[str]
) -> None:
    loss_report = LossReport()
    assert make_search_options({"type": "web_search", **tool}, "tools[0]", loss_report) == expected
    assert list(loss_report.losses) == [f"tools.web_search.{name}" for name in losses]


@check_each(
    ("tool", "param"),
    [
        ({"search_context_size": 1}, "tools[0].search_context_size"),
        ({"user_location": "Oslo"}, "tools[0].user_location"),
        ({"user_location": {"city": 1}}, "tools[0].user_location.city"),
    ],
)
def test_malformed_search_options_are_refused_with_their_path(tool: Json, param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        make_search_options({"type": "web_search", **tool}, "tools[0]", LossReport())
    assert caught.value.param == param


WEB_SEARCH = {"type": "web_search"}
PLAIN_FUNCTION = {"type": "function", "name": "f"}


def allow_tools(*refs: Json) -> Json:
    return {"type": "allowed_tools", "mode": "auto", "tools": list(refs)}


CHAT_F = {"type": "function", "function": {"name": "f"}}
ONLY_F = {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [CHAT_F]}}

CHOICES: list[tuple[Any, list[Json], bool, Any]] = [
    (None, [WEB_SEARCH], True, None),
    ("auto", [WEB_SEARCH], True, None),
    ("required", [WEB_SEARCH], True, None),
    ("none", [WEB_SEARCH], False, None),
    (WEB_SEARCH, [WEB_SEARCH], True, None),
    (WEB_SEARCH, [WEB_SEARCH, PLAIN_FUNCTION], True, None),
    ("required", [WEB_SEARCH, PLAIN_FUNCTION], True, "required"),
    (PLAIN_FUNCTION, [WEB_SEARCH, PLAIN_FUNCTION], False, CHAT_F),
    ({**PLAIN_FUNCTION, "tools": "odd"}, [WEB_SEARCH, PLAIN_FUNCTION], False, CHAT_F),
    (allow_tools(WEB_SEARCH), [WEB_SEARCH], True, None),
    (allow_tools(WEB_SEARCH), [WEB_SEARCH, PLAIN_FUNCTION], True, "none"),
    (allow_tools(PLAIN_FUNCTION), [WEB_SEARCH, PLAIN_FUNCTION], False, ONLY_F),
    (allow_tools(PLAIN_FUNCTION, WEB_SEARCH), [WEB_SEARCH, PLAIN_FUNCTION], True, ONLY_F),
]


@check_each(("choice", "tools", "searches", "expected_choice"), CHOICES)
def test_search_is_offered_unless_the_choice_forbids_it(
    choice: Any, tools: list[Json], searches: bool, expected_choice: Any
) -> None:
    request = {"model": "m", "input": "News?", "tools": tools, "tool_choice": choice}
    chat, losses, _ = translate(
        "responses_over_chat", request, make_translator_context(web_search=True)
    )
    assert ("web_search_options" in chat, chat.get("tool_choice"), losses) == (
        searches,
        expected_choice,
        {},
    )


def test_search_is_dropped_without_a_search_model() -> None:
    request = {"model": "m", "input": "News?", "tools": [WEB_SEARCH]}
    chat, losses, _ = translate("responses_over_chat", request, make_translator_context())
    assert ("web_search_options" in chat, list(losses)) == (False, ["tools.web_search"])
    with pytest.raises(Unsupported):
        translate(
            "responses_over_chat", {**request, "tool_choice": WEB_SEARCH}, make_translator_context()
        )
