"""Is the forwarder alive, and are its upstreams there?"""

from __future__ import annotations

from flask import Blueprint, Response, current_app, jsonify, request

from forwarder.bridge import Bridge

blueprint = Blueprint("health", __name__)


@blueprint.get("/health")
def health() -> Response:
    """Alive: the process answers."""
    return jsonify(status="ok")


@blueprint.get("/ready")
def ready() -> tuple[Response, int]:
    """Ready: at least one upstream can be reached; the body says which.

    ``?verbose`` adds whose profile each has, and what was learned beside it.
    """
    bridge: Bridge = current_app.extensions["forwarder"]
    states = bridge.catalog.states(verbose="verbose" in request.args)
    able = any(state["reachable"] for state in states.values())
    body = jsonify(status="ok" if able else "unavailable", upstreams=states)
    return body, 200 if able else 503
