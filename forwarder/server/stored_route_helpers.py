"""Shared helpers of the routes for stored objects: access, ids, metadata, and answers."""

from __future__ import annotations

import re
from typing import TypeVar

from flask import Response

from forwarder.core.errors import NotFound
from forwarder.core.stored_data_limit import StoredDataLimit
from forwarder.core.types import Json
from forwarder.server import request_hooks
from forwarder.server.extension import get_services
from forwarder.server.serving import json_answer, read_json_body
from forwarder.services import Services
from forwarder.storage import DatabaseConversationStore
from forwarder.storage.db.compression import SpendCallback
from forwarder.storage.pagination import read_metadata

T = TypeVar("T")

_ID = re.compile(r"[\w.:-]{1,256}", re.ASCII)


def open_store() -> tuple[DatabaseConversationStore, str]:
    """Authenticate the client. Returns the store and the client's owner id."""
    store = authenticate_client().require_store()
    return store, store.find_owner(request_hooks.current_context())


def authenticate_client() -> Services:
    context = request_hooks.current_context()
    context.route = "stored"
    request_hooks.authenticate(context)
    return get_services()


def make_stored_data_limit(
    store: DatabaseConversationStore, param: str | None, subject: str
) -> StoredDataLimit:
    """Return the limit for the data of an answer; its memory is reserved for the request."""
    memory = request_hooks.current_context().added_memory
    return StoredDataLimit(store.request_limits, param, subject, memory)


def make_reserve_callback() -> SpendCallback:
    """Return the function that reserves memory for each stored JSON text of an answer.

    Database threads call it; it raises Overloaded.
    """
    return request_hooks.current_context().added_memory.add_json


def check_stored_id(name: str) -> str:
    """Return a valid id. Raises NotFound for a malformed one."""
    if not _ID.fullmatch(name):
        raise NotFound(f"There is no object with id '{name[:64]}'.")
    return name


def read_new_metadata() -> Json:
    """Return the metadata of a request that replaces it. Raises InvalidRequest."""
    body = read_json_body(request_hooks.current_context())
    return read_metadata(body, required=True)


def require_found(found: T | None, error: NotFound) -> T:
    """Return an object that was found. Raises ``error`` for None."""
    if found is None:
        raise error
    return found


def answer_deletion(was_found: bool, name: str, kind: str, error: NotFound) -> Response:
    """Return the answer to a deletion; ``kind`` is its object type. Raises ``error``."""
    if not was_found:
        raise error
    return json_answer({"id": name, "object": kind, "deleted": True})
