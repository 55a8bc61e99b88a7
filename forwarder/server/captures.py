"""``GET /forwarder/exchanges``: the exchanges that were captured, for administrators."""

from __future__ import annotations

import re

from flask import Blueprint, Response, current_app, request

from forwarder.core.errors import InvalidRequest, NotFound
from forwarder.observability.capture.stores import CaptureStore
from forwarder.pipeline.gateway import Gateway
from forwarder.server.auth import require_administrator
from forwarder.server.openai import json_answer

blueprint = Blueprint("captured", __name__)

MAX_LISTED_CAPTURES = 1000
"""How many a list may have."""

MEMORY_HINT = "another worker may have it: in memory, each has its own"


@blueprint.get("/forwarder/exchanges")
def list_captures() -> Response:
    """The newest exchanges, the newest first; ``?limit=`` says how many, 20 unless told.

    ``shared`` says whether they are those of all workers, or of the one that answers.
    """
    shelf = get_capture_store()
    listed = {
        "object": "list",
        "shared": shelf.is_shared,
        "data": shelf.list_newest(read_limit_argument()),
    }
    return forbid_caching(json_answer(listed))


@blueprint.get("/forwarder/exchanges/<path:name>")
def show_capture(name: str) -> Response:
    """A whole exchange, by its id or by its request's."""
    shelf = get_capture_store()
    said = shelf.find(name)
    if said is None:
        where = "" if shelf.is_shared else f" here; {MEMORY_HINT}"
        raise NotFound(f"There is no exchange '{name[:64]}'{where}.")
    return forbid_caching(Response(said, mimetype="application/json"))


def get_capture_store() -> CaptureStore:
    bridge: Gateway = current_app.extensions["forwarder"]
    if bridge.capture is None:
        raise NotFound("No exchange is captured here: FORWARDER_CAPTURE is off.")
    require_administrator(bridge.settings)
    return bridge.capture.store


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
    """Prompts stand in it: no proxy keeps them."""
    answer.headers["Cache-Control"] = "no-store"
    return answer
