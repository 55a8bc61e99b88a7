"""A Chat request -> a Responses request."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from forwarder.core.errors import InvalidRequest, Unsupported
from forwarder.core.translation_context import Terms
from forwarder.core.types import Json
from forwarder.core.validate import DICT, LIST, STR, choose, expect, optional, require
from forwarder.protocols import chat_reasoning, unread_fields
from forwarder.protocols.mappings import FORMATS, LOGPROBS, format_to_responses
from forwarder.protocols.parameters import CHAT_OVER_RESPONSES, settle
from forwarder.translation.chat_over_responses import tools
from forwarder.translation.chat_over_responses.history import History, replays

OUTPUT_FLOOR = 16
"""The smallest ``max_output_tokens`` that the Responses API takes."""


class Prepared(NamedTuple):
    """A translated request; ``legacy`` when its answer is to use ``function_call``.

    ``logprobs`` says that the client wants log probabilities, ``cut`` that its answer is cut here.
    """

    responses: Json
    legacy: bool
    logprobs: bool = False
    cut: bool = False


def translate_request(request: Json, terms: Terms) -> Prepared:
    """Give the Responses request for a Chat request.

    Raises InvalidRequest for what is malformed and Unsupported for what cannot be carried.
    """
    require(request, "model", STR, "model")
    out: Json = {"store": False}
    for name, value in settle(request, CHAT_OVER_RESPONSES, terms.ledger, terms.takes):
        mapper = _MAPPED.get(name)
        if mapper is None:
            out[name] = value
        else:
            mapper(value, out)
    messages = require(request, "messages", LIST, "messages")
    if not messages:
        raise InvalidRequest("Invalid 'messages': empty array.", param="messages")
    out["input"] = History(terms).read(messages)
    _modalities(request, out, terms)
    _offer_tools(request, out)
    _reasoning(request, out, terms)
    _logprobs(request, out)
    unread_fields.report(
        request, "chat", terms.ledger, chat_reasoning.FIELDS if replays(terms) else ()
    )
    measured = bool(request.get("logprobs"))
    return Prepared(out, _is_legacy(request), measured, is_cut(request))


def is_cut(request: Json) -> bool:
    """Does the answer end where the Responses API does not: at a stop, or below its least limit?"""
    given = (request.get(name) for name in ("max_completion_tokens", "max_tokens"))
    limit = next((limit for limit in given if limit is not None), OUTPUT_FLOOR)
    return bool(request.get("stop")) or (type(limit) is int and limit < OUTPUT_FLOOR)


def _is_legacy(request: Json) -> bool:
    """Does the client speak the old dialect, in which a message has room for one call?"""
    return bool(request.get("functions")) and not request.get("tools")


def _offer_tools(request: Json, out: Json) -> None:
    choice = out.get("tool_choice")
    if choice is not None:
        tools.check_choice(choice, out.get("tools") or [])
    if not out.get("tools"):
        for name in ("tools", "tool_choice", "parallel_tool_calls"):
            out.pop(name, None)
    elif _is_legacy(request):
        out["parallel_tool_calls"] = False


def _reasoning(request: Json, out: Json, terms: Terms) -> None:
    effort = request.get("reasoning_effort")
    if effort:
        out["reasoning"] = {"effort": effort}
    if effort != "none" and (effort or terms.summaries):
        out.setdefault("reasoning", {})["summary"] = "auto"  # or the client would see none


_MODALITIES = ("text", "image")


def _modalities(request: Json, out: Json, terms: Terms) -> None:
    """Images are a tool's work there, unless the upstream has a parameter of its own."""
    wanted = request.get("modalities") or ()
    for modality in wanted:
        if modality not in _MODALITIES:
            raise Unsupported(
                "Unsupported value in 'modalities': the Responses API answers in text and images.",
                param="modalities",
                code="unsupported_value",
            )
    if "image" in wanted and "modalities" in terms.takes:
        out["modalities"] = wanted
    elif "image" in wanted:
        out["tools"] = [*out.get("tools", ()), {"type": "image_generation"}]


def _logprobs(request: Json, out: Json) -> None:
    most = request.get("top_logprobs")
    if request.get("logprobs"):
        out["include"] = [*out.get("include", ()), LOGPROBS]
        if most:
            out["top_logprobs"] = most
    elif most:
        raise InvalidRequest(
            "'top_logprobs' is only allowed when 'logprobs' is enabled.", param="top_logprobs"
        )


# -- parameters that change their name or shape -------------------------------------------------


def _nothing(value: Any, out: Json) -> None:
    """Read elsewhere in this module."""


def _completion_limit(value: int, out: Json) -> None:
    out["max_output_tokens"] = max(value, OUTPUT_FLOOR)


def _old_limit(value: int, out: Json) -> None:
    out.setdefault("max_output_tokens", max(value, OUTPUT_FLOOR))


def _tools(value: list[Any], out: Json) -> None:
    out["tools"] = [*out.get("tools", ()), *tools.tools_to_responses(value)]


def _functions(value: list[Any], out: Json) -> None:
    out["tools"] = [*out.get("tools", ()), *tools.functions_to_responses(value)]


def _response_format(value: Json, out: Json) -> None:
    kind = require(value, "type", STR, "response_format.type")
    choose(kind, FORMATS, "response_format.type")
    if kind == "json_schema":
        path = "response_format.json_schema"
        wrapped = require(value, "json_schema", DICT, path)
        require(wrapped, "name", STR, f"{path}.name")
        optional(wrapped, "schema", DICT, f"{path}.schema")
    out.setdefault("text", {})["format"] = format_to_responses(value)


def _web_search(value: Json, out: Json) -> None:
    tool: Json = {"type": "web_search"}
    if value.get("search_context_size"):
        tool["search_context_size"] = value["search_context_size"]
    location = optional(value, "user_location", DICT, "web_search_options.user_location")
    if location:
        near = expect(location.get("approximate") or {}, DICT, "web_search_options.user_location")
        tool["user_location"] = {"type": "approximate", **near}
    out["tools"] = [*out.get("tools", ()), tool]


_MAPPED: dict[str, Callable[[Any, Json], None]] = {
    "messages": _nothing,
    "modalities": _nothing,
    "logprobs": _nothing,
    "top_logprobs": _nothing,
    "reasoning_effort": _nothing,
    "max_completion_tokens": _completion_limit,
    "max_tokens": _old_limit,
    "tools": _tools,
    "functions": _functions,
    "tool_choice": lambda value, out: out.update(tool_choice=tools.choice_to_responses(value)),
    "function_call": lambda value, out: out.setdefault(
        "tool_choice", tools.function_call_to_responses(value)
    ),
    "response_format": _response_format,
    "store": lambda value, out: out.update(store=value),
    "verbosity": lambda value, out: out.setdefault("text", {}).update(verbosity=value),
    "web_search_options": _web_search,
}
