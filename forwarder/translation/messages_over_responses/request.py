"""Messages request -> Responses request."""

from __future__ import annotations

from typing import NamedTuple

from forwarder.core.errors import InvalidRequest
from forwarder.core.paced_iteration import iter_paced
from forwarder.core.translation_context import TranslationContext
from forwarder.core.types import Json
from forwarder.core.validate import LIST, STR, require_field
from forwarder.protocols.chat_responses_mappings import INCLUDE_ENCRYPTED_REASONING
from forwarder.protocols.types import MIN_OUTPUT_TOKENS
from forwarder.translation.messages_history import read_conversation, read_system
from forwarder.translation.messages_over_responses.history import ResponsesConversationBuilder
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

_INCLUDE_SOURCES = "web_search_call.action.sources"


class MessagesOverResponsesRequest(NamedTuple):
    """The Responses request for a Messages request, and the facts that its answer needs."""

    upstream_request: Json
    model: str
    thinking: ThinkingSettings


def translate_request(request: Json, context: TranslationContext) -> MessagesOverResponsesRequest:
    """Translate a Messages request to a Responses request.

    Raises InvalidRequest for malformed parameters, Unsupported for those that the Responses API
    cannot carry.
    """
    model = require_field(request, "model", STR, "model")
    out: Json = {"store": False, **copy_parameters(request, context)}
    thinking = read_thinking_settings(request)
    read_stop_sequences(request)  # validates them; later middleware cuts the answer
    tools = read_tools(request, context.loss_report)
    system = read_system(request)
    builder = ResponsesConversationBuilder(context)
    read_conversation(require_field(request, "messages", LIST, "messages"), builder, context)
    if not builder.items:
        raise InvalidRequest(
            "'messages': at least one message with content is required.",
            param="messages",
            code="empty_array",
        )
    out["input"] = builder.items
    schema = read_schema(request)
    include = [INCLUDE_ENCRYPTED_REASONING] if context.can_summarize else []
    if tools.search is not None:
        include.append(_INCLUDE_SOURCES)
    optional = {
        "instructions": system,
        "max_output_tokens": max(read_token_limit(request), MIN_OUTPUT_TOKENS),
        "text": schema and {"format": {"type": "json_schema", **make_json_schema(schema)}},
        "reasoning": make_reasoning(thinking, context),
        "include": include,
        "user": read_user(request),
        "prompt_cache_key": make_cache_key(request, system),
        "service_tier": read_service_tier(request),
    }
    out |= {name: value for name, value in optional.items() if value}
    set_tools(out, request, tools)
    return MessagesOverResponsesRequest(out, model, thinking)


def make_reasoning(thinking: ThinkingSettings, context: TranslationContext) -> Json:
    reasoning: Json = {"effort": thinking.effort} if thinking.effort else {}
    if thinking.is_shown and (thinking.effort or context.can_summarize):
        reasoning["summary"] = "auto"  # else the client sees no reasoning
    return reasoning


def set_tools(out: Json, request: Json, tools: ToolSettings) -> None:
    choice = read_tool_choice(request, tools)
    offered = [make_function(tool) for tool in iter_paced(tools.functions)]
    if tools.search is not None:
        offered.append(tools.search)
        if tools.max_searches is not None:
            out["max_tool_calls"] = max(1, tools.max_searches)
    if not offered:
        return
    out["tools"] = offered
    if choice is None:
        return
    if choice.name in tools.names:
        out["tool_choice"] = {"type": "function", "name": choice.name}
    elif choice.name:
        search = {"type": "allowed_tools", "mode": "required", "tools": [{"type": "web_search"}]}
        out["tool_choice"] = search
    else:
        out["tool_choice"] = choice.mode
    if choice.is_parallel is False:
        out["parallel_tool_calls"] = False


def make_function(tool: FunctionTool) -> Json:
    """Return a function.  Without ``strict``, the Responses API would try its strict mode."""
    function: Json = {"type": "function", "name": tool.name, "parameters": tool.parameters}
    if tool.description:
        function["description"] = tool.description
    return {**function, "strict": bool(tool.strict)}
