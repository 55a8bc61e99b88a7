"""Ollama's API for clients: answers, embeddings and models.

Clients may read models (show, list); only administrators may register, copy and delete them.
Request bodies are never logged, since ``/api/create`` contains the key of a provider.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from functools import partial

import orjson
from flask import Blueprint, Response, request
from werkzeug.exceptions import HTTPException

from forwarder.context.request_context import Route
from forwarder.core.errors import NotFound, Unauthorized, Unsupported
from forwarder.core.types import Json
from forwarder.core.validate import STR, require_field
from forwarder.models import ollama_views
from forwarder.models.health_probe import ProbeResult
from forwarder.models.ollama_views import ModelView
from forwarder.models.registered_model import RegisteredModel, add_tag, read_flag, read_name
from forwarder.models.registration import RegistrationResult
from forwarder.models.registry import make_not_found
from forwarder.server import request_hooks
from forwarder.server.auth import (
    Client,
    authenticate_client,
    has_key,
    identify_client,
    read_key,
    require_administrator,
)
from forwarder.server.extension import get_services
from forwarder.server.json_body import read_body
from forwarder.server.serving import json_answer, serve, serve_embeddings

blueprint = Blueprint("ollama", __name__)

VERSION = "0.33.0"
"""Reported version of Ollama. Clients enable features by it."""

_NOTHING_TO_PULL = (
    "pull model manifest: file does not exist (no upstream has a model '{name}'; "
    "POST /api/create registers one with its remote_host)"
)

_CLIENT = "ollama"
"""The client protocol for which models are resolved here."""


@blueprint.get("/api/version")
def version() -> Response:
    """Return the emulated Ollama version."""
    request_hooks.current_context().log_level = logging.DEBUG
    return json_answer({"version": VERSION})


@blueprint.post("/api/chat")
def chat() -> Response:
    """Answer a conversation."""
    return serve("ollama")


@blueprint.post("/api/generate")
def generate() -> Response:
    """Answer a single prompt."""
    return serve("ollama_generate")


@blueprint.post("/api/embed")
def embed() -> Response:
    """Return embeddings of one or several texts."""
    return serve_embeddings("ollama_embed")


@blueprint.post("/api/embeddings")
def embeddings() -> Response:
    """Return the embedding of one text (Ollama's older API)."""
    return serve_embeddings("ollama_embeddings")


# -- models ---------------------------------------------------------------------------------------


@blueprint.post("/api/create")
def create() -> Response:
    """Register a model after a successful test request to its remote host."""
    authorize_administrator()
    body = read_ollama_body()
    wants_stream = read_flag(body, "stream", True)
    created = get_services().registration.create(body, read_client_key())
    if not wants_stream:
        return json_answer({"status": "success", "found": created.report})
    return answer_lines(list_create_statuses(created))


@blueprint.post("/api/show")
def show() -> Response:
    """Describe a model and the health of its remote host; ``verbose`` probes the host now."""
    authorize_reader()
    body = read_ollama_body()
    name = read_name(body)
    view = view_model(name)
    check = check_model(view.remote, read_flag(body, "verbose", False)) if view.remote else None
    return json_answer(ollama_views.make_description(view, check.to_json() if check else None))


@blueprint.get("/api/tags")
def tags() -> Response:
    """List all models that a request can name."""
    authorize_reader()
    return json_answer(
        {"models": [ollama_views.make_tag_entry(view) for view in list_allowed_models()]}
    )


@blueprint.get("/api/ps")
def ps() -> Response:
    """List the registered models as loaded: they are always ready."""
    authorize_reader()
    grants = read_client().grants
    remotes = [
        remote
        for remote in get_services().registry.list_models()
        if grants is None or grants.allows_model(remote.name)
    ]
    view = map(view_registered_model, remotes)
    return json_answer({"models": [ollama_views.make_running_entry(each) for each in view]})


@blueprint.post("/api/copy")
def copy() -> Response:
    """Register a model under a second name."""
    authorize_administrator()
    body = read_ollama_body()
    source, destination = (require_field(body, n, STR, n) for n in ("source", "destination"))
    get_services().registration.copy(source, destination, read_client_key())
    return Response(status=200)


@blueprint.delete("/api/delete")
def delete() -> Response:
    """Delete a registered model. Raises Unsupported for models of the configuration."""
    authorize_administrator()
    name = read_name(read_ollama_body())
    get_services().registration.delete(name, read_client_key())
    return Response(status=200)


@blueprint.post("/api/pull")
def pull() -> Response:
    """Report success for an available model: clients pull a model before they first use it."""
    authorize_reader()
    body = read_ollama_body()
    name = read_name(body)
    wants_stream = read_flag(body, "stream", True)
    error = None if is_served(name) else _NOTHING_TO_PULL.format(name=name)
    if wants_stream:
        return answer_lines(list_pull_statuses(error))
    if error:
        raise NotFound(error, param="model", code="model_not_found")
    return json_answer({"status": "success"})


@blueprint.post("/api/push")
def push() -> Response:
    """Refuse uploads of models."""
    authorize_reader()
    raise Unsupported(
        "The forwarder cannot push models; POST /api/create registers one with its remote_host."
    )


@blueprint.route("/api/blobs/<digest>", methods=["HEAD", "POST"])
def blob(digest: str) -> Response:
    """Refuse model files."""
    authorize_reader()
    raise Unsupported("The forwarder stores no model files; POST /api/create takes a remote_host.")


# -- authorization and bodies -------------------------------------------------------------------


def authorize_reader() -> None:
    """Raise Unauthorized unless the caller has a client or an administrator key."""
    authenticate_client(allows_administrators=True)


def authorize_administrator() -> None:
    require_administrator(get_services().settings)


def read_client() -> Client:
    """Return the authorized caller, for the upstreams' model lists.

    An administrator is no client: the key is None.
    """
    key = read_key()
    if not key or has_key(key, get_services().settings.admin_keys):
        return Client(None)
    try:
        return identify_client(key)
    except Unauthorized:  # a local administrator
        return Client(None)


def read_client_key() -> str | None:
    return read_client().key


def may_use(name: str) -> bool:
    """Return whether the caller's key allows the model."""
    grants = read_client().grants
    return grants is None or grants.allows_model(name)


def read_ollama_body() -> Json:
    reservation = request_hooks.current_context().reserve_memory()
    try:
        data = reservation.read_all(request.stream.read)
        reserve = partial(reservation.add_text, len(data))
        return read_body(data, get_services().settings.max_json_values, reserve)
    except HTTPException as error:  # too large, or cut off
        raise request_hooks.convert_http_error(error) from None


def check_model(remote: RegisteredModel, probes_now: bool) -> ProbeResult | None:
    """Return the result of a probe now, or else of the last one."""
    services = get_services()
    target = services.health_targets.make_target(remote)
    if target is None:
        return None
    if probes_now:
        return services.health.check_target(target, services.settings.ready_ttl)
    return services.health.get_last_result(target.name, target.upstream)


def list_create_statuses(created: RegistrationResult) -> Iterator[Json]:
    """Yield the status lines of a create request in Ollama's format."""
    if created.check is not None:
        yield {"status": f"verified {created.remote.host}", "found": created.report}
    elif created.provider:
        yield {"status": f"not verified, profile {created.provider}", "found": created.report}
    yield {"status": "writing manifest"}
    yield {"status": "success"}


def list_pull_statuses(error: str | None) -> Iterator[Json]:
    """Yield the status lines of a pull. In Ollama's API, an error follows the first line."""
    yield {"status": "pulling manifest"}
    if error:
        yield {"error": error}
        return
    yield {"status": "verifying sha256 digest"}
    yield {"status": "writing manifest"}
    yield {"status": "success"}


def answer_lines(values: Iterator[Json]) -> Response:
    """Return an NDJSON response of complete lines."""
    lines = b"".join(orjson.dumps(value) + b"\n" for value in values)
    return Response(lines, mimetype="application/x-ndjson")


# -- models -------------------------------------------------------------------------------------


def list_allowed_models() -> Iterator[ModelView]:
    """Yield the models that the caller may use."""
    grants = read_client().grants
    return (view for view in list_all_models() if grants is None or grants.allows_model(view.name))


def list_all_models() -> Iterator[ModelView]:
    """Yield the registered models, then those of the catalog, each name once.

    Names that do not resolve to an upstream, such as one that is too long, are skipped.
    """
    services = get_services()
    remotes = services.registry.list_models()
    yield from map(view_registered_model, remotes)
    seen = {remote.name for remote in remotes}
    for model in services.catalog.list_models(read_client_key(), (_CLIENT,)):
        if add_tag(model["id"]) not in seen:
            seen.add(add_tag(model["id"]))
            route = services.router.find_route(model["id"], _CLIENT, read_client_key())
            if route is not None:
                yield ollama_views.view_configured(model, route)


def view_registered_model(remote: RegisteredModel) -> ModelView:
    route = (
        None
        if remote.host
        else get_services().router.find_route(remote.name, _CLIENT, read_client_key())
    )
    return ollama_views.view_registered(remote, route)


def view_model(name: str) -> ModelView:
    services = get_services()
    if not may_use(name):
        raise make_not_found(name)
    remote = services.router.find_registered(name)
    if remote is not None:
        return view_registered_model(remote)
    model = services.catalog.find_served_model(name, _CLIENT, read_client_key())
    if model is None:
        raise make_not_found(name)
    return ollama_views.view_configured(model, find_chat_route(name))


def is_served(name: str) -> bool:
    """Return whether ``/api/chat`` accepts this model name."""
    services = get_services()
    if not may_use(name):
        return False
    try:
        registered = services.router.find_registered(name)
        return bool(
            registered or services.catalog.find_served_model(name, _CLIENT, read_client_key())
        )
    except NotFound:
        return False


def find_chat_route(name: str) -> Route:
    """Return the route of ``/api/chat`` for a model."""
    return get_services().router.resolve(name, _CLIENT, read_client_key())
