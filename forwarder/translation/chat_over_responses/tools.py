"""Chat tools and tool choices -> Responses, including the legacy ``functions``."""

from __future__ import annotations

from typing import Any

from forwarder.core.errors import InvalidRequest, shorten_value
from forwarder.core.types import Json
from forwarder.core.validate import (
    DICT,
    LIST,
    STR,
    check_enum,
    check_type,
    read_field,
    require_field,
)

_TOOL_SHAPES = ("function", "custom")


def convert_tools(tools: list[Any]) -> list[Json]:
    """Convert ``tools``: the Responses API has their fields at the top level of a tool."""
    return [
        convert_tool(check_type(tool, DICT, f"tools[{i}]"), f"tools[{i}]")
        for i, tool in enumerate(tools)
    ]


def convert_functions(functions: list[Any]) -> list[Json]:
    """Convert the legacy ``functions``, which have no wrapper."""
    return [
        convert_function(check_type(function, DICT, f"functions[{i}]"), f"functions[{i}]")
        for i, function in enumerate(functions)
    ]


def convert_tool_choice(choice: Any) -> Any:
    """Convert ``tool_choice``, a mode or a reference to one or several tools."""
    if isinstance(choice, str):
        return check_enum(choice, ("none", "auto", "required"), "tool_choice")
    kind = require_field(choice, "type", STR, "tool_choice.type")
    if kind != "allowed_tools":
        return convert_reference(choice, "tool_choice")
    allowed = require_field(choice, "allowed_tools", DICT, "tool_choice.allowed_tools")
    path = "tool_choice.allowed_tools.tools"
    tools = require_field(allowed, "tools", LIST, path)
    refs = [
        convert_reference(check_type(t, DICT, path), f"{path}[{i}]") for i, t in enumerate(tools)
    ]
    mode = check_enum(allowed.get("mode", "auto"), ("auto", "required"), "tool_choice.mode")
    return {"type": "allowed_tools", "mode": mode, "tools": refs}


def convert_function_call(choice: Any) -> Any:
    """Convert the legacy ``function_call``: ``none``, ``auto`` or ``{name}``."""
    if isinstance(choice, str):
        return check_enum(choice, ("none", "auto"), "function_call")
    return {"type": "function", "name": require_field(choice, "name", STR, "function_call.name")}


def convert_tool(tool: Json, path: str) -> Json:
    kind = check_enum(
        require_field(tool, "type", STR, f"{path}.type"), _TOOL_SHAPES, f"{path}.type"
    )
    inner = require_field(tool, kind, DICT, f"{path}.{kind}")
    if kind == "function":
        return convert_function(inner, f"{path}.function")
    return convert_custom_tool(inner, path)


def convert_function(function: Json, path: str) -> Json:
    flat: Json = {"type": "function", "name": require_field(function, "name", STR, f"{path}.name")}
    if function.get("description") is not None:
        flat["description"] = function["description"]
    parameters = read_field(function, "parameters", DICT, f"{path}.parameters")
    flat["parameters"] = parameters or {"type": "object", "properties": {}}
    # Without `strict`, Chat is not strict, but the Responses API tries strict mode.
    flat["strict"] = bool(function.get("strict"))
    return flat


def convert_custom_tool(custom: Json, path: str) -> Json:
    flat = {k: v for k, v in custom.items() if k != "format" and v is not None}
    require_field(flat, "name", STR, f"{path}.custom.name")
    text_format = read_field(custom, "format", DICT, f"{path}.custom.format")
    if text_format and text_format.get("type") == "grammar":
        grammar = read_field(text_format, "grammar", DICT, f"{path}.custom.format.grammar")
        text_format = {"type": "grammar", **(grammar or {})}
    return {"type": "custom", **flat, **({"format": text_format} if text_format else {})}


def convert_reference(ref: Json, path: str) -> Json:
    kind = check_enum(require_field(ref, "type", STR, f"{path}.type"), _TOOL_SHAPES, f"{path}.type")
    inner = require_field(ref, kind, DICT, f"{path}.{kind}")
    return {"type": kind, "name": require_field(inner, "name", STR, f"{path}.{kind}.name")}


def check_tool_choice(choice: Any, tools: list[Json]) -> None:
    """Raise InvalidRequest for a choice without tools or of a tool that is not offered."""
    if not tools and choice in ("none", "auto"):
        return
    if not tools:
        raise InvalidRequest(
            "'tool_choice' is only allowed when 'tools' are specified.", param="tool_choice"
        )
    name = choice.get("name") if isinstance(choice, dict) else None
    if name is not None and all(tool.get("name") != name for tool in tools):
        raise InvalidRequest(
            f"Tool choice '{shorten_value(name)}' not found in 'tools' parameter.",
            param="tool_choice",
        )
