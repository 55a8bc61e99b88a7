"""Routes for stored responses and stored chat completions."""

from __future__ import annotations

import re
from collections import deque
from copy import deepcopy

from flask import Blueprint, Response, request

from forwarder.core.errors import InvalidRequest, NotFound, ShuttingDown
from forwarder.core.in_flight_requests import ShutdownInterrupt
from forwarder.core.types import EventStream, Json
from forwarder.core.validate import read_field
from forwarder.protocols.token_estimate import estimate_request_tokens
from forwarder.server import request_hooks
from forwarder.server.extension import get_gateway
from forwarder.server.mixed_request_shapes import adapt_shape
from forwarder.server.serving import json_answer, read_json_body, stream_stored_events
from forwarder.server.stored_route_helpers import (
    answer_deletion,
    authenticate_client,
    check_stored_id,
    make_reserve_callback,
    make_stored_data_limit,
    open_store,
    read_new_metadata,
    require_found,
)
from forwarder.storage import UpstreamMemory, completion_recorder
from forwarder.storage.db.completions import StoredCompletion
from forwarder.storage.history_reference import response_not_found
from forwarder.storage.include_filter import IncludeFilter
from forwarder.storage.items import check_id, to_items
from forwarder.storage.pagination import make_list, make_page, read_page

blueprint = Blueprint("stored", __name__)

_FLAGS = {"true": True, "1": True, "false": False, "0": False}


# -- responses ------------------------------------------------------------------------------------


@blueprint.get("/responses/<name>")
def response(name: str) -> Response:
    """Return a response; with ``?stream=true``, stream its stored and future events."""
    store, owner = open_store()
    include_filter = IncludeFilter(request.args.items(multi=True))
    if not read_flag("stream"):
        reserve = make_reserve_callback()
        stored = store.background.read_response(owner, check_stored_id(name), reserve)
        return json_answer(include_filter.filter_response(stored.body))
    context = request_hooks.current_context()
    request_hooks.watch_disconnect(context)
    try:
        return stream_stored_events(
            check_stored_id(name), read_starting_after(), context, include_filter.filter_batch
        )
    except ShutdownInterrupt:  # report the shutdown to the client as an error
        raise ShuttingDown from None


def read_flag(name: str) -> bool:
    text = request.args.get(name, "false").lower()
    if text not in _FLAGS:
        raise InvalidRequest(
            f"Invalid type for '{name}': expected a boolean.", param=name, code="invalid_type"
        )
    return _FLAGS[text]


def read_starting_after() -> int:
    text = request.args.get("starting_after", "-1")
    if not re.fullmatch(r"-?\d{1,15}", text):
        raise InvalidRequest(
            "Invalid type for 'starting_after': expected an integer.",
            param="starting_after",
            code="invalid_type",
        )
    return int(text)


@blueprint.delete("/responses/<name>")
def delete_response(name: str) -> Response:
    """Delete a response and cancel its background work."""
    store, owner = open_store()
    removed = require_found(
        store.background.remove_response(owner, check_stored_id(name)), response_not_found(name)
    )
    get_gateway().cancel_at_upstream(removed, request_hooks.current_context())
    return json_answer({"id": name, "object": "response", "deleted": True})


@blueprint.post("/responses/<name>/cancel")
def cancel(name: str) -> Response:
    """Cancel the background work on a response, also at an upstream that runs it."""
    store, owner = open_store()
    cancelled = store.background.cancel_response(owner, check_stored_id(name))
    get_gateway().cancel_at_upstream(cancelled, request_hooks.current_context())
    return json_answer(IncludeFilter(()).filter_response(cancelled.body))


@blueprint.get("/responses/<name>/input_items")
def input_items(name: str) -> Response:
    """List the input of a response, with the history that it continues."""
    store, owner = open_store()
    page = read_page(request.args, "desc")
    include_filter = IncludeFilter(request.args.items(multi=True))
    check_stored_id(name)
    limit = make_stored_data_limit(store, None, "The input including its history")
    items = require_found(
        store.history.list_input_items(owner, name, limit.spend), response_not_found(name)
    )
    return json_answer(make_page(list(map(include_filter.filter_item, items)), page))


@blueprint.post("/responses/input_tokens")
def input_tokens() -> Response:
    """Estimate the input tokens of a request. A response header marks the estimate."""
    services, context = authenticate_client(), request_hooks.current_context()
    body = adapt_shape(read_json_body(context), "responses", context)
    expanded: list[Json] = []

    def capture_request(request: Json) -> EventStream:
        expanded.append(request)
        return iter(())

    as_items = {**deepcopy(body), "input": to_items(body.get("input"))}
    read_field(body, "input", (str, list), "input")
    handler = services.store.with_history(
        capture_request, context, UpstreamMemory(""), translated=True
    )
    deque(handler(as_items), maxlen=0)  # run it to its end
    answer = json_answer(
        {
            "object": "response.input_tokens",
            "input_tokens": estimate_request_tokens(expanded[0]),
        }
    )
    answer.headers["X-Forwarder-Estimated"] = "input_tokens"
    return answer


# -- chat completions -----------------------------------------------------------------------------


@blueprint.get("/chat/completions")
def chat_completions() -> Response:
    """List stored chat completions, optionally filtered by model and metadata."""
    store, owner = open_store()
    page = read_page(request.args, "asc")
    model = request.args.get("model")
    if model is not None:
        check_id(model, "model")
    metadata = {k[9:-1]: v for k, v in request.args.items() if re.fullmatch(r"metadata\[.+\]", k)}

    limit = make_stored_data_limit(store, "limit", "This page of the list")
    rows = store.completions.list_page(owner, page, model, metadata, limit.spend)
    return json_answer(
        make_list(list(map(completion_recorder.render_completion, rows)), page.limit)
    )


@blueprint.get("/chat/completions/<name>")
def chat_completion(name: str) -> Response:
    """Return a stored chat completion."""
    return json_answer(completion_recorder.render_completion(find_completion(name)))


@blueprint.get("/chat/completions/<name>/messages")
def messages(name: str) -> Response:
    """List the messages of the request for a stored chat completion."""
    completion = find_completion(name)
    return json_answer(
        make_page(completion_recorder.render_messages(completion), read_page(request.args, "asc"))
    )


def find_completion(name: str) -> StoredCompletion:
    store, owner = open_store()
    found = store.completions.find(owner, check_stored_id(name), make_reserve_callback())
    return require_found(found, completion_not_found(name))


@blueprint.post("/chat/completions/<name>")
def describe_completion(name: str) -> Response:
    """Replace the metadata of a stored chat completion."""
    store, owner = open_store()
    metadata = read_new_metadata()
    changed = store.completions.set_metadata(owner, check_stored_id(name), metadata)
    completion = require_found(changed, completion_not_found(name))
    return json_answer(completion_recorder.render_completion(completion))


@blueprint.delete("/chat/completions/<name>")
def delete_completion(name: str) -> Response:
    """Delete a stored chat completion."""
    store, owner = open_store()
    was_found = store.completions.remove(owner, check_stored_id(name))
    return answer_deletion(was_found, name, "chat.completion.deleted", completion_not_found(name))


def completion_not_found(name: str) -> NotFound:
    return NotFound(f"Chat completion with id '{name[:64]}' not found.", param="completion_id")
