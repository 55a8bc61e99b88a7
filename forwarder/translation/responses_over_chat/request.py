"""A Responses request -> a Chat request."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from forwarder.core.errors import InvalidRequest
from forwarder.core.translation_context import Ledger, Terms
from forwarder.core.types import Json
from forwarder.core.validate import DICT, STR, choose, expect, optional, require
from forwarder.protocols import unread_fields
from forwarder.protocols.mappings import FORMATS, LOGPROBS, SEALED, format_to_chat
from forwarder.protocols.parameters import RESPONSES_OVER_CHAT, settle
from forwarder.translation.responses_over_chat.history import History
from forwarder.translation.responses_over_chat.toolbox import Toolbox


class Prepared(NamedTuple):
    """A translated request and what its answer needs: the tools, and what to echo."""

    chat: Json
    toolbox: Toolbox
    original: Json


def translate_request(request: Json, terms: Terms) -> Prepared:
    """Give the chat request for a Responses request.

    Raises InvalidRequest for what is malformed and Unsupported for what cannot be carried.
    """
    require(request, "model", STR, "model")
    toolbox = Toolbox(terms)
    chat: Json = {}
    for name, value in settle(request, RESPONSES_OVER_CHAT, terms.ledger):
        mapper = _MAPPED.get(name)
        if mapper is None:
            chat[name] = value
        else:
            chat.update(mapper(value, terms.ledger))
    toolbox.add(request.get("tools") or [], "tools")
    chat["messages"] = _messages(request, toolbox, terms)
    given = request.get("input")
    for i, item in enumerate(given if isinstance(given, list) else ()):
        _configure(chat, item, f"input[{i}]", terms)
    if not chat["messages"]:  # the upstream would complain of messages, which are not the client's
        raise InvalidRequest("'input' holds nothing to answer.", param="input", code="empty_array")
    _offer_tools(chat, toolbox, request, terms.ledger)
    unread_fields.report(request, "responses", terms.ledger)
    if chat.get("stream"):  # a whole answer has its usage unasked
        chat["stream_options"] = {"include_usage": True}
    return Prepared(chat, toolbox, request)


def _messages(request: Json, toolbox: Toolbox, terms: Terms) -> list[Json]:
    given = require(request, "input", (str, list), "input")
    instructions = optional(request, "instructions", STR, "instructions")
    # Kept apart from the history, so that the beginning of every turn has the same bytes.
    head = [{"role": "developer", "content": instructions}] if instructions else []
    if isinstance(given, str):
        return [*head, {"role": "user", "content": given}]
    return [*head, *History(toolbox, terms).read(given)]


def check_item(item: Json, path: str, terms: Terms) -> None:
    """Raise InvalidRequest for an item that no request could have, whatever stands around it."""
    History(Toolbox(terms), terms).check(item, path)
    _configure({}, item, path, terms)


def _configure(chat: Json, item: Json, path: str, terms: Terms) -> None:
    """Apply a ``configuration_update`` item: the last one counts."""
    if item.get("type") != "configuration_update":
        return
    for name, mapper in (("reasoning", _reasoning), ("text", _text)):
        update = optional(item, name, DICT, f"{path}.{name}") or {}
        if update.get("format"):
            chat.pop("response_format", None)  # plain text is asked for by saying nothing
        chat.update(mapper(update, terms.ledger))


def _offer_tools(chat: Json, toolbox: Toolbox, request: Json, ledger: Ledger) -> None:
    given = request.get("tool_choice")
    choice = toolbox.choice(given) if given is not None else None
    if toolbox.search is not None and toolbox.may_search(given):
        chat["web_search_options"] = toolbox.search
        for name in request.get("include") or ():
            if name.startswith("web_search_call."):
                ledger.drop(f"include.{name}", "of a search, Chat Completions tells what it cites")
    if not toolbox.chat:
        chat.pop("parallel_tool_calls", None)  # strict upstreams take it only beside tools
        return
    chat["tools"] = toolbox.chat
    if choice is not None:
        chat["tool_choice"] = choice


# -- parameters that change their name or shape -------------------------------------------------


def _nothing(value: Any, ledger: Ledger) -> Json:
    """Read elsewhere in this module."""
    return {}


def _reasoning(value: Json, ledger: Ledger) -> Json:
    effort = optional(value, "effort", STR, "reasoning.effort")
    for name, default in (("mode", "standard"), ("context", "auto")):
        if value.get(name) not in (None, default):
            ledger.drop(f"reasoning.{name}", "Chat Completions has no such setting")
    return {"reasoning_effort": effort} if effort else {}


def _text(value: Json, ledger: Ledger) -> Json:
    chat: Json = {}
    text_format = optional(value, "format", DICT, "text.format")
    if text_format is not None and _kind_of_format(text_format) != "text":
        chat["response_format"] = format_to_chat(text_format)
    verbosity = optional(value, "verbosity", STR, "text.verbosity")
    return {**chat, "verbosity": verbosity} if verbosity else chat


def _kind_of_format(text_format: Json) -> str:
    kind: str = require(text_format, "type", STR, "text.format.type")
    choose(kind, FORMATS, "text.format.type")
    if kind == "json_schema":
        require(text_format, "name", STR, "text.format.name")
        require(text_format, "schema", DICT, "text.format.schema")
    return kind


def _include(value: list[Any], ledger: Ledger) -> Json:
    for i, name in enumerate(value):
        if expect(name, STR, f"include[{i}]") not in _INCLUDABLE:
            ledger.drop(f"include.{name}", "neither API knows of it")
    return {"logprobs": True} if LOGPROBS in value else {}


_INCLUDABLE = frozenset(
    {
        "code_interpreter_call.outputs",
        "computer_call_output.output.image_url",
        "file_search_call.results",
        "message.input_image.image_url",
        LOGPROBS,
        SEALED,
        "web_search_call.action.sources",
        "web_search_call.results",
    }
)
"""What the Responses API includes.  What hosted tools would give is lost with them, by name."""


def _top_logprobs(value: int, ledger: Ledger) -> Json:
    return {"logprobs": True, "top_logprobs": value} if value else {}


def _cache_options(value: Json, ledger: Ledger) -> Json:
    kept = {k: v for k, v in value.items() if k not in ("comparison_response_id", "prewarm")}
    if kept.get("ttl") == "12h":
        kept["ttl"] = "30m"  # the longest that Chat Completions knows
    for name in sorted(set(value) - set(kept)):
        ledger.drop(f"prompt_cache_options.{name}", "Chat Completions has no such setting")
    return {"prompt_cache_options": kept} if kept else {}


_MAPPED: dict[str, Callable[[Any, Ledger], Json]] = {
    "include": _include,
    "input": _nothing,
    "instructions": _nothing,
    "tools": _nothing,
    "tool_choice": _nothing,
    "max_output_tokens": lambda value, ledger: {"max_completion_tokens": value},
    "prompt_cache_options": _cache_options,
    "reasoning": _reasoning,
    "service_tier": lambda value, ledger: {
        "service_tier": "priority" if value == "ultrafast" else value
    },
    "text": _text,
    "top_logprobs": _top_logprobs,
}
