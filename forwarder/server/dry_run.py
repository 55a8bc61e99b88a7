"""``POST /forwarder/translate``: what a request would become, and what of it; nobody is called."""

from __future__ import annotations

from flask import Blueprint, Response, current_app, request

from forwarder.pipeline.dry_run import detect_protocol
from forwarder.pipeline.gateway import Gateway
from forwarder.server import request_context
from forwarder.server.auth import require_client_key
from forwarder.server.openai import json_answer, read_json_body
from forwarder.server.reasoning_base_paths import get_requested_style
from forwarder.server.request_shape import adapt_shape

blueprint = Blueprint("dry_run", __name__)


@blueprint.post("/forwarder/translate")
def translate() -> Response:
    """The upstream's request for a client's: the body is that request, as it would be sent.

    ``?from=chat`` or ``?from=responses`` says which API it is for, where that cannot be seen; and
    ``?from=ollama`` or ``?from=ollama_generate`` that it is for one of Ollama's.
    """
    bridge: Gateway = current_app.extensions["forwarder"]
    exchange = request_context.current_context()
    exchange.client_key = require_client_key(bridge.settings.api_keys)
    request_context.check_strictness()
    body = read_json_body(exchange)
    client = detect_protocol(body, request.args.get("from"))
    body = adapt_shape(body, client, exchange)
    style = get_requested_style(request, client)
    return json_answer(bridge.preview(client, body, style, exchange))
