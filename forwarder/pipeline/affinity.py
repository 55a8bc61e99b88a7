"""Where a request belongs, if its routes lead to several endpoints or members of a group.

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
"""Fields of a request that name uploads of clients."""

_UNREAD_FIELDS = ("annotations", "input", "input_examples", "input_schema", "parameters")
"""Fields with names of files that no request reads: citations, arguments of calls, schemas."""


def find_affinity(
    services: Services, routes: Sequence[Route], request: Json, context: RequestContext
) -> Affinity:
    """Return the affinity of a request; it costs nothing if there is no choice."""
    if routes[0].member is None and not any(route.upstream.replicas for route in routes):
        return ANYWHERE
    keeper = find_file_keeper(services, routes)
    if keeper is not None and names_uploads(request):
        return Affinity(origin=keeper.origin, is_pinned=True)
    previous = request.get("previous_response_id")
    chain = None
    if isinstance(previous, str):
        read_history_reference(request)  # raises InvalidRequest for an id that cannot exist
        try:
            chain = services.store.find_chain(previous, context)
        except ForwarderError:  # reading the history reports it
            chain = None
    key = find_sticky_key(request) or (f"response {chain.first_id}" if chain is not None else None)
    key = key or find_user_key(request)
    if key is not None:
        key = f"{hash_client_key(context.client_key)} {key}"
    return Affinity(key, chain.origin if chain is not None else None)


def find_sticky_key(request: Json) -> str | None:
    """Return a key that the requests of a conversation share, as far as this request has one."""
    for name in ("prompt_cache_key", "conversation"):
        key = read_name(request, name)
        if key is not None:
            return key
    return None


def find_user_key(request: Json) -> str | None:
    """Return the user whom a request names; clients of Messages name a session so."""
    key = read_name(request, "user")
    metadata = request.get("metadata")
    user_id = metadata.get("user_id") if isinstance(metadata, dict) else None
    return key or read_name({"user": user_id}, "user")


def read_name(request: Json, name: str) -> str | None:
    """Return a string, or the id of an object, with the name of its field; ``None`` if invalid."""
    value = request.get(name)
    if isinstance(value, dict):
        value = value.get("id")
    return f"{name} {value}" if isinstance(value, str) and value else None


def find_file_keeper(services: Services, routes: Sequence[Route]) -> UpstreamSettings | None:
    """Return the upstream of a route that keeps the files of clients, at its first endpoint."""
    if services.stores_files:
        return None
    keeper = services.router.default_file_upstream or routes[0].upstream.name
    return next((route.upstream for route in routes if route.upstream.name == keeper), None)


def names_uploads(request: Json) -> bool:
    """Return whether a request names files or vector stores that an upstream keeps."""
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
