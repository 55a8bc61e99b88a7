"""Adapts request bodies that mix the shapes of Chat Completions and Responses.

Cursor posts ``input`` and flat tools to ``/chat/completions`` and expects a chat completion. Other
clients use an older name of the token limit. The forwarder converts both. It rejects a body that
only the other API can serve, with the path of that API.
"""

from __future__ import annotations

from typing import Any

from forwarder.context.request_context import RequestContext
from forwarder.core.errors import InvalidRequest, shorten_value
from forwarder.core.ids import ID_SOURCE
from forwarder.core.translation_context import LossReport, TranslationContext
from forwarder.core.types import Json
from forwarder.core.validate import INT, read_field
from forwarder.protocols.chat import CHAT
from forwarder.protocols.parameters import RESPONSES_OVER_CHAT
from forwarder.protocols.responses import RESPONSES
from forwarder.translation import responses_over_chat

_TOKEN_LIMITS = ("max_completion_tokens", "max_tokens")
"""Chat Completions names for ``max_output_tokens``."""

_ONLY_RESPONSES = ("previous_response_id", "conversation", "prompt", "background")
"""Responses parameters without an equivalent in Chat Completions."""

_SHARED_PARAMETERS = ("store", "stream_options")
"""Parameters of both APIs that the translators do not handle."""

_UNSUPPORTED_PARAMETERS = ("truncation", "context_management")


def adapt_shape(request: Json, client: str, context: RequestContext) -> Json:
    """Return the request body in the shape of the protocol ``client``.

    Records the losses of the conversion in the loss report of ``context``. Raises InvalidRequest
    for a body that belongs to the other API and for an invalid token or tool call limit.
    """
    adapt = _SHAPE_ADAPTERS.get(client)
    return request if adapt is None else adapt(request, context)


def adapt_responses(request: Json, context: RequestContext) -> Json:
    if request.get("messages") is not None and request.get("input") is None:
        raise InvalidRequest(
            "Missing required parameter: 'input'. Send a body with 'messages' to "
            "/v1/chat/completions.",
            param="input",
            code="missing_required_parameter",
        )
    max_calls = read_field(request, "max_tool_calls", INT, "max_tool_calls")
    if max_calls is not None and max_calls < 1:
        raise InvalidRequest(
            "Invalid 'max_tool_calls': expected a value of at least 1, "
            f"but got {shorten_value(max_calls)} instead.",
            param="max_tool_calls",
            code="integer_below_min_value",
        )
    if request.get("max_output_tokens") is not None:
        return request
    for name in _TOKEN_LIMITS:
        limit = read_field(request, name, INT, name)
        if limit is not None:
            rest = {k: v for k, v in request.items() if k not in _TOKEN_LIMITS}
            return {**rest, "max_output_tokens": limit}
    return request


def adapt_chat(request: Json, context: RequestContext) -> Json:
    adapted = convert_chat_shape(request, context)
    context.conversion_losses = dict(context.loss_report.losses)
    return adapted


def convert_chat_shape(request: Json, context: RequestContext) -> Json:
    if request.get("messages") is None and request.get("input") is not None:
        context.has_converted_body = True
        return convert_to_chat(request, context.loss_report)
    tools, choice = request.get("tools"), request.get("tool_choice")
    if isinstance(tools, list) and any(map(is_flat_tool, tools)):
        request = {
            **request,
            "tools": [nest_tool(tool) if is_flat_tool(tool) else tool for tool in tools],
        }
    if choice is not None and is_flat_tool(choice):
        request = {**request, "tool_choice": nest_tool(choice)}
    return request


def convert_to_chat(request: Json, loss_report: LossReport) -> Json:
    """Convert Cursor's shape: a Responses body that may contain Chat Completions parameters."""
    only = [name for name in _ONLY_RESPONSES if request.get(name)]
    if only or not isinstance(request["input"], list):
        raise InvalidRequest(
            f"Missing required parameter: 'messages'. Send a body with "
            f"'{(only or ['input'])[0]}' to /v1/responses.",
            param="messages",
            code="missing_required_parameter",
        )
    own = {k: v for k, v in request.items() if k in RESPONSES_OVER_CHAT}
    others = {k: v for k, v in request.items() if k not in own or k in _SHARED_PARAMETERS}
    for name in _UNSUPPORTED_PARAMETERS:
        if own.get(name) not in (None, *RESPONSES_OVER_CHAT[name].neutral):
            loss_report.drop(name, "Chat Completions has no such parameter")
    translation_context = TranslationContext(
        ID_SOURCE, loss_report, encrypt=str, decrypt=lambda sealed: None, custom_tools=True
    )
    own |= {"model": request.get("model") or "default", "tools": flatten_tools(own.get("tools"))}
    chat = responses_over_chat.translate_request(own, translation_context).upstream_request
    chat.pop("stream_options", None)  # only the client may request usage
    return {**chat, **others, "model": request.get("model")}


def is_flat_tool(tool: Any) -> bool:
    """Return whether a tool or tool choice (function or custom) has the flat Responses shape."""
    kind = tool.get("type") if isinstance(tool, dict) else None
    return kind in ("function", "custom") and kind not in tool and "name" in tool


def nest_tool(tool: Json) -> Json:
    inner = drop_type(tool)
    grammar = inner.get("format")
    if tool["type"] == "custom" and isinstance(grammar, dict) and grammar.get("type") == "grammar":
        inner["format"] = {"type": "grammar", "grammar": drop_type(grammar)}
    return {"type": tool["type"], tool["type"]: inner}


def flatten_tools(tools: Any) -> Any:
    """Flatten the function tools that are nested as in Chat Completions."""
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


_SHAPE_ADAPTERS = {CHAT.name: adapt_chat, RESPONSES.name: adapt_responses}
"""Protocol -> the function that converts requests of other shapes."""
