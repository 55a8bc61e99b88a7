"""``POST /forwarder/translate``: shows the translated request and its losses, sends nothing."""

from __future__ import annotations

from flask import Blueprint, Response, request

from forwarder.pipeline.dry_run import detect_protocol
from forwarder.server import request_context
from forwarder.server.auth import require_client_key
from forwarder.server.extension import get_gateway, get_services
from forwarder.server.openai import json_answer, read_json_body
from forwarder.server.reasoning_base_paths import get_requested_style
from forwarder.server.request_shape import adapt_shape

blueprint = Blueprint("dry_run", __name__)


@blueprint.post("/forwarder/translate")
def translate() -> Response:
    """Translate the client request in the body and return the upstream request.

    ``?from=`` names the API of the request: ``chat`` or ``responses`` if the body is ambiguous,
    ``ollama`` or ``ollama_generate`` for Ollama's APIs.
    """
    settings = get_services().settings
    context = request_context.current_context()
    context.client_key = require_client_key(settings.api_keys)
    request_context.check_strictness()
    body = read_json_body(context)
    client = detect_protocol(body, request.args.get("from"))
    body = adapt_shape(body, client, context)
    style = get_requested_style(request, client)
    return json_answer(get_gateway().preview(client, body, style, context))
