"""``tool_choice`` with hosted tools."""

from __future__ import annotations

from typing import Any

import pytest

from forwarder.core.errors import InvalidRequest
from forwarder.hosted_tools.tool_choice import convert_choice, end_hosted_calls, relax_choice
from tests.helpers.check_cases import check_each

Json = dict[str, Any]


def find_functions(reference: Json, path: str) -> list[str]:
    return [name for name in ("a__x", "a__y") if reference.get("name") in (None, name[3:])]


CONVERTERS = {"mcp": find_functions}
X, Y = ({"type": "function", "name": f"a__{letter}"} for letter in "xy")


@check_each(
    ("choice", "expected"),
    [
        ("auto", "auto"),
        ("required", "required"),
        (None, None),
        ({"type": "function", "name": "f"}, {"type": "function", "name": "f"}),
        ({"type": "mcp", "name": "x"}, X),
        ({"type": "mcp"}, {"type": "allowed_tools", "mode": "required", "tools": [X, Y]}),
        (
            {"type": "allowed_tools", "tools": [{"type": "mcp"}, {"type": "custom", "name": "c"}]},
            {
                "type": "allowed_tools",
                "mode": "auto",
                "tools": [X, Y, {"type": "custom", "name": "c"}],
            },
        ),
        ({"type": "allowed_tools", "tools": [{"type": "mcp", "name": "z"}]}, "none"),
    ],
)
def test_references_to_hosted_tools_become_functions(choice: Any, expected: Any) -> None:
    assert convert_choice(choice, CONVERTERS) == expected


@check_each(
    "choice",
    [
        {"type": "mcp", "name": "z"},
        {"type": "allowed_tools", "mode": "required", "tools": [{"type": "mcp", "name": "z"}]},
        {"type": "allowed_tools", "mode": "sometimes", "tools": []},
        {"type": "allowed_tools", "tools": ["x"]},
        {"name": "x"},
    ],
)
def test_impossible_choice_is_rejected(choice: Any) -> None:
    with pytest.raises(InvalidRequest) as caught:
        convert_choice(choice, CONVERTERS)
    assert str(caught.value.param).startswith("tool_choice")


def test_required_choice_is_relaxed_after_the_first_round() -> None:
    assert relax_choice("required") == "auto"
    assert relax_choice("none") == "none"
    assert relax_choice(X) == "auto"
    allowed = {"type": "allowed_tools", "mode": "required", "tools": [X]}
    assert relax_choice(allowed) == {**allowed, "mode": "auto"}


def test_last_round_has_only_tools_of_the_client() -> None:
    client_tools = [{"type": "shell"}, {"type": "namespace", "name": "n", "tools": []}]
    request = {"tools": [*client_tools, {**X, "parameters": {}}], "tool_choice": "auto"}
    assert end_hosted_calls(request, client_tools, {"a__x"}) == {
        "tools": client_tools,
        "tool_choice": "auto",
    }
    allowed = {"type": "allowed_tools", "mode": "auto", "tools": [X, {"type": "shell"}]}
    last_request = end_hosted_calls({**request, "tool_choice": allowed}, client_tools, {"a__x"})
    assert last_request["tool_choice"]["tools"] == [{"type": "shell"}]


@check_each(
    ("choice", "client_tools"),
    [
        ("auto", []),
        ("none", [{"type": "shell"}]),
        ({"type": "allowed_tools", "mode": "auto", "tools": [X]}, [{"type": "shell"}]),
    ],
)
def test_last_round_without_allowed_tools_calls_none(choice: Any, client_tools: list[Json]) -> None:
    request = {"tools": [*client_tools, X], "tool_choice": choice}
    assert end_hosted_calls(request, client_tools, {"a__x"}) == {**request, "tool_choice": "none"}
