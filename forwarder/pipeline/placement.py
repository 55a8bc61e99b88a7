"""Where a request belongs, if its routes lead to several endpoints or members of a group.

The upstream's prompt cache knows the beginning of a conversation only where the conversation was
before, and what an upstream stores exists only at one key and host.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from forwarder.context.client_identity import hash_client_key
from forwarder.context.request_context import RequestContext, Route
from forwarder.core.errors import ForwarderError
from forwarder.core.types import Json
from forwarder.protocols.responses import RESPONSES
from forwarder.services import Services
from forwarder.storage.history_reference import read_history_reference
from forwarder.upstream.resilience.balance import ANYWHERE, Placement

_STORED_FIELDS = ("file_id", "file_ids", "vector_store_ids")
"""Fields of a request that name what clients have uploaded."""


def find_placement(
    services: Services, routes: Sequence[Route], request: Json, context: RequestContext
) -> Placement:
    """Return where a request belongs; it costs nothing if there is no choice."""
    first = routes[0]
    if first.member is None and not first.upstream.replicas:
        return ANYWHERE
    if first.protocol == RESPONSES.name and names_uploads(services, first, request):
        return Placement(origin=first.upstream.origin, is_pinned=True)
    previous = request.get("previous_response_id")
    chain = None
    if isinstance(previous, str):
        read_history_reference(request)  # raises InvalidRequest for an id that cannot exist
        try:
            chain = services.store.find_chain(previous, context)
        except ForwarderError:  # reading the history reports it
            chain = None
    key = find_sticky_key(request) or (f"response {chain.first_id}" if chain is not None else None)
    key = key or read_name(request, "user")
    if key is not None:
        key = f"{hash_client_key(context.client_key)} {key}"
    return Placement(key, chain.origin if chain is not None else None)


def find_sticky_key(request: Json) -> str | None:
    """Return what the requests of a conversation have in common, as far as this request says."""
    for name in ("prompt_cache_key", "conversation"):
        key = read_name(request, name)
        if key is not None:
            return key
    return None


def read_name(request: Json, name: str) -> str | None:
    """Return a string, or the id of an object, with the name of its field; ``None`` if invalid."""
    value = request.get(name)
    if isinstance(value, dict):
        value = value.get("id")
    return f"{name} {value}" if isinstance(value, str) and value else None


def names_uploads(services: Services, route: Route, request: Json) -> bool:
    """Return whether a request names files that clients have uploaded to the route's upstream.

    They are at the first endpoint of the upstream.
    """
    keeper = services.router.default_file_upstream
    if services.stores_files or keeper not in (None, route.upstream.name):
        return False
    pending: list[Any] = [request.get("input"), request.get("tools")]
    while pending:
        value = pending.pop()
        if isinstance(value, dict):
            if any(name in value for name in _STORED_FIELDS):
                return True
            # Annotations cite files of earlier answers, which no request reads.
            pending.extend(each for name, each in value.items() if name != "annotations")
        elif isinstance(value, list):
            pending.extend(value)
    return False
