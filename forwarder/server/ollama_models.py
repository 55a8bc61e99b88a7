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
from forwarder.core.errors import NotFound, Unsupported, shorten
from forwarder.core.types import Json
from forwarder.core.validate import STR, require
from forwarder.models import ollama_views
from forwarder.models.names import full
from forwarder.models.ollama_views import Shown
from forwarder.models.probe import Check
from forwarder.models.register import Created
from forwarder.models.registered_model import Remote, flag, name_in
from forwarder.models.registry import not_found
from forwarder.pipeline.gateway import Bridge
from forwarder.server import request_context
from forwarder.server.auth import administers, authorized, is_one_of
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
    request_context.current().log_level = logging.DEBUG
    return Response("Ollama is running", mimetype="text/plain")


@blueprint.get("/api/version")
def version() -> Response:
    """Which Ollama this would be."""
    request_context.current().log_level = logging.DEBUG
    return json_answer({"version": VERSION})


@blueprint.post("/api/create")
def create() -> Response:
    """Register a model, after its remote has said that it is well."""
    _administer()
    body = _body()
    streamed = flag(body, "stream", True)
    created = _bridge().creating.create(body, _key())
    _note(created)
    if not streamed:
        return json_answer({"status": "success", "found": created.found})
    return _answer_lines(_statuses(created))


@blueprint.post("/api/show")
def show() -> Response:
    """All that may be known of a model, and how its remote fares; ``verbose`` asks it now."""
    _read()
    body = _body()
    name = name_in(body)
    shown = _shown(name)
    check = _check(shown.remote, flag(body, "verbose", False)) if shown.remote else None
    return json_answer(ollama_views.description(shown, check.shown() if check else None))


@blueprint.get("/api/tags")
def tags() -> Response:
    """Every model that a request can name."""
    _read()
    return json_answer({"models": [ollama_views.tag(shown) for shown in _all()]})


@blueprint.get("/api/ps")
def ps() -> Response:
    """The registered models, which are always ready."""
    _read()
    shown = map(_registered, _bridge().registry.listed())
    return json_answer({"models": [ollama_views.running(each) for each in shown]})


@blueprint.post("/api/copy")
def copy() -> Response:
    """Give a model another name as well."""
    _administer()
    body = _body()
    source, destination = (require(body, n, STR, n) for n in ("source", "destination"))
    _bridge().creating.copy(source, destination, _key())
    return Response(status=200)


@blueprint.delete("/api/delete")
def delete() -> Response:
    """Forget a registered model; those of the environment are the operator's."""
    _administer()
    name = name_in(_body())
    bridge = _bridge()
    if bridge.registry.find(name) is None and bridge.catalog.model(name, _key()) is not None:
        raise Unsupported(
            f"model '{shorten(name)}' is not registered but configured, in the forwarder's "
            "environment.",
            param="model",
        )
    bridge.registry.remove(name)
    return Response(status=200)


@blueprint.post("/api/pull")
def pull() -> Response:
    """Report success for a model that is served here: clients pull before they first use one."""
    _read()
    body = _body()
    name = name_in(body)
    streamed = flag(body, "stream", True)
    error = None if _is_served(name) else _NOTHING_TO_PULL.format(name=name)
    if streamed:
        return _answer_lines(_list_pull_statuses(error))
    if error:
        raise NotFound(error, param="model", code="model_not_found")
    return json_answer({"status": "success"})


@blueprint.post("/api/push")
def push() -> Response:
    """Refuse: there is nothing to upload."""
    _read()
    raise Unsupported(
        "Models are not pushed from here, they stay where they are; "
        "POST /api/create registers one with its remote_host."
    )


@blueprint.route("/api/blobs/<digest>", methods=["HEAD", "POST"])
def blob(digest: str) -> Response:
    """No file of a model is stored here."""
    _read()
    raise Unsupported("Files of models are not stored here; POST /api/create takes a remote_host.")


# -- who asks, and what for ---------------------------------------------------------------------


def _read() -> None:
    """Let clients and administrators in."""
    settings = _bridge().settings
    known = (*settings.api_keys, *settings.admin_keys) if settings.api_keys else ()
    authorized(known)


def _administer() -> None:
    administers(_bridge().settings)


def _key() -> str | None:
    """The key of whoever asks, for what upstreams list to it; an administrator's is not theirs."""
    key = authorized(())
    return None if is_one_of(key or "", _bridge().settings.admin_keys) else key


def _body() -> Json:
    room = request_context.make_room(request_context.current())
    try:
        data = room.read_all(request.stream.read)
        return read_body(data, _bridge().settings.max_json_values)
    except HTTPException as error:  # too large, or cut off
        raise request_context.ours(error) from None


def _note(created: Created) -> None:
    """Let what was found be known as the model's health."""
    target = _bridge().target(created.remote)
    if target is not None and created.check is not None:
        _bridge().health.note(target, created.check)


def _check(remote: Remote, now: bool) -> Check | None:
    bridge = _bridge()
    target = bridge.target(remote)
    if target is None:
        return None
    if now:
        return bridge.health.fresh(target, bridge.settings.ready_ttl)
    return bridge.health.known(target.name, target.upstream)


def _statuses(created: Created) -> Iterator[Json]:
    """The lines that tell what was done, as Ollama sends them."""
    if created.check is not None:
        yield {"status": f"asked {created.remote.host}", "found": created.found}
    elif created.provider:
        yield {"status": f"not verified, profile {created.provider}", "found": created.found}
    yield {"status": "writing manifest"}
    yield {"status": "success"}


def _list_pull_statuses(error: str | None) -> Iterator[Json]:
    """The lines of a pull, which in Ollama's API fails after it has begun."""
    yield {"status": "pulling manifest"}
    if error:
        yield {"error": error}
        return
    yield {"status": "verifying sha256 digest"}
    yield {"status": "writing manifest"}
    yield {"status": "success"}


def _answer_lines(values: Iterator[Json]) -> Response:
    """A stream of which all lines are known."""
    lines = b"".join(orjson.dumps(value) + b"\n" for value in values)
    return Response(lines, mimetype="application/x-ndjson")


# -- models -------------------------------------------------------------------------------------


def _all() -> Iterator[Shown]:
    """The registered models, and then the catalog's; each name once."""
    bridge = _bridge()
    remotes = bridge.registry.listed()
    yield from map(_registered, remotes)
    seen = {remote.name for remote in remotes}
    for model in bridge.catalog.models(_key(), (_CLIENT,)):
        if full(model["id"]) not in seen:
            seen.add(full(model["id"]))
            yield ollama_views.of_configured(model, _route(model["id"]))


def _registered(remote: Remote) -> Shown:
    route = None if remote.host else _bridge().router.find_route(remote.name, _CLIENT, _key())
    return ollama_views.of_remote(remote, route)


def _shown(name: str) -> Shown:
    bridge = _bridge()
    remote = bridge.router.registered(name)
    if remote is not None:
        return _registered(remote)
    model = bridge.catalog.served(name, _CLIENT, _key())
    if model is None:
        raise not_found(name)
    return ollama_views.of_configured(model, _route(name))


def _is_served(name: str) -> bool:
    """Would ``/api/chat`` find a model of this name?"""
    bridge = _bridge()
    try:
        registered = bridge.router.registered(name)
        return bool(registered or bridge.catalog.served(name, _CLIENT, _key()))
    except NotFound:
        return False


def _route(name: str) -> Route:
    """Where ``/api/chat`` would lead."""
    return _bridge().router.resolve(name, _CLIENT, _key())


def _bridge() -> Bridge:
    bridge: Bridge = current_app.extensions["forwarder"]
    return bridge
