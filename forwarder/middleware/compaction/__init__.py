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
from forwarder.core.translation_context import Terms
from forwarder.core.types import Call, Json, Stream
from forwarder.core.validate import DICT, INT, LIST, expect, optional
from forwarder.middleware.compaction import events, summary, window
from forwarder.middleware.compaction.tokens import tokens_in

__all__ = ["Wrapper", "as_compaction", "is_triggered", "with_compaction"]

Wrapper = Callable[[Call, Terms, bool], Call]
"""Wraps a call; the last argument says whether the upstream compacts itself."""


def with_compaction(call: Call, terms: Terms, native: bool) -> Call:
    """Wrap a Responses call so that conversations are compacted when that is asked for.

    Of a native upstream only what was sealed here is opened.
    """

    def compacting(request: Json) -> Stream:
        request = window.opened(request, terms, native)
        if native:
            return call(request)
        threshold = _threshold(request)
        request = {k: v for k, v in request.items() if k != "context_management"}
        if is_triggered(request):
            return _triggered(call, request, terms)
        stateless = not any(request.get(name) for name in summary.STATE)
        if stateless and threshold is not None and tokens_in(request) >= threshold:
            return _shortened(call, request, terms)
        return call(request)

    return compacting


def as_compaction(call: Call, terms: Terms, native: bool) -> Call:
    """Wrap a Responses call as one that answers ``/responses/compact``: with one event, the whole.

    A native upstream's call has to be one of that kind already.
    """

    def compacting(request: Json) -> Stream:
        request = _listed(request)
        _check_not_empty(request)
        request = window.opened(request, terms, native)
        if native:
            return call(request)
        stream = _triggered(call, {**request, "input": [*request["input"], window.TRIGGER]}, terms)
        return events.compacted(stream, window.shown(request["input"], terms.mint), terms.mint)

    return compacting


def is_triggered(request: Json) -> bool:
    """Does the request end with a demand to compact?

    Raises InvalidRequest when it has one anywhere else.
    """
    items = request.get("input")
    if not isinstance(items, list):
        return False
    at = [i for i, item in enumerate(items) if window.is_trigger(item)]
    if at and at[0] != len(items) - 1:
        path = f"input[{at[0]}]"
        raise InvalidRequest(f"'{path}': a compaction_trigger must be the last item.", param=path)
    return bool(at)


def _triggered(call: Call, request: Json, terms: Terms) -> Stream:
    """The stream of a response whose output is one compaction item."""
    items = request["input"][:-1]
    stream = call(summary.request_for(request, items))
    return events.triggered(stream, lambda text: _item(text, request, terms), terms.mint)


def _shortened(call: Call, request: Json, terms: Terms) -> Stream:
    """The stream of the shortened request, with the compaction item at its head."""
    items = request.get("input")
    head, tail = window.parted(items) if isinstance(items, list) else ([], [])
    if not window.is_worth_it(head):
        return call(request)
    try:
        stream = call(summary.request_for(request, head))
    except ForwarderError:
        return call(request)  # it was only a threshold: the model may still take the whole

    def made(text: str) -> tuple[Json, Json]:
        items = [*window.kept(head), window.message(text), *tail]
        return _item(text, request, terms), {**request, "input": items}

    return events.continued(stream, made, request, call)


def _item(text: str, request: Json, terms: Terms) -> Json:
    sealed = terms.seal({"compaction": text, "model": request.get("model")})
    return {"id": terms.mint.id("cmp"), "type": "compaction", "encrypted_content": sealed}


def _listed(request: Json) -> Json:
    """The request with its input as a list of items."""
    given: Any = request.get("input")
    if given is None or given == "":
        given = []
    if isinstance(given, str):
        given = [{"type": "message", "role": "user", "content": given}]
    return {**request, "input": expect(given, LIST, "input")}


def _check_not_empty(request: Json) -> None:
    """Raise InvalidRequest if there is nothing to compact, here or where the upstream keeps it."""
    known = any(request.get(name) for name in summary.STATE)
    if not known and all(map(window.is_trigger, request["input"])):
        raise InvalidRequest(
            "There is nothing to compact: 'input' is empty.", param="input", code="empty_array"
        )


def _threshold(request: Json) -> int | None:
    """The tokens from which on the conversation is to be compacted."""
    entries = optional(request, "context_management", LIST, "context_management") or []
    found = [_threshold_of(entry, f"context_management[{i}]") for i, entry in enumerate(entries)]
    return min((tokens for tokens in found if tokens is not None), default=None)


def _threshold_of(entry: Any, path: str) -> int | None:
    if expect(entry, DICT, path).get("type") != "compaction":
        raise InvalidRequest(
            f"Invalid value for '{path}.type': expected 'compaction'.",
            param=f"{path}.type",
            code="invalid_value",
        )
    tokens: int | None = optional(entry, "compact_threshold", INT, f"{path}.compact_threshold")
    return tokens
