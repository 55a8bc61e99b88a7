"""Clients' keys for MCP servers: they go to the upstream that calls these, and never back."""

from __future__ import annotations

from typing import Any

from forwarder.core.types import Event, EventStream, Handler, Json
from forwarder.core.url_secrets import hide_url_secrets


def hide_tool_secrets(tools: Any) -> Any:
    """The tools as a response shows them: as OpenAI's does, without ``authorization`` and values of
    ``headers``, and with no more of ``server_url`` than the host.
    """
    if not isinstance(tools, list) or not any(map(_is_mcp, tools)):
        return tools
    return [_hide_secrets(tool) if _is_mcp(tool) else tool for tool in tools]


def hide_tool_secrets_of(value: Json) -> Json:
    """The response or item itself unless it shows secrets of its tools, else one that does not."""
    tools = value.get("tools")
    hidden = hide_tool_secrets(tools)
    return value if hidden is tools else {**value, "tools": hidden}


def with_hidden_tools(call: Handler, request: Json) -> Handler:
    """The call for ``request``, whose upstream may send the tools back as it got them."""
    tools = request.get("tools")
    if not isinstance(tools, list) or not any(map(_is_mcp, tools)):
        return call

    def call_and_hide(request: Json) -> EventStream:
        return ([_hide_in_event(event) for event in batch] for batch in call(request))

    return call_and_hide


def _hide_in_event(event: Event) -> Event:
    response = event.get("response")
    if not isinstance(response, dict):
        return event
    return {**event, "response": hide_tool_secrets_of(response)}


def _is_mcp(tool: Any) -> bool:
    return isinstance(tool, dict) and tool.get("type") == "mcp"


def _hide_secrets(tool: Json) -> Json:
    shown = {name: value for name, value in tool.items() if name != "authorization"}
    if isinstance(tool.get("headers"), dict):
        shown["headers"] = dict.fromkeys(tool["headers"], "***")
    if isinstance(tool.get("server_url"), str):
        shown["server_url"] = hide_url_secrets(tool["server_url"])
    return shown
