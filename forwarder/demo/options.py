"""Request options of both protocols: the tool to call and the format of the answer.

Tools and tool choices have the flat form of the Responses API here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from forwarder.core.errors import InvalidRequest, shorten_value
from forwarder.core.types import Json
from forwarder.demo.validation import (
    OBJECT,
    TEXT,
    check_enum,
    read_field,
    read_objects,
    require_field,
)

ToolOffer = tuple[str, Json]
NAME_PATTERN = re.compile(r"[a-zA-Z0-9_-]{1,128}")
CHOICE_MODES = ("none", "auto", "required")


@dataclass(frozen=True)
class OfferedTool:
    """A tool that can be called; ``param`` is the path of its schema in the request."""

    kind: Literal["function", "custom"]
    name: str
    schema: Any
    param: str
    namespace: str | None = None


def choose_tool(offers: list[ToolOffer], choice: Any) -> OfferedTool | None:
    """Return the first offered tool that ``choice`` allows, or ``None``.

    ``offers`` are pairs of path and tool. Hosted tools are accepted but never called. Raises
    InvalidRequest for a malformed tool, or for the choice of a tool that is not offered.
    """
    tools = [tool for offer in offers for tool in iter_tools(offer)]
    if isinstance(choice, dict):
        tools = select_allowed(tools, choice)
    elif choice is not None and check_enum(choice, CHOICE_MODES, "tool_choice") == "none":
        return None
    return next(iter(tools), None)


def iter_tools(offer: ToolOffer, namespace: str | None = None) -> Iterator[OfferedTool]:
    path, spec = offer
    kind = require_field(spec, "type", TEXT, f"{path}.")
    if kind == "function" or kind == "custom":
        schema = read_field(spec, "parameters", OBJECT, f"{path}.") or {"type": "object"}
        yield OfferedTool(kind, read_tool_name(spec, path), schema, f"{path}.parameters", namespace)
    elif kind == "namespace":
        for child in read_objects(spec, "tools", f"{path}."):
            yield from iter_tools(child, read_tool_name(spec, path))


def read_tool_name(spec: Json, path: str) -> str:
    name: str = require_field(spec, "name", TEXT, f"{path}.")
    if not NAME_PATTERN.fullmatch(name):
        raise InvalidRequest(
            f"Invalid '{path}.name': string does not match pattern. "
            "Expected a string that matches the pattern '^[a-zA-Z0-9_-]+$'.",
            param=f"{path}.name",
            code="invalid_value",
        )
    return name


def select_allowed(tools: list[OfferedTool], choice: Json) -> list[OfferedTool]:
    kind = require_field(choice, "type", TEXT, "tool_choice.")
    if kind == "allowed_tools":
        check_enum(
            require_field(choice, "mode", TEXT, "tool_choice."),
            CHOICE_MODES[1:],
            "tool_choice.mode",
        )
        wanted = read_objects(choice, "tools", "tool_choice.")
        return [tool for path, one in wanted for tool in select_named(tools, one, f"{path}.")]
    return select_named(tools, choice, "tool_choice.")


def select_named(tools: list[OfferedTool], wanted: Json, at: str) -> list[OfferedTool]:
    kind = require_field(wanted, "type", TEXT, at)
    if kind not in ("function", "custom"):
        return []
    name = require_field(wanted, "name", TEXT, at)
    found = [tool for tool in tools if (tool.kind, tool.name) == (kind, name)]
    if not found:
        raise InvalidRequest(
            f"Tool choice '{shorten_value(name)}' not found in 'tools' parameter.",
            param="tool_choice",
        )
    return found


FORMAT_TYPES = ("text", "json_object", "json_schema")


@dataclass(frozen=True)
class AnswerFormat:
    """A JSON schema that the answer must satisfy; ``param`` is its path in the request."""

    schema: Any
    param: str


def read_format(spec: Json | None, at: str, user_text: str, *, nested: bool) -> AnswerFormat | None:
    """Return the answer format of a request, or ``None`` for plain text.

    ``at`` is the path of ``spec`` including its final dot. ``nested`` selects Chat's form, which
    wraps the schema and its name in ``json_schema``; the Responses form is flat.
    """
    if spec is None:
        return None
    kind = check_enum(require_field(spec, "type", TEXT, at), FORMAT_TYPES, f"{at}type")
    if kind == "json_object":
        return AnswerFormat({"const": {"demo": True, "you_said": user_text}}, at.rstrip("."))
    if kind == "text":
        return None
    if nested:
        spec, at = require_field(spec, kind, OBJECT, at), f"{at}{kind}."
    require_field(spec, "name", TEXT, at)
    return AnswerFormat(read_field(spec, "schema", OBJECT, at) or {"type": "object"}, f"{at}schema")
