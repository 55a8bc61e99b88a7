"""Resolve the history of a request: a previous response, a conversation, or referenced items.

Wraps any Responses handler. Earlier items are prepended to the input, so that an upstream without
storage can continue a conversation. An upstream that stores its own responses receives the id
instead.
"""

from __future__ import annotations

from collections.abc import Callable

from forwarder.core.body_memory import BodyReservation
from forwarder.core.stored_data_limit import DEFAULT_REQUEST_LIMITS, RequestLimits, StoredDataLimit
from forwarder.core.types import EventStream, Handler, Json
from forwarder.protocols.input_items import (
    is_item_reference,
    list_item_references,
    replace_item_references,
)
from forwarder.storage.earlier_items import EarlierItems, LossCallback, call_with_earlier_items
from forwarder.storage.history_reference import (
    HISTORY_PARAMETERS,
    LOCAL_PARAMETERS,
    UpstreamMemory,
    is_background,
    read_history_reference,
)
from forwarder.storage.items import to_items
from forwarder.storage.repositories.history import HistoryRepository


def with_history(
    handler: Handler,
    history: HistoryRepository,
    find_owner: Callable[[], str],
    memory: UpstreamMemory,
    drop: LossCallback,
    limits: RequestLimits = DEFAULT_REQUEST_LIMITS,
    get_reservation: Callable[[], BodyReservation | None] = lambda: None,
) -> Handler:
    """Wrap a Responses handler: prepend the history that its requests refer to.

    ``find_owner`` is called only if there is something to look up. ``drop`` is called for history
    that does not reach the upstream. ``get_reservation`` returns the reservation of memory for the
    history. Raises TooLarge if a request with its history exceeds ``limits``, and Overloaded if
    there is no memory for it now.
    """

    def handle_request(request: Json) -> EventStream:
        reference, request_input = read_history_reference(request), request.get("input")
        rest = {k: v for k, v in request.items() if k not in LOCAL_PARAMETERS}
        if memory.stores_responses and is_background(request):
            rest["background"] = True  # continues at the upstream even if this process dies
        if not reference.is_set and not list_item_references(request_input):
            return handler(rest)
        param = reference.param if reference.is_set else "input"
        limit = StoredDataLimit(limits, param, memory=get_reservation())
        limit.spend_request(rest)
        owner = find_owner()
        past, found_items = history.read_history(owner, reference, memory, request_input, limit)
        if list_item_references(request_input):
            rest["input"] = replace_item_references(rest["input"], found_items)
        if past is None:
            return handler(rest | {k: v for k, v in request.items() if k in HISTORY_PARAMETERS})
        history.note_use(owner, past.used_responses)
        if past.upstream_response_id is not None:
            return handler({**rest, "previous_response_id": past.upstream_response_id})
        own = {**rest, "input": to_items(rest.get("input"))}
        earlier = replace_item_references(past.items, found_items)
        if list_item_references(earlier):
            drop(f"{reference.param}.item_reference", "the referenced item no longer exists")
        earlier = [item for item in earlier if not is_item_reference(item)]
        return call_with_earlier_items(handler, own, EarlierItems(earlier, reference.param), drop)

    return handle_request
