"""Hides clients' credentials for MCP servers in responses, where an upstream may repeat them."""

from __future__ import annotations

from typing import Any

from forwarder.core.types import Event, EventStream, Handler, Json
from forwarder.core.url_secrets import hide_url_secrets


def hide_tool_secrets(tools: Any) -> Any:
    """Return the tools without secrets, as OpenAI shows them in responses.

    MCP tools have no ``authorization``, no values of ``headers``, and only the host of
    ``server_url``.
    """
    if not isinstance(tools, list) or not any(map(_is_mcp, tools)):
        return tools
    return [_hide_secrets(tool) if _is_mcp(tool) else tool for tool in tools]


def hide_tool_secrets_of(value: Json) -> Json:
    """Hide the secrets in the tools of a response or item; return it unchanged if it has none."""
    tools = value.get("tools")
    hidden = hide_tool_secrets(tools)
    return value if hidden is tools else {**value, "tools": hidden}


def with_hidden_tool_secrets(handler: Handler, request: Json) -> Handler:
    """Wrap the handler for ``request``: hide secrets if the upstream sends the tools back."""
    tools = request.get("tools")
    if not isinstance(tools, list) or not any(map(_is_mcp, tools)):
        return handler

    def handle_request(request: Json) -> EventStream:
        return ([_hide_in_event(event) for event in batch] for batch in handler(request))

    return handle_request


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
