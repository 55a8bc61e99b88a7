"""Chat tools and tool choices -> Responses tools, the legacy ``functions`` among them."""

from __future__ import annotations

from typing import Any

from forwarder.core.errors import InvalidRequest, shorten
from forwarder.core.types import Json
from forwarder.core.validate import DICT, LIST, STR, choose, expect, optional, require

_SHAPES = ("function", "custom")


def tools_to_responses(tools: list[Any]) -> list[Json]:
    """Each tool without its wrapper."""
    return [_tool(expect(tool, DICT, f"tools[{i}]"), f"tools[{i}]") for i, tool in enumerate(tools)]


def functions_to_responses(functions: list[Any]) -> list[Json]:
    """The legacy spelling: bare functions."""
    return [
        _function(expect(function, DICT, f"functions[{i}]"), f"functions[{i}]")
        for i, function in enumerate(functions)
    ]


def choice_to_responses(choice: Any) -> Any:
    """``tool_choice`` without its wrappers."""
    if isinstance(choice, str):
        return choose(choice, ("none", "auto", "required"), "tool_choice")
    kind = require(choice, "type", STR, "tool_choice.type")
    if kind != "allowed_tools":
        return _reference(choice, "tool_choice")
    allowed = require(choice, "allowed_tools", DICT, "tool_choice.allowed_tools")
    path = "tool_choice.allowed_tools.tools"
    tools = require(allowed, "tools", LIST, path)
    refs = [_reference(expect(t, DICT, path), f"{path}[{i}]") for i, t in enumerate(tools)]
    mode = choose(allowed.get("mode", "auto"), ("auto", "required"), "tool_choice.mode")
    return {"type": "allowed_tools", "mode": mode, "tools": refs}


def function_call_to_responses(choice: Any) -> Any:
    """The legacy ``function_call``: ``none``, ``auto`` or ``{name}``."""
    if isinstance(choice, str):
        return choose(choice, ("none", "auto"), "function_call")
    return {"type": "function", "name": require(choice, "name", STR, "function_call.name")}


def _tool(tool: Json, path: str) -> Json:
    kind = choose(require(tool, "type", STR, f"{path}.type"), _SHAPES, f"{path}.type")
    inner = require(tool, kind, DICT, f"{path}.{kind}")
    return _function(inner, f"{path}.function") if kind == "function" else _custom(inner, path)


def _function(function: Json, path: str) -> Json:
    flat: Json = {"type": "function", "name": require(function, "name", STR, f"{path}.name")}
    if function.get("description") is not None:
        flat["description"] = function["description"]
    parameters = optional(function, "parameters", DICT, f"{path}.parameters")
    flat["parameters"] = parameters or {"type": "object", "properties": {}}
    # Chat's default is not strict; the Responses API would try strict when nothing is said.
    flat["strict"] = bool(function.get("strict"))
    return flat


def _custom(custom: Json, path: str) -> Json:
    flat = {k: v for k, v in custom.items() if k != "format" and v is not None}
    require(flat, "name", STR, f"{path}.custom.name")
    text_format = optional(custom, "format", DICT, f"{path}.custom.format")
    if text_format and text_format.get("type") == "grammar":
        grammar = optional(text_format, "grammar", DICT, f"{path}.custom.format.grammar")
        text_format = {"type": "grammar", **(grammar or {})}
    return {"type": "custom", **flat, **({"format": text_format} if text_format else {})}


def _reference(ref: Json, path: str) -> Json:
    kind = choose(require(ref, "type", STR, f"{path}.type"), _SHAPES, f"{path}.type")
    inner = require(ref, kind, DICT, f"{path}.{kind}")
    return {"type": kind, "name": require(inner, "name", STR, f"{path}.{kind}.name")}


def check_choice(choice: Any, tools: list[Json]) -> None:
    """A choice needs tools to choose from, and may only name one that is offered."""
    if not tools and choice in ("none", "auto"):
        return
    if not tools:
        raise InvalidRequest(
            "'tool_choice' is only allowed when 'tools' are specified.", param="tool_choice"
        )
    name = choice.get("name") if isinstance(choice, dict) else None
    if name is not None and all(tool.get("name") != name for tool in tools):
        raise InvalidRequest(
            f"Tool choice '{shorten(name)}' not found in 'tools' parameter.", param="tool_choice"
        )
