"""What was stored of both APIs: responses and chat completions, by their ids."""

from __future__ import annotations

import re
from collections import deque
from copy import deepcopy
from typing import Any

from flask import Blueprint, Response, current_app, request

from forwarder.core.errors import InvalidRequest, NotFound, ShuttingDown
from forwarder.core.read_limit import ReadLimit
from forwarder.core.shutdown import Stopping
from forwarder.core.types import Json, Stream
from forwarder.core.validate import expect, optional
from forwarder.pipeline.gateway import Bridge
from forwarder.server import request_context
from forwarder.server.openai import json_answer, json_body, told
from forwarder.server.request_shape import adapt_shape
from forwarder.storage import Memory, Remembering, completion_recorder, token_estimate
from forwarder.storage.background import no_response
from forwarder.storage.db import completions as stored_completions
from forwarder.storage.db import responses
from forwarder.storage.include import Including
from forwarder.storage.items import as_items, check_id
from forwarder.storage.pagination import as_list, listed, mark_of, metadata_of, page_of
from forwarder.storage.resume import input_of

blueprint = Blueprint("stored", __name__)

_ID = re.compile(r"[\w.:-]{1,256}", re.ASCII)
_FLAGS = {"true": True, "1": True, "false": False, "0": False}


def entered() -> tuple[Remembering, str]:
    """The state, and whose part of it the client may see; who may not ask is turned away."""
    state = _admitted().stored
    return state, state.find_owner(request_context.current())


def _admitted() -> Bridge:
    exchange = request_context.current()
    exchange.route = "stored"
    request_context.admit(exchange)
    return _bridge()


def _bridge() -> Bridge:
    bridge: Bridge = current_app.extensions["forwarder"]
    return bridge


def checked(name: str) -> str:
    """An id as it may be; others there are none of."""
    if not _ID.fullmatch(name):
        raise NotFound(f"There is no '{name[:64]}'.")
    return name


# -- responses ------------------------------------------------------------------------------------


@blueprint.get("/responses/<name>")
def response(name: str) -> Response:
    """A response; with ``stream`` its events, those to come included."""
    state, owner = entered()
    including = Including(request.args.items(multi=True))
    if not _flag("stream"):
        return json_answer(including.response(state.background.found(owner, checked(name)).body))
    exchange = request_context.current()
    request_context.watch(exchange)
    try:
        return told(checked(name), _starting_after(), exchange, including.batch)
    except Stopping:  # the end of the process is told as any failure is
        raise ShuttingDown from None


def _flag(name: str) -> bool:
    text = request.args.get(name, "false").lower()
    if text not in _FLAGS:
        raise InvalidRequest(
            f"Invalid type for '{name}': expected a boolean.", param=name, code="invalid_type"
        )
    return _FLAGS[text]


def _starting_after() -> int:
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
    state, owner = entered()
    kept = state.background.remove(owner, checked(name))
    if kept is None:
        raise no_response(name)
    _bridge().stop_upstream(kept, request_context.current())
    return json_answer({"id": name, "object": "response", "deleted": True})


@blueprint.post("/responses/<name>/cancel")
def cancel(name: str) -> Response:
    """End the background work on a response, here and at an upstream that does it."""
    state, owner = entered()
    kept = state.background.cancel(owner, checked(name))
    _bridge().stop_upstream(kept, request_context.current())
    return json_answer(Including(()).response(kept.body))


@blueprint.get("/responses/<name>/input_items")
def input_items(name: str) -> Response:
    """What a response answers: its own input, behind all that it continues."""
    state, owner = entered()
    page, including = page_of(request.args, "desc"), Including(request.args.items(multi=True))
    checked(name)

    def read(connection: Any) -> list[Json]:
        if responses.find(connection, owner, name) is None:
            raise no_response(name)
        limit = ReadLimit(state.request_limits, subject="With what it continues, the input")
        return input_of(connection, owner, name, limit.spend)

    items = [including.item(item) for item in state.database.read(read)]
    return json_answer(listed(items, page))


@blueprint.post("/responses/input_tokens")
def input_tokens() -> Response:
    """About how many tokens a request's input has; the header says that it is an estimate."""
    bridge, exchange = _admitted(), request_context.current()
    body = adapt_shape(json_body(exchange), "responses", exchange)
    found: list[Json] = []

    def counted(asked: Json) -> Stream:
        found.append(asked)
        return iter(())

    asked = {**deepcopy(body), "input": as_items(body.get("input"))}
    optional(body, "input", (str, list), "input")
    deque(bridge.state.resumed(counted, exchange, Memory(""), translated=True)(asked), maxlen=0)
    answer = json_answer(
        {
            "object": "response.input_tokens",
            "input_tokens": token_estimate.estimate(found[0], found[0]["input"]),
        }
    )
    answer.headers["X-Forwarder-Estimated"] = "input_tokens"
    return answer


# -- chat completions -----------------------------------------------------------------------------


@blueprint.get("/chat/completions")
def chat_completions() -> Response:
    """The stored chat completions, or those with a certain model or metadata."""
    state, owner = entered()
    page = page_of(request.args, "asc")
    model = request.args.get("model")
    if model is not None:
        check_id(model, "model")
    wanted = {k[9:-1]: v for k, v in request.args.items() if re.fullmatch(r"metadata\[.+\]", k)}

    def read(connection: Any) -> list[stored_completions.Completion]:
        after = mark_of(page, lambda x: stored_completions.place(connection, owner, x))
        most = page.limit + 1
        limit = ReadLimit(state.request_limits, "limit", "This page of the list")
        return stored_completions.listed(
            connection, owner, after, most, page.falling, model, wanted, limit.spend
        )

    found = state.database.read(read)
    return json_answer(as_list(list(map(completion_recorder.shown, found)), page.limit))


@blueprint.get("/chat/completions/<name>")
def chat_completion(name: str) -> Response:
    """A stored chat completion."""
    return json_answer(completion_recorder.shown(_completion(name)))


@blueprint.get("/chat/completions/<name>/messages")
def messages(name: str) -> Response:
    """The messages that a stored chat completion answers."""
    completion = _completion(name)
    return json_answer(
        listed(completion_recorder.messages_of(completion), page_of(request.args, "asc"))
    )


def _completion(name: str) -> stored_completions.Completion:
    state, owner = entered()
    found = state.database.read(lambda c: stored_completions.find(c, owner, checked(name)))
    if found is None:
        raise _no_completion(name)
    return found


@blueprint.post("/chat/completions/<name>")
def describe_completion(name: str) -> Response:
    """Give a stored chat completion other metadata."""
    state, owner = entered()
    metadata = metadata_of(json_body(request_context.current()), expect, required=True)
    found = state.database.write(
        lambda c: stored_completions.describe(c, owner, checked(name), metadata)
    )
    if found is None:
        raise _no_completion(name)
    return json_answer(completion_recorder.shown(found))


@blueprint.delete("/chat/completions/<name>")
def delete_completion(name: str) -> Response:
    """Delete a stored chat completion."""
    state, owner = entered()
    if not state.database.write(lambda c: stored_completions.remove(c, owner, checked(name))):
        raise _no_completion(name)
    return json_answer({"id": name, "object": "chat.completion.deleted", "deleted": True})


def _no_completion(name: str) -> NotFound:
    return NotFound(f"Chat completion with id '{name[:64]}' not found.", param="completion_id")
