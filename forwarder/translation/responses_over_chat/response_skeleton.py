"""The Response object without its output: the request's parameters and the API's defaults."""

from __future__ import annotations

from forwarder.core.types import Json
from forwarder.protocols.tool_secrets import hide_tool_secrets

_RESPONSE_DEFAULTS: Json = {
    "background": False,
    "frequency_penalty": 0,
    "instructions": None,
    "max_output_tokens": None,
    "max_tool_calls": None,
    "parallel_tool_calls": True,
    "presence_penalty": 0,
    "previous_response_id": None,
    "prompt_cache_key": None,
    "safety_identifier": None,
    "service_tier": "default",
    "temperature": 1.0,
    "tool_choice": "auto",
    "tools": [],
    "top_logprobs": 0,
    "top_p": 1.0,
    "truncation": "disabled",
    "user": None,
}
"""The fields that the Open Responses schema requires and that a request can set."""


def make_response_skeleton(request: Json, response_id: str, created_at: int) -> Json:
    """Return a Response in progress without output, which echoes the client's ``request``.

    ``created_at`` is in Unix seconds.
    """
    echoed = {k: request[k] for k in _RESPONSE_DEFAULTS if request.get(k) is not None}
    text = {k: v for k, v in (request.get("text") or {}).items() if v is not None}
    return {
        "id": response_id,
        "object": "response",
        "created_at": created_at,
        "completed_at": None,
        "status": "in_progress",
        "error": None,
        "incomplete_details": None,
        "model": request["model"],
        "output": [],
        "usage": None,
        "store": False,
        **_RESPONSE_DEFAULTS,
        **echoed,
        "metadata": {**(request.get("metadata") or {})},
        "tools": [complete_tool(tool) for tool in hide_tool_secrets(request.get("tools")) or ()],
        "reasoning": {"effort": None, "summary": None, **(request.get("reasoning") or {})},
        "text": {"format": {"type": "text"}, **text},
    }


def complete_tool(tool: Json) -> Json:
    """Add the fields that the SDK requires of a function tool."""
    if tool.get("type") != "function":
        return tool
    return {"description": None, "parameters": None, "strict": None, **tool}
