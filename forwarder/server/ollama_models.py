"""The part of Ollama's API that is about models: registering them, showing, copying, deleting.

Whoever may ask for answers may read; what all share is changed by administrators alone.  Bodies
are not logged, whatever is: one of them holds a key.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator

import orjson
from flask import Blueprint, Response, current_app, request
from werkzeug.exceptions import HTTPException

from forwarder.context.route import Route
from forwarder.core.errors import NotFound, Unsupported, shorten_value
from forwarder.core.types import Json
from forwarder.core.validate import STR, require_field
from forwarder.models import ollama_views
from forwarder.models.names import add_tag
from forwarder.models.ollama_views import ModelView
from forwarder.models.probe import ProbeResult
from forwarder.models.register import RegistrationResult
from forwarder.models.registered_model import RegisteredModel, read_flag, read_name
from forwarder.models.registry import make_not_found
from forwarder.pipeline.gateway import Gateway
from forwarder.server import request_context
from forwarder.server.auth import has_key, require_administrator, require_client_key
from forwarder.server.json_body import read_body
from forwarder.server.openai import json_answer

blueprint = Blueprint("registry", __name__)

VERSION = "0.33.0"
"""Ollama's version whose API this is; clients look what they may use."""

_NOTHING_TO_PULL = (
    "pull model manifest: file does not exist (no upstream has a model '{name}'; "
    "POST /api/create registers one with its remote_host)"
)

_CLIENT = "ollama"
"""In whose protocol models are asked that are shown here."""


@blueprint.get("/")
def alive() -> Response:
    """What Ollama answers; some clients look for these very words."""
    request_context.current_context().log_level = logging.DEBUG
    return Response("Ollama is running", mimetype="text/plain")


@blueprint.get("/api/version")
def version() -> Response:
    """Which Ollama this would be."""
    request_context.current_context().log_level = logging.DEBUG
    return json_answer({"version": VERSION})


@blueprint.post("/api/create")
def create() -> Response:
    """Register a model, after its remote has said that it is well."""
    authorize_administrator()
    body = read_ollama_body()
    streamed = read_flag(body, "stream", True)
    created = get_gateway().creating.create(body, read_client_key())
    note_health(created)
    if not streamed:
        return json_answer({"status": "success", "found": created.report})
    return answer_lines(list_create_statuses(created))


@blueprint.post("/api/show")
def show() -> Response:
    """All that may be known of a model, and how its remote fares; ``verbose`` asks it now."""
    authorize_reader()
    body = read_ollama_body()
    name = read_name(body)
    shown = view_model(name)
    check = check_model(shown.remote, read_flag(body, "verbose", False)) if shown.remote else None
    return json_answer(ollama_views.make_description(shown, check.to_json() if check else None))


@blueprint.get("/api/tags")
def tags() -> Response:
    """Every model that a request can name."""
    authorize_reader()
    return json_answer(
        {"models": [ollama_views.make_tag_entry(shown) for shown in list_all_models()]}
    )


@blueprint.get("/api/ps")
def ps() -> Response:
    """The registered models, which are always ready."""
    authorize_reader()
    shown = map(view_registered_model, get_gateway().registry.list_models())
    return json_answer({"models": [ollama_views.make_running_entry(each) for each in shown]})


@blueprint.post("/api/copy")
def copy() -> Response:
    """Give a model another name as well."""
    authorize_administrator()
    body = read_ollama_body()
    source, destination = (require_field(body, n, STR, n) for n in ("source", "destination"))
    get_gateway().creating.copy(source, destination, read_client_key())
    return Response(status=200)


@blueprint.delete("/api/delete")
def delete() -> Response:
    """Forget a registered model; those of the environment are the operator's."""
    authorize_administrator()
    name = read_name(read_ollama_body())
    bridge = get_gateway()
    if (
        bridge.registry.find(name) is None
        and bridge.catalog.find_model(name, read_client_key()) is not None
    ):
        raise Unsupported(
            f"model '{shorten_value(name)}' is not registered but configured, in the forwarder's "
            "environment.",
            param="model",
        )
    bridge.registry.remove(name)
    return Response(status=200)


@blueprint.post("/api/pull")
def pull() -> Response:
    """Report success for a model that is served here: clients pull before they first use one."""
    authorize_reader()
    body = read_ollama_body()
    name = read_name(body)
    streamed = read_flag(body, "stream", True)
    error = None if is_served(name) else _NOTHING_TO_PULL.format(name=name)
    if streamed:
        return answer_lines(list_pull_statuses(error))
    if error:
        raise NotFound(error, param="model", code="model_not_found")
    return json_answer({"status": "success"})


@blueprint.post("/api/push")
def push() -> Response:
    """Refuse: there is nothing to upload."""
    authorize_reader()
    raise Unsupported(
        "Models are not pushed from here, they stay where they are; "
        "POST /api/create registers one with its remote_host."
    )


@blueprint.route("/api/blobs/<digest>", methods=["HEAD", "POST"])
def blob(digest: str) -> Response:
    """No file of a model is stored here."""
    authorize_reader()
    raise Unsupported("Files of models are not stored here; POST /api/create takes a remote_host.")


# -- who asks, and what for ---------------------------------------------------------------------


def authorize_reader() -> None:
    """Let clients and administrators in."""
    settings = get_gateway().settings
    known = (*settings.api_keys, *settings.admin_keys) if settings.api_keys else ()
    require_client_key(known)


def authorize_administrator() -> None:
    require_administrator(get_gateway().settings)


def read_client_key() -> str | None:
    """The key of whoever asks, for what upstreams list to it; an administrator's is not theirs."""
    key = require_client_key(())
    return None if has_key(key or "", get_gateway().settings.admin_keys) else key


def read_ollama_body() -> Json:
    room = request_context.reserve_body_memory(request_context.current_context())
    try:
        data = room.read_all(request.stream.read)
        return read_body(data, get_gateway().settings.max_json_values)
    except HTTPException as error:  # too large, or cut off
        raise request_context.convert_http_error(error) from None


def note_health(created: RegistrationResult) -> None:
    """Let what was found be known as the model's health."""
    target = get_gateway().health_target(created.remote)
    if target is not None and created.check is not None:
        get_gateway().health.record_result(target, created.check)


def check_model(remote: RegisteredModel, now: bool) -> ProbeResult | None:
    bridge = get_gateway()
    target = bridge.health_target(remote)
    if target is None:
        return None
    if now:
        return bridge.health.check_target(target, bridge.settings.ready_ttl)
    return bridge.health.get_last_result(target.name, target.upstream)


def list_create_statuses(created: RegistrationResult) -> Iterator[Json]:
    """The lines that tell what was done, as Ollama sends them."""
    if created.check is not None:
        yield {"status": f"asked {created.remote.host}", "found": created.report}
    elif created.provider:
        yield {"status": f"not verified, profile {created.provider}", "found": created.report}
    yield {"status": "writing manifest"}
    yield {"status": "success"}


def list_pull_statuses(error: str | None) -> Iterator[Json]:
    """The lines of a pull, which in Ollama's API fails after it has begun."""
    yield {"status": "pulling manifest"}
    if error:
        yield {"error": error}
        return
    yield {"status": "verifying sha256 digest"}
    yield {"status": "writing manifest"}
    yield {"status": "success"}


def answer_lines(values: Iterator[Json]) -> Response:
    """A stream of which all lines are known."""
    lines = b"".join(orjson.dumps(value) + b"\n" for value in values)
    return Response(lines, mimetype="application/x-ndjson")


# -- models -------------------------------------------------------------------------------------


def list_all_models() -> Iterator[ModelView]:
    """The registered models, and then the catalog's; each name once."""
    bridge = get_gateway()
    remotes = bridge.registry.list_models()
    yield from map(view_registered_model, remotes)
    seen = {remote.name for remote in remotes}
    for model in bridge.catalog.list_models(read_client_key(), (_CLIENT,)):
        if add_tag(model["id"]) not in seen:
            seen.add(add_tag(model["id"]))
            yield ollama_views.view_configured(model, find_chat_route(model["id"]))


def view_registered_model(remote: RegisteredModel) -> ModelView:
    route = (
        None
        if remote.host
        else get_gateway().router.find_route(remote.name, _CLIENT, read_client_key())
    )
    return ollama_views.view_registered(remote, route)


def view_model(name: str) -> ModelView:
    bridge = get_gateway()
    remote = bridge.router.find_registered(name)
    if remote is not None:
        return view_registered_model(remote)
    model = bridge.catalog.find_served_model(name, _CLIENT, read_client_key())
    if model is None:
        raise make_not_found(name)
    return ollama_views.view_configured(model, find_chat_route(name))


def is_served(name: str) -> bool:
    """Would ``/api/chat`` find a model of this name?"""
    bridge = get_gateway()
    try:
        registered = bridge.router.find_registered(name)
        return bool(
            registered or bridge.catalog.find_served_model(name, _CLIENT, read_client_key())
        )
    except NotFound:
        return False


def find_chat_route(name: str) -> Route:
    """Where ``/api/chat`` would lead."""
    return get_gateway().router.resolve(name, _CLIENT, read_client_key())


def get_gateway() -> Gateway:
    bridge: Gateway = current_app.extensions["forwarder"]
    return bridge
