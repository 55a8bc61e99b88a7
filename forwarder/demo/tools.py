"""Which of the offered tools a request wants called.

Tools and choices arrive here in the flat form of the Responses API.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from forwarder.core.errors import InvalidRequest
from forwarder.demo.reading import JSON, OBJECT, TEXT, need, objects, one_of, optional

Offer = tuple[str, JSON]
NAME = re.compile(r"[a-zA-Z0-9_-]{1,128}")
MODES = ("none", "auto", "required")


@dataclass(frozen=True)
class Tool:
    """A tool that can be called; ``param`` is where in the request its schema stands."""

    kind: Literal["function", "custom"]
    name: str
    schema: Any
    param: str
    namespace: str | None = None


def chosen(offers: list[Offer], choice: Any) -> Tool | None:
    """The tool to call, if any: the first offered one that the choice allows.

    ``offers`` are tools with their paths. Hosted tools may be among them and are never called.
    Raises InvalidRequest for a malformed tool, or a choice of a tool that was not offered.
    """
    tools = [tool for offer in offers for tool in _tools(offer)]
    if isinstance(choice, dict):
        tools = _allowed(tools, choice)
    elif choice is not None and one_of(choice, MODES, "tool_choice") == "none":
        return None
    return next(iter(tools), None)


def _tools(offer: Offer, namespace: str | None = None) -> Iterator[Tool]:
    path, spec = offer
    kind = need(spec, "type", TEXT, f"{path}.")
    if kind == "function" or kind == "custom":
        schema = optional(spec, "parameters", OBJECT, f"{path}.") or {"type": "object"}
        yield Tool(kind, _name(spec, path), schema, f"{path}.parameters", namespace)
    elif kind == "namespace":
        for child in objects(spec, "tools", f"{path}."):
            yield from _tools(child, _name(spec, path))


def _name(spec: JSON, path: str) -> str:
    name: str = need(spec, "name", TEXT, f"{path}.")
    if not NAME.fullmatch(name):
        raise InvalidRequest(
            f"Invalid '{path}.name': string does not match pattern. "
            "Expected a string that matches the pattern '^[a-zA-Z0-9_-]+$'.",
            param=f"{path}.name",
            code="invalid_value",
        )
    return name


def _allowed(tools: list[Tool], choice: JSON) -> list[Tool]:
    kind = need(choice, "type", TEXT, "tool_choice.")
    if kind == "allowed_tools":
        one_of(need(choice, "mode", TEXT, "tool_choice."), MODES[1:], "tool_choice.mode")
        wanted = objects(choice, "tools", "tool_choice.")
        return [tool for path, one in wanted for tool in _named(tools, one, f"{path}.")]
    return _named(tools, choice, "tool_choice.")


def _named(tools: list[Tool], wanted: JSON, at: str) -> list[Tool]:
    kind = need(wanted, "type", TEXT, at)
    if kind not in ("function", "custom"):
        return []
    name = need(wanted, "name", TEXT, at)
    found = [tool for tool in tools if (tool.kind, tool.name) == (kind, name)]
    if not found:
        raise InvalidRequest(
            f"Tool choice '{name}' not found in 'tools' parameter.", param="tool_choice"
        )
    return found
