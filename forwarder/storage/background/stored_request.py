"""Stored requests of background responses, from which another worker can repeat them.

They are encrypted, because they contain the client's API key and possibly credentials of tools.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from forwarder.core.types import Json

_ACTING_TOOLS = frozenset({"mcp", "code_interpreter"})
"""Hosted tools that can have side effects."""


class StoredRequest(NamedTuple):
    """The request body and the facts from its headers and connection that a new attempt needs."""

    request: Json
    style: str | None
    client_key: str | None
    payer: str | None
    address: str
    strict: bool
    client_address: str | None
    client_headers: dict[str, str]

    def to_json(self) -> Json:
        """Return a JSON object without a list ``input``; the response row contains it."""
        values = self._asdict()
        if isinstance(self.request.get("input"), list):
            values["request"] = {k: v for k, v in self.request.items() if k != "input"}
        return values


def read_stored_request(values: Json, stored_input: list[Json]) -> StoredRequest:
    """Rebuild the request; ``stored_input`` is the input of its response."""
    request = {"input": stored_input, **values["request"]}
    return StoredRequest(**{**values, "request": request})


def is_readable(values: Any) -> bool:
    """Whether this version knows all fields of a stored request, and none is missing."""
    known = set(StoredRequest._fields)
    needed = known - set(StoredRequest._field_defaults)
    return isinstance(values, dict) and needed <= values.keys() <= known


def is_repeatable(request: Json, extra_tools: Iterable[Json] = ()) -> bool:
    """Whether the request may be sent to an upstream twice.

    False if tools with side effects may run: an MCP server, a code interpreter or a shell. Repeated
    searches and images only cost money, and clients run their own tools after the response has
    ended. ``extra_tools`` are those that every request gets.
    """
    tools = [*list_objects(request.get("tools"))]
    for item in list_objects(request.get("input")):
        if item.get("type") == "additional_tools":
            tools += list_objects(item.get("tools"))
    if request.get("tool_choice") != "none":
        tools += extra_tools
    return not any(map(is_acting_tool, tools))


def list_objects(value: Any) -> list[Json]:
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def is_acting_tool(tool: Json) -> bool:
    if tool.get("type") == "shell":
        environment = tool.get("environment") or {}
        return isinstance(environment, dict) and environment.get("type", "local") != "local"
    return isinstance(tool.get("type"), str) and tool["type"] in _ACTING_TOOLS
