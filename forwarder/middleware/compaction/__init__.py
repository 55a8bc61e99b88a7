"""Long conversations made short for upstreams that do not do it themselves.

Responses clients have it in three forms: ``/responses/compact``, a ``compaction_trigger`` at the
end of the input, and ``context_management`` with a threshold.  In each the same model writes a
summary, without tools, over the same call; the client carries it sealed in a ``compaction`` item,
and when that comes back it is opened, in the place of what it stands for.

Wrappers ``call -> call`` on the Responses side, outside of translation.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from forwarder.core.errors import ForwarderError, InvalidRequest
from forwarder.core.translation_context import TranslationContext
from forwarder.core.types import EventStream, Handler, Json
from forwarder.core.validate import DICT, INT, LIST, check_type, read_field
from forwarder.middleware.compaction import events, summary, window
from forwarder.middleware.compaction.tokens import estimate_request_tokens

__all__ = ["HandlerWrapper", "has_compaction_trigger", "make_compact_handler", "with_compaction"]

HandlerWrapper = Callable[[Handler, TranslationContext, bool], Handler]
"""Wraps a call; the last argument says whether the upstream compacts itself."""


def with_compaction(handler: Handler, context: TranslationContext, native: bool) -> Handler:
    """Wrap a Responses call so that conversations are compacted when that is asked for.

    Of a native upstream only what was sealed here is opened.
    """

    def handle_request(request: Json) -> EventStream:
        request = window.open_compactions(request, context, native)
        if native:
            return handler(request)
        threshold = read_threshold(request)
        request = {k: v for k, v in request.items() if k != "context_management"}
        if has_compaction_trigger(request):
            return run_triggered_compaction(handler, request, context)
        stateless = not any(request.get(name) for name in summary.STATE_PARAMETERS)
        if stateless and threshold is not None and estimate_request_tokens(request) >= threshold:
            return run_threshold_compaction(handler, request, context)
        return handler(request)

    return handle_request


def make_compact_handler(handler: Handler, context: TranslationContext, native: bool) -> Handler:
    """Wrap a Responses call as one that answers ``/responses/compact``: with one event, the whole.

    A native upstream's call has to be one of that kind already.
    """

    def handle_request(request: Json) -> EventStream:
        request = normalize_input(request)
        check_not_empty(request)
        request = window.open_compactions(request, context, native)
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
    """Does the request end with a demand to compact?

    Raises InvalidRequest when it has one anywhere else.
    """
    items = request.get("input")
    if not isinstance(items, list):
        return False
    at = [i for i, item in enumerate(items) if window.is_compaction_trigger(item)]
    if at and at[0] != len(items) - 1:
        path = f"input[{at[0]}]"
        raise InvalidRequest(f"'{path}': a compaction_trigger must be the last item.", param=path)
    return bool(at)


def run_triggered_compaction(
    handler: Handler, request: Json, context: TranslationContext
) -> EventStream:
    """The stream of a response whose output is one compaction item."""
    items = request["input"][:-1]
    stream = handler(summary.make_summary_request(request, items))
    return events.stream_compaction_item(
        stream, lambda text: make_compaction_item(text, request, context), context.id_source
    )


def run_threshold_compaction(
    handler: Handler, request: Json, context: TranslationContext
) -> EventStream:
    """The stream of the shortened request, with the compaction item at its head."""
    items = request.get("input")
    head, tail = window.split_open_question(items) if isinstance(items, list) else ([], [])
    if not window.has_model_items(head):
        return handler(request)
    try:
        stream = handler(summary.make_summary_request(request, head))
    except ForwarderError:
        return handler(request)  # it was only a threshold: the model may still take the whole

    def make_continuation(text: str) -> tuple[Json, Json]:
        items = [*window.select_kept_items(head), window.make_summary_message(text), *tail]
        return make_compaction_item(text, request, context), {**request, "input": items}

    return events.stream_continuation(stream, make_continuation, request, handler)


def make_compaction_item(text: str, request: Json, context: TranslationContext) -> Json:
    sealed = context.encrypt({"compaction": text, "model": request.get("model")})
    return {
        "id": context.id_source.new_id("cmp"),
        "type": "compaction",
        "encrypted_content": sealed,
    }


def normalize_input(request: Json) -> Json:
    """The request with its input as a list of items."""
    given: Any = request.get("input")
    if given is None or given == "":
        given = []
    if isinstance(given, str):
        given = [{"type": "message", "role": "user", "content": given}]
    return {**request, "input": check_type(given, LIST, "input")}


def check_not_empty(request: Json) -> None:
    """Raise InvalidRequest if there is nothing to compact, here or where the upstream keeps it."""
    known = any(request.get(name) for name in summary.STATE_PARAMETERS)
    if not known and all(map(window.is_compaction_trigger, request["input"])):
        raise InvalidRequest(
            "There is nothing to compact: 'input' is empty.", param="input", code="empty_array"
        )


def read_threshold(request: Json) -> int | None:
    """The tokens from which on the conversation is to be compacted."""
    entries = read_field(request, "context_management", LIST, "context_management") or []
    found = [
        read_entry_threshold(entry, f"context_management[{i}]") for i, entry in enumerate(entries)
    ]
    return min((tokens for tokens in found if tokens is not None), default=None)


def read_entry_threshold(entry: Any, path: str) -> int | None:
    if check_type(entry, DICT, path).get("type") != "compaction":
        raise InvalidRequest(
            f"Invalid value for '{path}.type': expected 'compaction'.",
            param=f"{path}.type",
            code="invalid_value",
        )
    tokens: int | None = read_field(entry, "compact_threshold", INT, f"{path}.compact_threshold")
    return tokens
