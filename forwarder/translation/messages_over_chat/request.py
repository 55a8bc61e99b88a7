"""Messages request -> Chat request."""

from __future__ import annotations

from typing import Any, NamedTuple

from forwarder.core.errors import InvalidRequest
from forwarder.core.paced_iteration import iter_paced
from forwarder.core.translation_context import TranslationContext
from forwarder.core.types import Json
from forwarder.core.validate import LIST, STR, require_field
from forwarder.translation.messages_history import read_conversation, read_system
from forwarder.translation.messages_over_chat.history import ChatConversationBuilder
from forwarder.translation.messages_parameters import (
    FunctionTool,
    ThinkingSettings,
    ToolSettings,
    copy_parameters,
    make_cache_key,
    make_json_schema,
    read_schema,
    read_service_tier,
    read_stop_sequences,
    read_thinking_settings,
    read_token_limit,
    read_tool_choice,
    read_tools,
    read_user,
)


class MessagesOverChatRequest(NamedTuple):
    """The Chat request for a Messages request, and the facts that its answer needs."""

    upstream_request: Json
    model: str
    thinking: ThinkingSettings
    stop_sequences: list[str]


def translate_request(request: Json, context: TranslationContext) -> MessagesOverChatRequest:
    """Translate a Messages request to a Chat request.

    Raises InvalidRequest for malformed parameters, Unsupported for those that Chat cannot carry.
    """
    model = require_field(request, "model", STR, "model")
    chat = copy_parameters(request, context)
    if chat.get("stream"):
        chat["stream_options"] = {"include_usage": True}
    thinking, stops = read_thinking_settings(request), read_stop_sequences(request)
    tools = read_tools(request, context.loss_report)
    system = read_system(request)
    builder = ChatConversationBuilder(system, context)
    messages = require_field(request, "messages", LIST, "messages")
    read_conversation(messages, builder, context)
    if not any(message["role"] != "system" for message in builder.messages):
        raise InvalidRequest(
            "'messages': at least one message with content is required.",
            param="messages",
            code="empty_array",
        )
    chat["messages"] = builder.messages
    schema = read_schema(request)
    optional = {
        "max_completion_tokens": read_token_limit(request),
        "stop": stops,
        "reasoning_effort": thinking.effort,
        "response_format": schema
        and {"type": "json_schema", "json_schema": make_json_schema(schema)},
        "user": read_user(request),
        "prompt_cache_key": make_cache_key(request, system),
        "service_tier": read_service_tier(request),
    }
    chat |= {name: value for name, value in optional.items() if value}
    set_tools(chat, request, tools, context)
    return MessagesOverChatRequest(chat, model, thinking, stops)


def set_tools(chat: Json, request: Json, tools: ToolSettings, context: TranslationContext) -> None:
    choice = read_tool_choice(request, tools)
    if tools.search is not None and (choice is None or choice.mode != "none"):
        set_search(chat, tools, context)
    if not tools.functions:
        return
    chat["tools"] = [
        {"type": "function", "function": make_function(tool)}
        for tool in iter_paced(tools.functions)
    ]
    if choice is None:
        return
    if choice.name in tools.names:
        chat["tool_choice"] = {"type": "function", "function": {"name": choice.name}}
    else:
        chat["tool_choice"] = "auto" if choice.name else choice.mode
    if choice.is_parallel is False:
        chat["parallel_tool_calls"] = False


def make_function(tool: FunctionTool) -> Json:
    function: Json = {"name": tool.name, "parameters": tool.parameters}
    if tool.description:
        function["description"] = tool.description
    if tool.strict is not None:
        function["strict"] = tool.strict
    return function


def set_search(chat: Json, tools: ToolSettings, context: TranslationContext) -> None:
    """Set ``web_search_options``, and report settings of the search that Chat lacks."""
    search = tools.search or {}
    if not context.web_search:
        context.loss_report.drop("tools.web_search", "no web search is available here")
        return
    options: Json = {}
    if "user_location" in search:
        location: dict[str, Any] = {k: v for k, v in search["user_location"].items() if k != "type"}
        options["user_location"] = {"type": "approximate", "approximate": location}
    for name in search.get("filters", ()):
        context.loss_report.drop(f"tools.{name}", "Chat Completions has no filters for searches")
    if tools.max_searches is not None:
        context.loss_report.drop("tools.max_uses", "Chat Completions has no limit for searches")
    chat["web_search_options"] = options
