"""A Responses request -> a Chat request."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from forwarder.core.errors import InvalidRequest
from forwarder.core.translation_context import LossReport, TranslationContext
from forwarder.core.types import Json
from forwarder.core.validate import DICT, STR, check_enum, check_type, read_field, require_field
from forwarder.protocols import unread_fields
from forwarder.protocols.mappings import (
    INCLUDE_ENCRYPTED_REASONING,
    INCLUDE_LOGPROBS,
    RESPONSE_FORMATS,
    map_format_to_chat,
)
from forwarder.protocols.parameters import RESPONSES_OVER_CHAT, validate_parameters
from forwarder.translation.responses_over_chat.history import ResponsesHistoryReader
from forwarder.translation.responses_over_chat.toolbox import Toolbox


class TranslatedResponsesRequest(NamedTuple):
    """A translated request and what its answer needs: the tools, and what to echo."""

    chat_request: Json
    toolbox: Toolbox
    client_request: Json


def translate_request(request: Json, context: TranslationContext) -> TranslatedResponsesRequest:
    """Give the chat request for a Responses request.

    Raises InvalidRequest for what is malformed and Unsupported for what cannot be carried.
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
    given = request.get("input")
    for i, item in enumerate(given if isinstance(given, list) else ()):
        apply_configuration_update(chat, item, f"input[{i}]", context)
    if not chat["messages"]:  # the upstream would complain of messages, which are not the client's
        raise InvalidRequest("'input' holds nothing to answer.", param="input", code="empty_array")
    finalize_tools(chat, toolbox, request, context.loss_report)
    unread_fields.report_ignored_fields(request, "responses", context.loss_report)
    if chat.get("stream"):  # a whole answer has its usage unasked
        chat["stream_options"] = {"include_usage": True}
    return TranslatedResponsesRequest(chat, toolbox, request)


def build_messages(request: Json, toolbox: Toolbox, context: TranslationContext) -> list[Json]:
    given = require_field(request, "input", (str, list), "input")
    instructions = read_field(request, "instructions", STR, "instructions")
    # Kept apart from the history, so that the beginning of every turn has the same bytes.
    head = [{"role": "developer", "content": instructions}] if instructions else []
    if isinstance(given, str):
        return [*head, {"role": "user", "content": given}]
    return [*head, *ResponsesHistoryReader(toolbox, context).read_items(given)]


def check_item(item: Json, path: str, context: TranslationContext) -> None:
    """Raise InvalidRequest for an item that no request could have, whatever stands around it."""
    ResponsesHistoryReader(Toolbox(context), context).check_item(item, path)
    apply_configuration_update({}, item, path, context)


def apply_configuration_update(
    chat: Json, item: Json, path: str, context: TranslationContext
) -> None:
    """Apply a ``configuration_update`` item: the last one counts."""
    if item.get("type") != "configuration_update":
        return
    for name, mapper in (("reasoning", map_reasoning), ("text", map_text)):
        update = read_field(item, name, DICT, f"{path}.{name}") or {}
        if update.get("format"):
            chat.pop("response_format", None)  # plain text is asked for by saying nothing
        chat.update(mapper(update, context.loss_report))


def finalize_tools(chat: Json, toolbox: Toolbox, request: Json, loss_report: LossReport) -> None:
    given = request.get("tool_choice")
    choice = toolbox.convert_choice(given) if given is not None else None
    if toolbox.search_options is not None and toolbox.is_search_allowed(given):
        chat["web_search_options"] = toolbox.search_options
        for name in request.get("include") or ():
            if name.startswith("web_search_call."):
                loss_report.drop(
                    f"include.{name}", "of a search, Chat Completions tells what it cites"
                )
    if not toolbox.chat_tools:
        chat.pop("parallel_tool_calls", None)  # strict upstreams take it only beside tools
        return
    chat["tools"] = toolbox.chat_tools
    if choice is not None:
        chat["tool_choice"] = choice


# -- parameters that change their name or shape -------------------------------------------------


def skip_parameter(value: Any, loss_report: LossReport) -> Json:
    """Read elsewhere in this module."""
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
            loss_report.drop(f"include.{name}", "neither API knows of it")
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
"""What the Responses API includes.  What hosted tools would give is lost with them, by name."""


def map_top_logprobs(value: int, loss_report: LossReport) -> Json:
    return {"logprobs": True, "top_logprobs": value} if value else {}


def map_cache_options(value: Json, loss_report: LossReport) -> Json:
    kept = {k: v for k, v in value.items() if k not in ("comparison_response_id", "prewarm")}
    if kept.get("ttl") == "12h":
        kept["ttl"] = "30m"  # the longest that Chat Completions knows
    for name in sorted(set(value) - set(kept)):
        loss_report.drop(f"prompt_cache_options.{name}", "Chat Completions has no such setting")
    return {"prompt_cache_options": kept} if kept else {}


_PARAMETER_MAPPERS: dict[str, Callable[[Any, LossReport], Json]] = {
    "include": map_include,
    "input": skip_parameter,
    "instructions": skip_parameter,
    "tools": skip_parameter,
    "tool_choice": skip_parameter,
    "max_output_tokens": lambda value, ledger: {"max_completion_tokens": value},
    "prompt_cache_options": map_cache_options,
    "reasoning": map_reasoning,
    "service_tier": lambda value, ledger: {
        "service_tier": "priority" if value == "ultrafast" else value
    },
    "text": map_text,
    "top_logprobs": map_top_logprobs,
}
