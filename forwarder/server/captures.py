"""``GET /forwarder/exchanges``: the exchanges that were captured, for administrators."""

from __future__ import annotations

import re

from flask import Blueprint, Response, current_app, request

from forwarder.core.errors import InvalidRequest, NotFound
from forwarder.observability.capture.stores import Shelf
from forwarder.pipeline.gateway import Bridge
from forwarder.server.auth import administers
from forwarder.server.openai import json_answer

blueprint = Blueprint("captured", __name__)

_MOST = 1000
"""How many a list may have."""

_HERE = "another worker may have it: in memory, each has its own"


@blueprint.get("/forwarder/exchanges")
def captured() -> Response:
    """The newest exchanges, the newest first; ``?limit=`` says how many, 20 unless told.

    ``shared`` says whether they are those of all workers, or of the one that answers.
    """
    shelf = _shelf()
    listed = {"object": "list", "shared": shelf.shared, "data": shelf.newest(_limit())}
    return _secretly(json_answer(listed))


@blueprint.get("/forwarder/exchanges/<path:name>")
def captured_one(name: str) -> Response:
    """A whole exchange, by its id or by its request's."""
    shelf = _shelf()
    said = shelf.find(name)
    if said is None:
        where = "" if shelf.shared else f" here; {_HERE}"
        raise NotFound(f"There is no exchange '{name[:64]}'{where}.")
    return _secretly(Response(said, mimetype="application/json"))


def _shelf() -> Shelf:
    bridge: Bridge = current_app.extensions["forwarder"]
    if bridge.capture is None:
        raise NotFound("No exchange is captured here: FORWARDER_CAPTURE is off.")
    administers(bridge.settings)
    return bridge.capture.shelf


def _limit() -> int:
    text = request.args.get("limit", "20")
    if not re.fullmatch(r"\d{1,4}", text, re.ASCII) or not 1 <= int(text) <= _MOST:
        raise InvalidRequest(
            f"Invalid value for 'limit': expected a number from 1 to {_MOST}.",
            param="limit",
            code="invalid_value",
        )
    return int(text)


def _secretly(answer: Response) -> Response:
    """Prompts stand in it: no proxy keeps them."""
    answer.headers["Cache-Control"] = "no-store"
    return answer
