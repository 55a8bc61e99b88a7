"""Routes of OpenAI's APIs: chat completions, responses, compaction, embeddings and models."""

from __future__ import annotations

from flask import Blueprint, Response, request

from forwarder.context.client_identity import ClientGrants
from forwarder.context.request_context import RequestContext
from forwarder.core.errors import NotFound, UpgradeRefused, shorten_value
from forwarder.core.types import EventStream, Json
from forwarder.protocols.registry import find_api
from forwarder.server.auth import authenticate_client
from forwarder.server.extension import get_gateway, get_services
from forwarder.server.mixed_request_shapes import adapt_shape
from forwarder.server.serving import json_answer, serve, serve_embeddings, serve_whole_answer

blueprint = Blueprint("openai", __name__)


@blueprint.post("/chat/completions")
def chat_completions() -> Response:
    """Create a chat completion."""
    return serve("chat")


@blueprint.post("/responses")
def responses() -> Response:
    """Create a response."""
    return serve("responses")


@blueprint.post("/responses/compact")
def compact() -> Response:
    """Compact a conversation: user messages stay, one encrypted item replaces the rest."""
    return serve_whole_answer(stream_compaction)


def stream_compaction(body: Json, context: RequestContext) -> EventStream:
    return get_gateway().compact(adapt_shape(body, "responses", context), context)


@blueprint.post("/embeddings")
def embeddings() -> Response:
    """Create embeddings with an upstream that supports them."""
    return serve_embeddings("embeddings")


@blueprint.get("/responses")
def upgrade() -> Response:
    """Answer 426 to a GET without WebSocket handshake. Codex then falls back to HTTP."""
    raise UpgradeRefused("Send a POST request or a WebSocket handshake.")


@blueprint.get("/models")
def models() -> Response:
    """List all models that a request can name. Codex (``client_version``) gets its own list too."""
    client = authenticate_client()
    catalog = get_services().catalog
    etag = catalog.compute_etag()  # before the list: a model registered meanwhile changes it
    listed: Json = {
        "object": "list",
        "data": select_allowed(catalog.list_models(client.key), "id", client.grants),
    }
    make_page = find_api(request.path, request.headers.__contains__).make_model_page
    if make_page is not None:
        return json_answer(make_page(listed["data"], request.args))
    if "client_version" in request.args:
        entries = catalog.list_codex_entries(client.key)
        listed["models"] = select_allowed(entries, "slug", client.grants)
    answer = json_answer(listed)
    answer.headers["ETag"] = etag
    return answer


@blueprint.get("/models/<path:model>")
def model(model: str) -> Response:
    """Return one model. It need not be listed: an alias or a pattern may match it."""
    client = authenticate_client()
    is_allowed = client.grants is None or client.grants.allows_model(model)
    entry = get_services().catalog.find_model(model, client.key) if is_allowed else None
    if entry is None:
        message = f"The model '{shorten_value(model)}' does not exist."
        raise NotFound(message, param="model", code="model_not_found")
    return json_answer(find_api(request.path, request.headers.__contains__).make_model_entry(entry))


def select_allowed(models: list[Json], name: str, grants: ClientGrants | None) -> list[Json]:
    """Return the models that a client may use; ``name`` is the field with their names."""
    if grants is None:
        return models
    return [model for model in models if grants.allows_model(model[name])]
