"""Requests that come in the shape of the other API, or nearly in that of their own.

Cursor posts ``input`` and flat tools to ``/chat/completions`` and reads a chat completion.  Other
clients call the token limit by its older name.  These are read as they are meant.  A body that can
only be meant for the other API is refused with the address where it belongs.
"""

from __future__ import annotations

from typing import Any

from forwarder.context.request_context import RequestContext
from forwarder.core.errors import InvalidRequest, shorten_value
from forwarder.core.ids import ID_SOURCE
from forwarder.core.translation_context import LossReport, TranslationContext
from forwarder.core.types import Json
from forwarder.core.validate import INT, read_field
from forwarder.protocols.parameters import RESPONSES_OVER_CHAT
from forwarder.translation import responses_over_chat

_TOKEN_LIMITS = ("max_completion_tokens", "max_tokens")
"""What Chat Completions calls ``max_output_tokens``."""

_ONLY_RESPONSES = ("previous_response_id", "conversation", "prompt", "background")
"""Parameters of Responses that no chat completion can honour."""

_SHARED_PARAMETERS = ("store", "stream_options")
"""Parameters of both APIs that translation leaves to the forwarder."""

_UNSUPPORTED_PARAMETERS = ("truncation", "context_management")


def adapt_shape(request: Json, client: str, exchange: RequestContext) -> Json:
    """The request in the shape of the ``client`` protocol.

    Raises InvalidRequest for a body that belongs to the other API, and for a limit that no upstream
    could keep.  What is lost by the change is
    noted in the ledger of ``exchange``.
    """
    if client == "responses":
        return adapt_responses(request)
    if client == "chat":
        adapted = adapt_chat(request, exchange)
        exchange.conversion_losses = dict(exchange.loss_report.losses)
        return adapted
    return request


def adapt_responses(request: Json) -> Json:
    if request.get("messages") is not None and request.get("input") is None:
        raise InvalidRequest(
            "Missing required parameter: 'input'. A body with 'messages' is one of Chat "
            "Completions: POST it to /v1/chat/completions.",
            param="input",
            code="missing_required_parameter",
        )
    check_tool_calls(request)
    if request.get("max_output_tokens") is not None:
        return request
    for name in _TOKEN_LIMITS:
        limit = read_field(request, name, INT, name)
        if limit is not None:
            rest = {k: v for k, v in request.items() if k not in _TOKEN_LIMITS}
            return {**rest, "max_output_tokens": limit}
    return request


def check_tool_calls(request: Json) -> None:
    most = read_field(request, "max_tool_calls", INT, "max_tool_calls")
    if most is not None and most < 1:
        raise InvalidRequest(
            "Invalid 'max_tool_calls': expected a value of at least 1, "
            f"but got {shorten_value(most)} instead.",
            param="max_tool_calls",
            code="integer_below_min_value",
        )


def adapt_chat(request: Json, exchange: RequestContext) -> Json:
    if request.get("messages") is None and request.get("input") is not None:
        exchange.has_converted_body = True
        return convert_to_chat(request, exchange.loss_report)
    tools, choice = request.get("tools"), request.get("tool_choice")
    if isinstance(tools, list) and any(map(is_flat_tool, tools)):
        request = {
            **request,
            "tools": [nest_tool(tool) if is_flat_tool(tool) else tool for tool in tools],
        }
    if choice is not None and is_flat_tool(choice):
        request = {**request, "tool_choice": nest_tool(choice)}
    return request


def convert_to_chat(request: Json, ledger: LossReport) -> Json:
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
    others = {k: v for k, v in request.items() if k not in own or k in _SHARED_PARAMETERS}
    for name in _UNSUPPORTED_PARAMETERS:
        if own.get(name) not in (None, *RESPONSES_OVER_CHAT[name].neutral):
            ledger.drop(name, "Chat Completions has no such setting")
    terms = TranslationContext(
        ID_SOURCE, ledger, encrypt=str, decrypt=lambda sealed: None, custom_tools=True
    )
    own |= {"model": request.get("model") or "default", "tools": flatten_tools(own.get("tools"))}
    chat = responses_over_chat.translate_request(own, terms).chat_request
    chat.pop("stream_options", None)  # the usage is the client's to ask for
    return {**chat, **others, "model": request.get("model")}


def is_flat_tool(tool: Any) -> bool:
    """Is this a function or a freeform tool, or a choice of one, in the shape of Responses?"""
    kind = tool.get("type") if isinstance(tool, dict) else None
    return kind in ("function", "custom") and kind not in tool and "name" in tool


def nest_tool(tool: Json) -> Json:
    inner = drop_type(tool)
    grammar = inner.get("format")
    if tool["type"] == "custom" and isinstance(grammar, dict) and grammar.get("type") == "grammar":
        inner["format"] = {"type": "grammar", "grammar": drop_type(grammar)}
    return {"type": tool["type"], tool["type"]: inner}


def flatten_tools(tools: Any) -> Any:
    """Tools of which some are nested as in Chat Completions, beside ``input``."""
    if not isinstance(tools, list):
        return tools
    return [
        {"type": "function", **tool["function"]}
        if isinstance(tool, dict) and isinstance(tool.get("function"), dict)
        else tool
        for tool in tools
    ]


def drop_type(tool: Json) -> Json:
    return {name: value for name, value in tool.items() if name != "type"}
