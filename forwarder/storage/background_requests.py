"""The requests of background work as the store keeps them, so that another worker can begin anew.

They are sealed: they hold the client's key, and perhaps those of tools.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from forwarder.core.types import Json

_ACTING_TOOLS = frozenset({"mcp", "code_interpreter"})
"""Hosted tools that may change something outside of the answer."""


class StoredRequest(NamedTuple):
    """What is needed to ask again: the request, and what its headers and connection said."""

    request: Json
    style: str | None
    client_key: str | None
    payer: str | None
    address: str
    strict: bool
    client_address: str | None
    client_headers: dict[str, str]

    def to_json(self) -> Json:
        """Without the input, if that is a list: a response's input is stored with it."""
        values = self._asdict()
        if isinstance(self.request.get("input"), list):
            values["request"] = {k: v for k, v in self.request.items() if k != "input"}
        return values


def read_stored_request(values: Json, stored_input: list[Json]) -> StoredRequest:
    """The request again; ``stored_input`` is that of its response."""
    request = {"input": stored_input, **values["request"]}
    return StoredRequest(**{**values, "request": request})


def is_readable(values: Any) -> bool:
    """Does this version know all of a stored request, and is all there that it needs?"""
    known = set(StoredRequest._fields)
    needed = known - set(StoredRequest._field_defaults)
    return isinstance(values, dict) and needed <= values.keys() <= known


def is_repeatable(request: Json) -> bool:
    """May an upstream be asked this twice?

    Not if it runs tools that act: an MCP server, a code interpreter or a shell of the upstream's.
    Searches and images only cost their price again, and a client's own tools are run when the
    response has ended.
    """
    return not any(map(is_acting_tool, request.get("tools") or ()))


def is_acting_tool(tool: Any) -> bool:
    if not isinstance(tool, dict):
        return False
    if tool.get("type") == "shell":
        environment = tool.get("environment") or {}
        return isinstance(environment, dict) and environment.get("type", "local") != "local"
    return tool.get("type") in _ACTING_TOOLS
