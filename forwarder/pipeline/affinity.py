"""Finds what ties a request to an endpoint or a member of a group.

That is the key of its conversation, or the endpoint that stores what it continues. `Resilience`
chooses the endpoint by it (`upstream/resilience/balance.py`).

The upstream's prompt cache knows the beginning of a conversation only where the conversation was
before, and data that an upstream stores exists only at one key and host.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from forwarder.config.settings import UpstreamSettings
from forwarder.context.client_identity import hash_client_key
from forwarder.context.request_context import RequestContext, Route
from forwarder.core.errors import ForwarderError
from forwarder.core.types import Json
from forwarder.services import Services
from forwarder.storage.history_reference import read_history_reference
from forwarder.upstream.resilience.balance import ANYWHERE, Affinity

_STORED_FIELDS = ("file_id", "file_ids", "vector_store_ids")
"""Fields of a request that refer to files and vector stores of clients."""

_UNREAD_FIELDS = ("annotations", "input", "input_examples", "input_schema", "parameters")
"""Fields that may mention files without using them: citations, arguments of calls, schemas."""


def find_affinity(
    services: Services, routes: Sequence[Route], request: Json, context: RequestContext
) -> Affinity:
    """Return the affinity of a request; without several endpoints or a group, return at once."""
    if routes[0].member is None and not any(route.upstream.replicas for route in routes):
        return ANYWHERE
    file_upstream = find_file_upstream(services, routes)
    if file_upstream is not None and refers_to_uploads(request):
        return Affinity(origin=file_upstream.origin, is_pinned=True)
    previous = request.get("previous_response_id")
    chain = None
    if isinstance(previous, str):
        read_history_reference(request)  # raises InvalidRequest for an id that cannot exist
        try:
            chain = services.store.find_chain(previous, context)
        except ForwarderError:  # the history is read again later, which reports the error
            chain = None
    key = find_sticky_key(request) or (f"response {chain.first_id}" if chain is not None else None)
    key = key or find_user_key(request)
    if key is not None:
        key = f"{hash_client_key(context.client_key)} {key}"
    return Affinity(key, chain.origin if chain is not None else None)


def find_sticky_key(request: Json) -> str | None:
    """Return a key that all requests of a conversation share; ``None`` if this request has none."""
    for name in ("prompt_cache_key", "conversation"):
        key = read_name(request, name)
        if key is not None:
            return key
    return None


def find_user_key(request: Json) -> str | None:
    """Return the user that a request names; Messages clients send ``metadata.user_id`` instead."""
    key = read_name(request, "user")
    metadata = request.get("metadata")
    user_id = metadata.get("user_id") if isinstance(metadata, dict) else None
    return key or read_name({"user": user_id}, "user")


def read_name(request: Json, name: str) -> str | None:
    """Return a field's name and its string or its object's id; ``None`` if it is invalid."""
    value = request.get(name)
    if isinstance(value, dict):
        value = value.get("id")
    return f"{name} {value}" if isinstance(value, str) and value else None


def find_file_upstream(services: Services, routes: Sequence[Route]) -> UpstreamSettings | None:
    """Return the first endpoint of the upstream with clients' files, if a route leads there."""
    if services.stores_files:
        return None
    name = services.router.default_file_upstream or routes[0].upstream.name
    return next((route.upstream for route in routes if route.upstream.name == name), None)


def refers_to_uploads(request: Json) -> bool:
    """Return whether a request refers to files or vector stores that an upstream stores."""
    pending: list[Any] = [request.get(name) for name in ("input", "messages", "tools")]
    while pending:
        value = pending.pop()
        if isinstance(value, dict):
            # A schema may have a property of such a name; its value is an object.
            if any(isinstance(value.get(name), str | list) for name in _STORED_FIELDS):
                return True
            pending.extend(each for name, each in value.items() if name not in _UNREAD_FIELDS)
        elif isinstance(value, list):
            pending.extend(value)
    return False
