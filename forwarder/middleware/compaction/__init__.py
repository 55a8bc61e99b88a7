"""Emulates compaction of long conversations for upstreams without it.

Responses clients request compaction in three ways: ``/responses/compact``, a
``compaction_trigger`` at the end of the input, and ``context_management`` with a threshold. In each
case the same model writes a summary without tools. The client receives the summary encrypted in a
``compaction`` item. When the client sends the item back, the summary replaces the items before it.

The middleware wraps Responses handlers, outside of translation.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from forwarder.core.errors import ForwarderError, InvalidRequest
from forwarder.core.translation_context import TranslationContext
from forwarder.core.types import EventStream, Handler, Json
from forwarder.core.validate import DICT, INT, LIST, check_type, read_field
from forwarder.middleware.compaction import events, summary, window
from forwarder.protocols.input_items import has_items_of, read_input_items
from forwarder.protocols.token_estimate import estimate_request_tokens

__all__ = ["HandlerWrapper", "has_compaction_trigger", "make_compact_handler", "with_compaction"]

HandlerWrapper = Callable[[Handler, TranslationContext, bool], Handler]
"""Wraps a handler; the last argument is true if the upstream itself supports compaction."""


def with_compaction(handler: Handler, context: TranslationContext, native: bool) -> Handler:
    """Wrap a Responses handler so that conversations are compacted on request.

    With ``native`` the upstream compacts, and only compaction items of the forwarder are replaced.
    """

    def handle_request(request: Json) -> EventStream:
        request = window.replace_compactions(request, context, native)
        if native:
            return handler(request)
        threshold = read_threshold(request)
        request = {k: v for k, v in request.items() if k != "context_management"}
        if has_compaction_trigger(request):
            return run_triggered_compaction(handler, request, context)
        stateless = not any(request.get(name) for name in summary.STATE_PARAMETERS)
        if stateless and threshold is not None and threshold <= estimate_request_tokens(request):
            return run_threshold_compaction(handler, request, context)
        return handler(request)

    return handle_request


def make_compact_handler(handler: Handler, context: TranslationContext, native: bool) -> Handler:
    """Wrap a Responses handler to serve ``/responses/compact``; its stream is one whole answer.

    With ``native``, ``handler`` must already be a handler of the upstream's ``/responses/compact``.
    """

    def handle_request(request: Json) -> EventStream:
        request = normalize_input(request)
        check_not_empty(request)
        request = window.replace_compactions(request, context, native)
        if native:
            return handler(request)
        stream = run_triggered_compaction(
            handler, {**request, "input": [*request["input"], window.TRIGGER_ITEM]}, context
        )
        return events.stream_compact_answer(
            stream,
            window.make_compact_output(request["input"], context.id_source),
            context.id_source,
        )

    return handle_request


def has_compaction_trigger(request: Json) -> bool:
    """Return whether the input ends with a ``compaction_trigger``.

    Raises InvalidRequest if a ``compaction_trigger`` has another position.
    """
    items = request.get("input")
    if not isinstance(items, list) or not has_items_of(items, [window.TRIGGER_ITEM["type"]]):
        return False
    for i, item in enumerate(items):
        if isinstance(item, dict) and item.get("type") == window.TRIGGER_ITEM["type"]:
            if i == len(items) - 1:
                return True
            path = f"input[{i}]"
            message = f"'{path}': a compaction_trigger must be the last item."
            raise InvalidRequest(message, param=path)
    return False


def run_triggered_compaction(
    handler: Handler, request: Json, context: TranslationContext
) -> EventStream:
    """Stream a response with the compaction item as its only output."""
    items = request["input"][:-1]
    stream = handler(summary.make_summary_request(request, items))
    return events.stream_compaction_item(
        stream, lambda text: make_compaction_item(text, request, context), context.id_source
    )


def run_threshold_compaction(
    handler: Handler, request: Json, context: TranslationContext
) -> EventStream:
    """Stream the response to the shortened request, preceded by the compaction item."""
    items = request.get("input")
    head, tail = window.split_open_question(items) if isinstance(items, list) else ([], [])
    if not window.has_model_items(head):
        return handler(request)
    try:
        stream = handler(summary.make_summary_request(request, head))
    except ForwarderError:
        return handler(request)  # below the model's limit the whole request still works

    def make_continuation(text: str) -> tuple[Json, Json]:
        items = [*window.select_kept_items(head), window.make_summary_message(text), *tail]
        return make_compaction_item(text, request, context), {**request, "input": items}

    return events.stream_continuation(stream, make_continuation, request, handler)


def make_compaction_item(text: str, request: Json, context: TranslationContext) -> Json:
    encrypted = context.encrypt({"compaction": text, "model": request.get("model")})
    return {
        "id": context.id_source.new_id("cmp"),
        "type": "compaction",
        "encrypted_content": encrypted,
    }


def normalize_input(request: Json) -> Json:
    """Return the request with its input as a list of items."""
    value = request.get("input")
    return {**request, "input": read_input_items(None if value == "" else value)}


def check_not_empty(request: Json) -> None:
    """Raise InvalidRequest if neither the input nor a state parameter has anything to compact."""
    has_state = any(request.get(name) for name in summary.STATE_PARAMETERS)
    if not has_state and all(map(window.is_compaction_trigger, request["input"])):
        raise InvalidRequest(
            "There is nothing to compact: 'input' is empty.", param="input", code="empty_array"
        )


def read_threshold(request: Json) -> int | None:
    """Return the lowest number of tokens at which the conversation must be compacted, if any."""
    entries = read_field(request, "context_management", LIST, "context_management") or []
    thresholds = [
        read_entry_threshold(entry, f"context_management[{i}]") for i, entry in enumerate(entries)
    ]
    return min((tokens for tokens in thresholds if tokens is not None), default=None)


def read_entry_threshold(entry: Any, path: str) -> int | None:
    if check_type(entry, DICT, path).get("type") != "compaction":
        raise InvalidRequest(
            f"Invalid value for '{path}.type': expected 'compaction'.",
            param=f"{path}.type",
            code="invalid_value",
        )
    tokens: int | None = read_field(entry, "compact_threshold", INT, f"{path}.compact_threshold")
    return tokens
