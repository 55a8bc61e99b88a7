"""Chat request -> Responses request."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from forwarder.core.errors import InvalidRequest, Unsupported
from forwarder.core.translation_context import TranslationContext
from forwarder.core.types import Json
from forwarder.core.validate import (
    DICT,
    LIST,
    STR,
    check_enum,
    check_type,
    read_field,
    require_field,
)
from forwarder.protocols import chat_reasoning, unread_fields
from forwarder.protocols.chat_responses_mappings import (
    INCLUDE_LOGPROBS,
    RESPONSE_FORMATS,
    map_format_to_responses,
)
from forwarder.protocols.parameters import CHAT_OVER_RESPONSES, validate_parameters
from forwarder.protocols.types import MIN_OUTPUT_TOKENS
from forwarder.translation.chat_over_responses import tools
from forwarder.translation.chat_over_responses.history import (
    ChatHistoryReader,
    accepts_reasoning_text,
)


class TranslatedChatRequest(NamedTuple):
    """The Responses request for a Chat request, and the facts that its answer needs.

    ``uses_function_call`` is true if the answer must use the legacy ``function_call`` field,
    ``wants_logprobs`` if the client wants log probabilities, and ``is_cut`` if the forwarder cuts
    the answer itself (see ``is_answer_cut``).
    """

    upstream_request: Json
    uses_function_call: bool
    wants_logprobs: bool = False
    is_cut: bool = False


def translate_request(request: Json, context: TranslationContext) -> TranslatedChatRequest:
    """Translate a Chat request to a Responses request.

    Raises InvalidRequest for malformed parameters, Unsupported for those that the Responses API
    cannot carry.
    """
    require_field(request, "model", STR, "model")
    out: Json = {"store": False}
    for name, value in validate_parameters(
        request, CHAT_OVER_RESPONSES, context.loss_report, context.extensions
    ):
        mapper = _PARAMETER_MAPPERS.get(name)
        if mapper is None:
            out[name] = value
        else:
            mapper(value, out)
    messages = require_field(request, "messages", LIST, "messages")
    if not messages:
        raise InvalidRequest("Invalid 'messages': empty array.", param="messages")
    out["input"] = ChatHistoryReader(context).read_messages(messages)
    set_modalities(request, out, context)
    finalize_tools(request, out)
    set_reasoning(request, out, context)
    set_logprobs(request, out)
    unread_fields.report_ignored_fields(
        request,
        "chat",
        context.loss_report,
        chat_reasoning.REASONING_FIELDS if accepts_reasoning_text(context) else (),
    )
    return TranslatedChatRequest(
        out,
        uses_legacy_functions(request),
        wants_logprobs=bool(request.get("logprobs")),
        is_cut=is_answer_cut(request),
    )


def is_answer_cut(request: Json) -> bool:
    """Whether the forwarder must cut the answer, because the Responses API cannot.

    That API has no stop sequences and no token limit below ``MIN_OUTPUT_TOKENS``.
    """
    limits = (request.get(name) for name in ("max_completion_tokens", "max_tokens"))
    limit = next((limit for limit in limits if limit is not None), MIN_OUTPUT_TOKENS)
    return bool(request.get("stop")) or (type(limit) is int and limit < MIN_OUTPUT_TOKENS)


def uses_legacy_functions(request: Json) -> bool:
    """Whether the client uses the legacy ``functions``, with at most one call per message."""
    return bool(request.get("functions")) and not request.get("tools")


def finalize_tools(request: Json, out: Json) -> None:
    choice = out.get("tool_choice")
    if choice is not None:
        tools.check_tool_choice(choice, out.get("tools") or [])
    if not out.get("tools"):
        for name in ("tools", "tool_choice", "parallel_tool_calls"):
            out.pop(name, None)
    elif uses_legacy_functions(request):
        out["parallel_tool_calls"] = False


def set_reasoning(request: Json, out: Json, context: TranslationContext) -> None:
    effort = request.get("reasoning_effort")
    if effort:
        out["reasoning"] = {"effort": effort}
    if effort != "none" and (effort or context.can_summarize):
        out.setdefault("reasoning", {})["summary"] = "auto"  # else the client sees no reasoning


_SUPPORTED_MODALITIES = ("text", "image")


def set_modalities(request: Json, out: Json, context: TranslationContext) -> None:
    """Request images with the image generation tool, or with the upstream's own parameter."""
    modalities = request.get("modalities") or ()
    for modality in modalities:
        if modality not in _SUPPORTED_MODALITIES:
            raise Unsupported(
                "Unsupported value in 'modalities': the upstream can answer only with 'text' and "
                "'image'.",
                param="modalities",
                code="unsupported_value",
            )
    if "image" in modalities and "modalities" in context.extensions:
        out["modalities"] = modalities
    elif "image" in modalities:
        out["tools"] = [*out.get("tools", ()), {"type": "image_generation"}]


def set_logprobs(request: Json, out: Json) -> None:
    top_logprobs = request.get("top_logprobs")
    if request.get("logprobs"):
        out["include"] = [*out.get("include", ()), INCLUDE_LOGPROBS]
        if top_logprobs:
            out["top_logprobs"] = top_logprobs
    elif top_logprobs:
        raise InvalidRequest(
            "'top_logprobs' is only allowed when 'logprobs' is enabled.", param="top_logprobs"
        )


# -- parameters that change their name or shape -------------------------------------------------


def skip_parameter(value: Any, out: Json) -> None:
    """Do nothing: other functions of this module read the parameter."""


def set_token_limit(value: int, out: Json) -> None:
    out["max_output_tokens"] = max(value, MIN_OUTPUT_TOKENS)


def set_default_token_limit(value: int, out: Json) -> None:
    out.setdefault("max_output_tokens", max(value, MIN_OUTPUT_TOKENS))


def add_tools(value: list[Any], out: Json) -> None:
    out["tools"] = [*out.get("tools", ()), *tools.convert_tools(value)]


def add_functions(value: list[Any], out: Json) -> None:
    out["tools"] = [*out.get("tools", ()), *tools.convert_functions(value)]


def set_text_format(value: Json, out: Json) -> None:
    kind = require_field(value, "type", STR, "response_format.type")
    check_enum(kind, RESPONSE_FORMATS, "response_format.type")
    if kind == "json_schema":
        path = "response_format.json_schema"
        json_schema = require_field(value, "json_schema", DICT, path)
        require_field(json_schema, "name", STR, f"{path}.name")
        read_field(json_schema, "schema", DICT, f"{path}.schema")
    out.setdefault("text", {})["format"] = map_format_to_responses(value)


def add_web_search_tool(value: Json, out: Json) -> None:
    out["tools"] = [*out.get("tools", ()), make_search_tool(value)]


def make_search_tool(value: Json) -> Json:
    """Return the tool for ``web_search_options``.  Raises InvalidRequest for a wrong location."""
    tool: Json = {"type": "web_search"}
    if value.get("search_context_size"):
        tool["search_context_size"] = value["search_context_size"]
    location = read_field(value, "user_location", DICT, "web_search_options.user_location")
    if location:
        approximate = check_type(
            location.get("approximate") or {}, DICT, "web_search_options.user_location"
        )
        tool["user_location"] = {"type": "approximate", **approximate}
    return tool


_PARAMETER_MAPPERS: dict[str, Callable[[Any, Json], None]] = {
    "messages": skip_parameter,
    "modalities": skip_parameter,
    "logprobs": skip_parameter,
    "top_logprobs": skip_parameter,
    "reasoning_effort": skip_parameter,
    "max_completion_tokens": set_token_limit,
    "max_tokens": set_default_token_limit,
    "tools": add_tools,
    "functions": add_functions,
    "tool_choice": lambda value, out: out.update(tool_choice=tools.convert_tool_choice(value)),
    "function_call": lambda value, out: out.setdefault(
        "tool_choice", tools.convert_function_call(value)
    ),
    "response_format": set_text_format,
    "store": lambda value, out: out.update(store=value),
    "verbosity": lambda value, out: out.setdefault("text", {}).update(verbosity=value),
    "web_search_options": add_web_search_tool,
}
