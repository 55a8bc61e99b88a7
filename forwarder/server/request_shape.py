"""Requests that come in the shape of the other API, or nearly in that of their own.

Cursor posts ``input`` and flat tools to ``/chat/completions`` and reads a chat completion.  Other
clients call the token limit by its older name.  These are read as they are meant.  A body that can
only be meant for the other API is refused with the address where it belongs.
"""

from __future__ import annotations

from typing import Any

from forwarder.context.request_context import Exchange
from forwarder.core.errors import InvalidRequest, shorten
from forwarder.core.ids import MINT
from forwarder.core.translation_context import Ledger, Terms
from forwarder.core.types import Json
from forwarder.core.validate import INT, optional
from forwarder.protocols.parameters import RESPONSES_OVER_CHAT
from forwarder.translation import responses_over_chat

_LIMITS = ("max_completion_tokens", "max_tokens")
"""What Chat Completions calls ``max_output_tokens``."""

_ONLY_RESPONSES = ("previous_response_id", "conversation", "prompt", "background")
"""Parameters of Responses that no chat completion can honour."""

_SAME = ("store", "stream_options")
"""Parameters of both APIs that translation leaves to the forwarder."""

_LOST = ("truncation", "context_management")


def adapt_shape(request: Json, client: str, exchange: Exchange) -> Json:
    """The request in the shape of the ``client`` protocol.

    Raises InvalidRequest for a body that belongs to the other API, and for a limit that no upstream
    could keep.  What is lost by the change is
    noted in the ledger of ``exchange``.
    """
    if client == "responses":
        return _adapt_responses(request)
    if client == "chat":
        adapted = _adapt_chat(request, exchange)
        exchange.shape_losses = dict(exchange.ledger.dropped)
        return adapted
    return request


def _adapt_responses(request: Json) -> Json:
    if request.get("messages") is not None and request.get("input") is None:
        raise InvalidRequest(
            "Missing required parameter: 'input'. A body with 'messages' is one of Chat "
            "Completions: POST it to /v1/chat/completions.",
            param="input",
            code="missing_required_parameter",
        )
    _check_tool_calls(request)
    if request.get("max_output_tokens") is not None:
        return request
    for name in _LIMITS:
        limit = optional(request, name, INT, name)
        if limit is not None:
            rest = {k: v for k, v in request.items() if k not in _LIMITS}
            return {**rest, "max_output_tokens": limit}
    return request


def _check_tool_calls(request: Json) -> None:
    most = optional(request, "max_tool_calls", INT, "max_tool_calls")
    if most is not None and most < 1:
        raise InvalidRequest(
            "Invalid 'max_tool_calls': expected a value of at least 1, "
            f"but got {shorten(most)} instead.",
            param="max_tool_calls",
            code="integer_below_min_value",
        )


def _adapt_chat(request: Json, exchange: Exchange) -> Json:
    if request.get("messages") is None and request.get("input") is not None:
        exchange.has_converted_body = True
        return _convert_to_chat(request, exchange.ledger)
    tools, choice = request.get("tools"), request.get("tool_choice")
    if isinstance(tools, list) and any(map(_is_flat, tools)):
        request = {**request, "tools": [_nest(tool) if _is_flat(tool) else tool for tool in tools]}
    if choice is not None and _is_flat(choice):
        request = {**request, "tool_choice": _nest(choice)}
    return request


def _convert_to_chat(request: Json, ledger: Ledger) -> Json:
    """Cursor's shape: a Responses body, beside which parameters of Chat Completions may stand."""
    only = [name for name in _ONLY_RESPONSES if request.get(name)]
    if only or not isinstance(request["input"], list):
        raise InvalidRequest(
            f"Missing required parameter: 'messages'. A body with '{(only or ['input'])[0]}' is "
            "one of the Responses API: POST it to /v1/responses.",
            param="messages",
            code="missing_required_parameter",
        )
    own = {k: v for k, v in request.items() if k in RESPONSES_OVER_CHAT}
    others = {k: v for k, v in request.items() if k not in own or k in _SAME}
    for name in _LOST:
        if own.get(name) not in (None, *RESPONSES_OVER_CHAT[name].neutral):
            ledger.drop(name, "Chat Completions has no such setting")
    terms = Terms(MINT, ledger, seal=str, unseal=lambda sealed: None, custom_tools=True)
    own |= {"model": request.get("model") or "default", "tools": _flatten(own.get("tools"))}
    chat = responses_over_chat.translate_request(own, terms).chat
    chat.pop("stream_options", None)  # the usage is the client's to ask for
    return {**chat, **others, "model": request.get("model")}


def _is_flat(tool: Any) -> bool:
    """Is this a function or a freeform tool, or a choice of one, in the shape of Responses?"""
    kind = tool.get("type") if isinstance(tool, dict) else None
    return kind in ("function", "custom") and kind not in tool and "name" in tool


def _nest(tool: Json) -> Json:
    inner = _drop_type(tool)
    grammar = inner.get("format")
    if tool["type"] == "custom" and isinstance(grammar, dict) and grammar.get("type") == "grammar":
        inner["format"] = {"type": "grammar", "grammar": _drop_type(grammar)}
    return {"type": tool["type"], tool["type"]: inner}


def _flatten(tools: Any) -> Any:
    """Tools of which some are nested as in Chat Completions, beside ``input``."""
    if not isinstance(tools, list):
        return tools
    return [
        {"type": "function", **tool["function"]}
        if isinstance(tool, dict) and isinstance(tool.get("function"), dict)
        else tool
        for tool in tools
    ]


def _drop_type(tool: Json) -> Json:
    return {name: value for name, value in tool.items() if name != "type"}
