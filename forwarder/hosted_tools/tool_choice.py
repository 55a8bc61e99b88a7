"""Converts ``tool_choice`` for requests in which hosted tools are offered as functions."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

from forwarder.core.errors import InvalidRequest, shorten_value
from forwarder.core.types import Json
from forwarder.core.validate import DICT, LIST, STR, check_enum, check_type, require_field

FunctionLookup = Callable[[Json, str], list[str] | None]
"""A reference to a hosted tool and its path -> the names of the functions that it means.

``None`` leaves the reference as it is. Raises InvalidRequest for unknown tools."""

FunctionsByType = Mapping[str, FunctionLookup]
"""Type of a hosted tool that runs here -> look-up of its functions."""


def convert_choice(choice: Any, functions: FunctionsByType) -> Any:
    """Return ``tool_choice`` for the first request to the upstream.

    Only references to hosted tools change. Raises InvalidRequest for unknown ones.
    """
    if not isinstance(choice, dict):
        return choice
    if choice.get("type") == "allowed_tools":
        return convert_allowed_tools(choice, functions)
    names = find_functions(choice, functions, "tool_choice")
    if names is None:
        return choice
    if not names:
        raise no_such_tools("tool_choice")
    if len(names) == 1:
        return make_reference(names[0])
    return make_allowed_tools("required", [make_reference(name) for name in names])


def convert_allowed_tools(choice: Json, functions: FunctionsByType) -> Any:
    mode = check_enum(choice.get("mode", "auto"), ("auto", "required"), "tool_choice.mode")
    references: list[Any] = []
    given = require_field(choice, "tools", LIST, "tool_choice.tools")
    for index, reference in enumerate(given):
        path = f"tool_choice.tools[{index}]"
        names = find_functions(check_type(reference, DICT, path), functions, path)
        found = [reference] if names is None else map(make_reference, names)
        references += found
    if given and not references:
        if mode == "required":
            raise no_such_tools("tool_choice.tools")
        return "none"
    return {**choice, "mode": mode, "tools": references}


def find_functions(reference: Json, functions: FunctionsByType, path: str) -> list[str] | None:
    kind = require_field(reference, "type", STR, f"{path}.type")
    find = functions.get(kind)
    return None if find is None else find(reference, path)


def relax_choice(choice: Any) -> Any:
    """Return ``tool_choice`` after a hosted call, which has fulfilled a demand for a call."""
    if isinstance(choice, dict) and choice.get("type") == "allowed_tools":
        return {**choice, "mode": "auto"}
    return choice if choice in ("none", "auto", None) else "auto"


def end_hosted_calls(request: Json, client_tools: list[Any], functions: Collection[str]) -> Json:
    """Return a request in which the model may call only ``client_tools``.

    The hosted ``functions`` are left out of its tools, because not every tool can be named in
    ``tool_choice``. If there are no other tools they stay, and none may be called: a history with
    calls but no tools is refused by some providers.
    """
    choice = request.get("tool_choice")
    if isinstance(choice, dict):
        passed = [each for each in choice["tools"] if each.get("name") not in functions]
        choice = {**choice, "tools": passed} if passed else "none"
    if not client_tools or choice == "none":
        return {**request, "tool_choice": "none"}
    rest = {name: value for name, value in request.items() if name != "tool_choice"}
    chosen = {} if choice is None else {"tool_choice": choice}
    return {**rest, **chosen, "tools": client_tools}


def make_reference(name: str) -> Json:
    return {"type": "function", "name": name}


def make_allowed_tools(mode: str, references: list[Json]) -> Json:
    return {"type": "allowed_tools", "mode": mode, "tools": references}


def no_such_tools(path: str) -> InvalidRequest:
    return InvalidRequest(
        f"'{path}' demands a hosted tool, but its server offers no such tool.", param=path
    )


def unknown_label(label: str, path: str) -> InvalidRequest:
    return InvalidRequest(
        f"'{path}': no MCP server in 'tools' has the label '{shorten_value(label)}'.",
        param=f"{path}.server_label",
        code="invalid_value",
    )
