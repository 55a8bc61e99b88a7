"""Diagnostics of requests: the dry run and the captures.

- ``POST /forwarder/translate`` shows the translated request and its losses, and sends nothing.
- ``GET /forwarder/exchanges`` shows captured requests and responses to administrators.
"""

from __future__ import annotations

import re

from flask import Blueprint, Response, request

from forwarder.core.errors import InvalidRequest, NotFound
from forwarder.observability.capture.stores import CaptureStore
from forwarder.pipeline.dry_run import detect_protocol
from forwarder.server import request_hooks
from forwarder.server.auth import authenticate_client, require_administrator
from forwarder.server.base_paths import get_requested_style
from forwarder.server.extension import get_gateway, get_request, get_services
from forwarder.server.mixed_request_shapes import adapt_shape
from forwarder.server.serving import json_answer, read_json_body

blueprint = Blueprint("diagnostics", __name__)

MAX_LISTED_CAPTURES = 1000
"""Largest accepted ``limit``."""

MEMORY_HINT = "another worker may have it, since each worker keeps its own captures in memory"


@blueprint.post("/forwarder/translate")
def translate() -> Response:
    """Translate the client request in the body and return the upstream request.

    ``?from=`` names the API of the request: ``chat`` or ``responses`` if the body is ambiguous,
    ``messages``, ``ollama`` or ``ollama_generate`` for the APIs that no upstream speaks.
    """
    context = request_hooks.current_context()
    request_hooks.apply_client(context, authenticate_client())
    request_hooks.check_strictness(get_request())
    body = read_json_body(context)
    client = detect_protocol(body, request.args.get("from"))
    body = adapt_shape(body, client, context)
    style = get_requested_style(request, client)
    return json_answer(get_gateway().preview(client, body, style, context))


@blueprint.get("/forwarder/exchanges")
def list_captures() -> Response:
    """List the newest captures, newest first; ``?limit=`` defaults to 20.

    ``shared`` is true if the list covers all workers, false if it covers only this worker.
    """
    store = get_capture_store()
    listed = {
        "object": "list",
        "shared": store.is_shared,
        "data": store.list_newest(read_limit_argument()),
    }
    return forbid_caching(json_answer(listed))


@blueprint.get("/forwarder/exchanges/<path:name>")
def show_capture(name: str) -> Response:
    """Return a whole capture by its own id or by its request id."""
    store = get_capture_store()
    capture = store.find(name)
    if capture is None:
        where = "" if store.is_shared else f" here; {MEMORY_HINT}"
        raise NotFound(f"There is no exchange '{name[:64]}'{where}.")
    return forbid_caching(Response(capture, mimetype="application/json"))


def get_capture_store() -> CaptureStore:
    services = get_services()
    if services.capture is None:
        raise NotFound("Captures are disabled: FORWARDER_CAPTURE is off.")
    require_administrator(services.settings)
    return services.capture.store


def read_limit_argument() -> int:
    text = request.args.get("limit", "20")
    if not re.fullmatch(r"\d{1,4}", text, re.ASCII) or not 1 <= int(text) <= MAX_LISTED_CAPTURES:
        raise InvalidRequest(
            f"Invalid value for 'limit': expected a number from 1 to {MAX_LISTED_CAPTURES}.",
            param="limit",
            code="invalid_value",
        )
    return int(text)


def forbid_caching(answer: Response) -> Response:
    """Captures contain prompts, which no proxy may store."""
    answer.headers["Cache-Control"] = "no-store"
    return answer
