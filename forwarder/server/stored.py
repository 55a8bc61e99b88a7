"""What was stored of both APIs: responses and chat completions, by their ids."""

from __future__ import annotations

import re
from collections import deque
from copy import deepcopy
from typing import Any

from flask import Blueprint, Response, current_app, request

from forwarder.core.errors import InvalidRequest, NotFound, ShuttingDown
from forwarder.core.read_limit import ReadLimit
from forwarder.core.shutdown import ShutdownInterrupt
from forwarder.core.types import EventStream, Json
from forwarder.core.validate import check_type, read_field
from forwarder.pipeline.gateway import Gateway
from forwarder.server import request_context
from forwarder.server.openai import json_answer, read_json_body, stream_stored_events
from forwarder.server.request_shape import adapt_shape
from forwarder.storage import ConversationStore, UpstreamMemory, completion_recorder, token_estimate
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


def open_store() -> tuple[ConversationStore, str]:
    """The state, and whose part of it the client may see; who may not ask is turned away."""
    state = authenticate_client().store
    return state, state.find_owner(request_context.current_context())


def authenticate_client() -> Gateway:
    exchange = request_context.current_context()
    exchange.route = "stored"
    request_context.authenticate(exchange)
    return get_gateway()


def get_gateway() -> Gateway:
    bridge: Gateway = current_app.extensions["forwarder"]
    return bridge


def check_stored_id(name: str) -> str:
    """An id as it may be; others there are none of."""
    if not _ID.fullmatch(name):
        raise NotFound(f"There is no '{name[:64]}'.")
    return name


# -- responses ------------------------------------------------------------------------------------


@blueprint.get("/responses/<name>")
def response(name: str) -> Response:
    """A response; with ``stream`` its events, those to come included."""
    state, owner = open_store()
    including = IncludeFilter(request.args.items(multi=True))
    if not read_flag("stream"):
        return json_answer(
            including.filter_response(
                state.background.read_response(owner, check_stored_id(name)).body
            )
        )
    exchange = request_context.current_context()
    request_context.watch_disconnect(exchange)
    try:
        return stream_stored_events(
            check_stored_id(name), read_starting_after(), exchange, including.filter_batch
        )
    except ShutdownInterrupt:  # the end of the process is told as any failure is
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
    """Delete a response; work on it ends."""
    state, owner = open_store()
    kept = state.background.remove_response(owner, check_stored_id(name))
    if kept is None:
        raise response_not_found(name)
    get_gateway().cancel_at_upstream(kept, request_context.current_context())
    return json_answer({"id": name, "object": "response", "deleted": True})


@blueprint.post("/responses/<name>/cancel")
def cancel(name: str) -> Response:
    """End the background work on a response, here and at an upstream that does it."""
    state, owner = open_store()
    kept = state.background.cancel_response(owner, check_stored_id(name))
    get_gateway().cancel_at_upstream(kept, request_context.current_context())
    return json_answer(IncludeFilter(()).filter_response(kept.body))


@blueprint.get("/responses/<name>/input_items")
def input_items(name: str) -> Response:
    """What a response answers: its own input, behind all that it continues."""
    state, owner = open_store()
    page, including = read_page(request.args, "desc"), IncludeFilter(request.args.items(multi=True))
    check_stored_id(name)

    def read(connection: Any) -> list[Json]:
        if responses.find(connection, owner, name) is None:
            raise response_not_found(name)
        limit = ReadLimit(state.request_limits, subject="With what it continues, the input")
        return read_response_input(connection, owner, name, limit.spend)

    items = [including.filter_item(item) for item in state.database.read(read)]
    return json_answer(make_page(items, page))


@blueprint.post("/responses/input_tokens")
def input_tokens() -> Response:
    """About how many tokens a request's input has; the header says that it is an estimate."""
    bridge, exchange = authenticate_client(), request_context.current_context()
    body = adapt_shape(read_json_body(exchange), "responses", exchange)
    found: list[Json] = []

    def count_tokens(asked: Json) -> EventStream:
        found.append(asked)
        return iter(())

    asked = {**deepcopy(body), "input": to_items(body.get("input"))}
    read_field(body, "input", (str, list), "input")
    deque(
        bridge.state.with_history(count_tokens, exchange, UpstreamMemory(""), translated=True)(
            asked
        ),
        maxlen=0,
    )
    answer = json_answer(
        {
            "object": "response.input_tokens",
            "input_tokens": token_estimate.estimate_input_tokens(found[0], found[0]["input"]),
        }
    )
    answer.headers["X-Forwarder-Estimated"] = "input_tokens"
    return answer


# -- chat completions -----------------------------------------------------------------------------


@blueprint.get("/chat/completions")
def chat_completions() -> Response:
    """The stored chat completions, or those with a certain model or metadata."""
    state, owner = open_store()
    page = read_page(request.args, "asc")
    model = request.args.get("model")
    if model is not None:
        check_id(model, "model")
    wanted = {k[9:-1]: v for k, v in request.args.items() if re.fullmatch(r"metadata\[.+\]", k)}

    def read(connection: Any) -> list[stored_completions.StoredCompletion]:
        after = find_page_start(
            page, lambda x: stored_completions.find_position(connection, owner, x)
        )
        most = page.limit + 1
        limit = ReadLimit(state.request_limits, "limit", "This page of the list")
        return stored_completions.list_page(
            connection, owner, after, most, page.is_descending, model, wanted, limit.spend
        )

    found = state.database.read(read)
    return json_answer(
        make_list(list(map(completion_recorder.render_completion, found)), page.limit)
    )


@blueprint.get("/chat/completions/<name>")
def chat_completion(name: str) -> Response:
    """A stored chat completion."""
    return json_answer(completion_recorder.render_completion(find_completion(name)))


@blueprint.get("/chat/completions/<name>/messages")
def messages(name: str) -> Response:
    """The messages that a stored chat completion answers."""
    completion = find_completion(name)
    return json_answer(
        make_page(completion_recorder.render_messages(completion), read_page(request.args, "asc"))
    )


def find_completion(name: str) -> stored_completions.StoredCompletion:
    state, owner = open_store()
    found = state.database.read(lambda c: stored_completions.find(c, owner, check_stored_id(name)))
    if found is None:
        raise completion_not_found(name)
    return found


@blueprint.post("/chat/completions/<name>")
def describe_completion(name: str) -> Response:
    """Give a stored chat completion other metadata."""
    state, owner = open_store()
    metadata = read_metadata(
        read_json_body(request_context.current_context()), check_type, required=True
    )
    found = state.database.write(
        lambda c: stored_completions.set_metadata(c, owner, check_stored_id(name), metadata)
    )
    if found is None:
        raise completion_not_found(name)
    return json_answer(completion_recorder.render_completion(found))


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
