"""Routes for stored responses and stored chat completions."""

from __future__ import annotations

import re
from collections import deque
from copy import deepcopy
from typing import Any

from flask import Blueprint, Response, request

from forwarder.core.errors import InvalidRequest, NotFound, ShuttingDown
from forwarder.core.read_limit import ReadLimit
from forwarder.core.shutdown import ShutdownInterrupt
from forwarder.core.types import EventStream, Json
from forwarder.core.validate import check_type, read_field
from forwarder.server import request_context
from forwarder.server.extension import get_gateway, get_services
from forwarder.server.openai import json_answer, read_json_body, stream_stored_events
from forwarder.server.request_shape import adapt_shape
from forwarder.services import Services
from forwarder.storage import (
    DatabaseConversationStore,
    UpstreamMemory,
    completion_recorder,
    token_estimate,
)
from forwarder.storage.background import response_not_found
from forwarder.storage.db import completions as stored_completions
from forwarder.storage.db import responses
from forwarder.storage.include import IncludeFilter
from forwarder.storage.items import check_id, to_items
from forwarder.storage.pagination import (
    find_page_start,
    make_list,
    make_page,
    read_metadata,
    read_page,
)
from forwarder.storage.resume import read_response_input

blueprint = Blueprint("stored", __name__)

_ID = re.compile(r"[\w.:-]{1,256}", re.ASCII)
_FLAGS = {"true": True, "1": True, "false": False, "0": False}


def open_store() -> tuple[DatabaseConversationStore, str]:
    """Authenticate the client. Returns the store and the owner whose data the client may access."""
    state = authenticate_client().require_store()
    return state, state.find_owner(request_context.current_context())


def authenticate_client() -> Services:
    context = request_context.current_context()
    context.route = "stored"
    request_context.authenticate(context)
    return get_services()


def check_stored_id(name: str) -> str:
    """Return a valid id. Raises NotFound for a malformed one."""
    if not _ID.fullmatch(name):
        raise NotFound(f"There is no object with id '{name[:64]}'.")
    return name


# -- responses ------------------------------------------------------------------------------------


@blueprint.get("/responses/<name>")
def response(name: str) -> Response:
    """Return a response; with ``?stream=true``, stream its stored and future events."""
    state, owner = open_store()
    including = IncludeFilter(request.args.items(multi=True))
    if not read_flag("stream"):
        return json_answer(
            including.filter_response(
                state.background.read_response(owner, check_stored_id(name)).body
            )
        )
    context = request_context.current_context()
    request_context.watch_disconnect(context)
    try:
        return stream_stored_events(
            check_stored_id(name), read_starting_after(), context, including.filter_batch
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
    state, owner = open_store()
    removed = state.background.remove_response(owner, check_stored_id(name))
    if removed is None:
        raise response_not_found(name)
    get_gateway().cancel_at_upstream(removed, request_context.current_context())
    return json_answer({"id": name, "object": "response", "deleted": True})


@blueprint.post("/responses/<name>/cancel")
def cancel(name: str) -> Response:
    """Cancel the background work on a response, also at an upstream that runs it."""
    state, owner = open_store()
    cancelled = state.background.cancel_response(owner, check_stored_id(name))
    get_gateway().cancel_at_upstream(cancelled, request_context.current_context())
    return json_answer(IncludeFilter(()).filter_response(cancelled.body))


@blueprint.get("/responses/<name>/input_items")
def input_items(name: str) -> Response:
    """List the input of a response, with the history that it continues."""
    state, owner = open_store()
    page, including = read_page(request.args, "desc"), IncludeFilter(request.args.items(multi=True))
    check_stored_id(name)

    def read(connection: Any) -> list[Json]:
        if responses.find(connection, owner, name) is None:
            raise response_not_found(name)
        limit = ReadLimit(state.request_limits, subject="The input including its history")
        return read_response_input(connection, owner, name, limit.spend)

    items = [including.filter_item(item) for item in state.database.read(read)]
    return json_answer(make_page(items, page))


@blueprint.post("/responses/input_tokens")
def input_tokens() -> Response:
    """Estimate the input tokens of a request. A response header marks the estimate."""
    services, context = authenticate_client(), request_context.current_context()
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
    deque(handler(as_items), maxlen=0)
    answer = json_answer(
        {
            "object": "response.input_tokens",
            "input_tokens": token_estimate.estimate_input_tokens(expanded[0], expanded[0]["input"]),
        }
    )
    answer.headers["X-Forwarder-Estimated"] = "input_tokens"
    return answer


# -- chat completions -----------------------------------------------------------------------------


@blueprint.get("/chat/completions")
def chat_completions() -> Response:
    """List stored chat completions, optionally filtered by model and metadata."""
    state, owner = open_store()
    page = read_page(request.args, "asc")
    model = request.args.get("model")
    if model is not None:
        check_id(model, "model")
    metadata = {k[9:-1]: v for k, v in request.args.items() if re.fullmatch(r"metadata\[.+\]", k)}

    def read(connection: Any) -> list[stored_completions.StoredCompletion]:
        after = find_page_start(
            page, lambda x: stored_completions.find_position(connection, owner, x)
        )
        limit = ReadLimit(state.request_limits, "limit", "This page of the list")
        return stored_completions.list_page(
            connection,
            owner,
            after,
            page.limit + 1,
            page.is_descending,
            model,
            metadata,
            limit.spend,
        )

    rows = state.database.read(read)
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


def find_completion(name: str) -> stored_completions.StoredCompletion:
    state, owner = open_store()
    completion = state.database.read(
        lambda c: stored_completions.find(c, owner, check_stored_id(name))
    )
    if completion is None:
        raise completion_not_found(name)
    return completion


@blueprint.post("/chat/completions/<name>")
def describe_completion(name: str) -> Response:
    """Replace the metadata of a stored chat completion."""
    state, owner = open_store()
    metadata = read_metadata(
        read_json_body(request_context.current_context()), check_type, required=True
    )
    completion = state.database.write(
        lambda c: stored_completions.set_metadata(c, owner, check_stored_id(name), metadata)
    )
    if completion is None:
        raise completion_not_found(name)
    return json_answer(completion_recorder.render_completion(completion))


@blueprint.delete("/chat/completions/<name>")
def delete_completion(name: str) -> Response:
    """Delete a stored chat completion."""
    state, owner = open_store()
    if not state.database.write(
        lambda c: stored_completions.remove(c, owner, check_stored_id(name))
    ):
        raise completion_not_found(name)
    return json_answer({"id": name, "object": "chat.completion.deleted", "deleted": True})


def completion_not_found(name: str) -> NotFound:
    return NotFound(f"Chat completion with id '{name[:64]}' not found.", param="completion_id")
