"""Responses request -> Chat request."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from forwarder.core.errors import InvalidRequest
from forwarder.core.translation_context import LossReport, TranslationContext
from forwarder.core.types import Json
from forwarder.core.validate import DICT, STR, check_enum, check_type, read_field, require_field
from forwarder.protocols import unread_fields
from forwarder.protocols.chat_responses_mappings import (
    INCLUDE_ENCRYPTED_REASONING,
    INCLUDE_LOGPROBS,
    RESPONSE_FORMATS,
    map_format_to_chat,
)
from forwarder.protocols.parameters import RESPONSES_OVER_CHAT, validate_parameters
from forwarder.translation.responses_over_chat.history import ResponsesHistoryReader
from forwarder.translation.responses_over_chat.tools import Toolbox


class TranslatedResponsesRequest(NamedTuple):
    """The Chat request for a Responses request, and the facts that its answer needs.

    The answer needs the tools and the client's request, which a Response echoes in part.
    """

    upstream_request: Json
    toolbox: Toolbox
    client_request: Json


def translate_request(request: Json, context: TranslationContext) -> TranslatedResponsesRequest:
    """Translate a Responses request to a Chat request.

    Raises InvalidRequest for malformed parameters and items, Unsupported for those that Chat
    cannot carry.
    """
    require_field(request, "model", STR, "model")
    toolbox = Toolbox(context)
    chat: Json = {}
    for name, value in validate_parameters(request, RESPONSES_OVER_CHAT, context.loss_report):
        mapper = _PARAMETER_MAPPERS.get(name)
        if mapper is None:
            chat[name] = value
        else:
            chat.update(mapper(value, context.loss_report))
    toolbox.add_tools(request.get("tools") or [], "tools")
    chat["messages"] = build_messages(request, toolbox, context)
    items = request.get("input")
    for i, item in enumerate(items if isinstance(items, list) else ()):
        if item.get("type") == "configuration_update":
            apply_configuration_update(chat, item, f"input[{i}]", context)
    if not chat["messages"]:  # the upstream's error would name 'messages', unknown to the client
        raise InvalidRequest("'input' has no content.", param="input", code="empty_array")
    finalize_tools(chat, toolbox, request, context.loss_report)
    unread_fields.report_ignored_fields(request, "responses", context.loss_report)
    if chat.get("stream"):  # whole answers always have their usage
        chat["stream_options"] = {"include_usage": True}
    return TranslatedResponsesRequest(chat, toolbox, request)


def build_messages(request: Json, toolbox: Toolbox, context: TranslationContext) -> list[Json]:
    items = require_field(request, "input", (str, list), "input")
    instructions = read_field(request, "instructions", STR, "instructions")
    # A separate message, so that the prompt begins with the same bytes on every turn.
    head = [{"role": "developer", "content": instructions}] if instructions else []
    if isinstance(items, str):
        return [*head, {"role": "user", "content": items}]
    return [*head, *ResponsesHistoryReader(toolbox, context).read_items(items)]


def check_item(item: Json, path: str, context: TranslationContext) -> None:
    """Raise InvalidRequest for an item that is invalid in every history."""
    ResponsesHistoryReader(Toolbox(context), context).check_item(item, path)
    if item.get("type") == "configuration_update":
        apply_configuration_update({}, item, path, context)


def apply_configuration_update(
    chat: Json, item: Json, path: str, context: TranslationContext
) -> None:
    """Apply a ``configuration_update`` item to ``chat``; later updates override earlier ones."""
    for name, mapper in (("reasoning", map_reasoning), ("text", map_text)):
        update = read_field(item, name, DICT, f"{path}.{name}") or {}
        if update.get("format"):
            chat.pop("response_format", None)  # plain text is the default
        chat.update(mapper(update, context.loss_report))


def finalize_tools(chat: Json, toolbox: Toolbox, request: Json, loss_report: LossReport) -> None:
    client_choice = request.get("tool_choice")
    choice = toolbox.convert_choice(client_choice) if client_choice is not None else None
    if toolbox.search_options is not None and toolbox.is_search_allowed(client_choice):
        chat["web_search_options"] = toolbox.search_options
        for name in request.get("include") or ():
            if name.startswith("web_search_call."):
                loss_report.drop(
                    f"include.{name}", "Chat Completions reports only the cited pages of a search"
                )
    if not toolbox.chat_tools:
        chat.pop("parallel_tool_calls", None)  # strict upstreams accept it only with tools
        return
    chat["tools"] = toolbox.chat_tools
    if choice is not None:
        chat["tool_choice"] = choice


# -- parameters that change their name or shape -------------------------------------------------


def skip_parameter(value: Any, loss_report: LossReport) -> Json:
    """Do nothing: other functions of this module read the parameter."""
    return {}


def map_reasoning(value: Json, loss_report: LossReport) -> Json:
    effort = read_field(value, "effort", STR, "reasoning.effort")
    for name, default in (("mode", "standard"), ("context", "auto")):
        if value.get(name) not in (None, default):
            loss_report.drop(f"reasoning.{name}", "Chat Completions has no such setting")
    return {"reasoning_effort": effort} if effort else {}


def map_text(value: Json, loss_report: LossReport) -> Json:
    chat: Json = {}
    text_format = read_field(value, "format", DICT, "text.format")
    if text_format is not None and read_format_type(text_format) != "text":
        chat["response_format"] = map_format_to_chat(text_format)
    verbosity = read_field(value, "verbosity", STR, "text.verbosity")
    return {**chat, "verbosity": verbosity} if verbosity else chat


def read_format_type(text_format: Json) -> str:
    kind: str = require_field(text_format, "type", STR, "text.format.type")
    check_enum(kind, RESPONSE_FORMATS, "text.format.type")
    if kind == "json_schema":
        require_field(text_format, "name", STR, "text.format.name")
        require_field(text_format, "schema", DICT, "text.format.schema")
    return kind


def map_include(value: list[Any], loss_report: LossReport) -> Json:
    for i, name in enumerate(value):
        if check_type(name, STR, f"include[{i}]") not in _INCLUDABLE_VALUES:
            loss_report.drop(f"include.{name}", "neither API knows this value")
    return {"logprobs": True} if INCLUDE_LOGPROBS in value else {}


_INCLUDABLE_VALUES = frozenset(
    {
        "code_interpreter_call.outputs",
        "computer_call_output.output.image_url",
        "file_search_call.results",
        "message.input_image.image_url",
        INCLUDE_LOGPROBS,
        INCLUDE_ENCRYPTED_REASONING,
        "web_search_call.action.sources",
        "web_search_call.results",
    }
)
"""The values of ``include`` in the Responses API.

Values for the results of hosted tools need no entry in the loss report: the tools are reported.
"""


def map_top_logprobs(value: int, loss_report: LossReport) -> Json:
    return {"logprobs": True, "top_logprobs": value} if value else {}


def map_cache_options(value: Json, loss_report: LossReport) -> Json:
    options = {k: v for k, v in value.items() if k not in ("comparison_response_id", "prewarm")}
    if options.get("ttl") == "12h":
        options["ttl"] = "30m"  # the longest in Chat Completions
    for name in sorted(set(value) - set(options)):
        loss_report.drop(f"prompt_cache_options.{name}", "Chat Completions has no such setting")
    return {"prompt_cache_options": options} if options else {}


_PARAMETER_MAPPERS: dict[str, Callable[[Any, LossReport], Json]] = {
    "include": map_include,
    "input": skip_parameter,
    "instructions": skip_parameter,
    "tools": skip_parameter,
    "tool_choice": skip_parameter,
    "max_output_tokens": lambda value, loss_report: {"max_completion_tokens": value},
    "prompt_cache_options": map_cache_options,
    "reasoning": map_reasoning,
    "service_tier": lambda value, loss_report: {
        "service_tier": "priority" if value == "ultrafast" else value
    },
    "text": map_text,
    "top_logprobs": map_top_logprobs,
}
