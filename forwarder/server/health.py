"""Is the forwarder alive, and are its upstreams there?

Those who ask do so every few seconds, so only the log's debug level tells of it while all is well.
"""

from __future__ import annotations

import logging

from flask import Blueprint, Response, current_app, jsonify, request

from forwarder.config.settings import Settings
from forwarder.core.types import Json
from forwarder.pipeline.gateway import Gateway
from forwarder.server import request_context
from forwarder.server.auth import require_administrator, require_client_key
from forwarder.server.browser_guard import is_local
from forwarder.upstream.resilience.breaker import OPEN

blueprint = Blueprint("health", __name__)


@blueprint.before_request
def log_at_debug() -> None:
    """Let the exchange's line be one for debugging."""
    request_context.current_context().log_level = logging.DEBUG


@blueprint.get("/health")
def health() -> Response:
    """Alive: the process answers."""
    return jsonify(status="ok")


@blueprint.get("/ready")
def ready() -> tuple[Response, int]:
    """Ready: at least one upstream can be reached and its breaker is not open; the body says which.

    A store that does not answer makes it ``degraded``: requests that need no store are served.
    ``?verbose`` adds whose profile each has, what was learned beside it, and how it stands, and how
    the registered models fare, for administrators and clients with a key.
    """
    bridge: Gateway = current_app.extensions["forwarder"]
    verbose = "verbose" in request.args
    if verbose:
        authorize_verbose(bridge.settings)
    states = bridge.catalog.describe_states(verbose)
    for name, standing in bridge.resilience.describe_states().items():
        if name not in states:  # it was registered
            continue
        if standing["breaker"] == OPEN:
            states[name] |= {"reachable": False, "error": "Its breaker is open."}
        if verbose:
            states[name] |= {"resilience": standing}
    able = any(state["reachable"] for state in states.values())
    store = describe_store(bridge)
    status = "unavailable" if not able else "degraded" if "error" in store else "ok"
    told = {"models": describe_models(bridge, states)} if verbose else {}
    body = jsonify(status=status, upstreams=states, store=store, **told)
    return body, 200 if able else 503


def authorize_verbose(settings: Settings) -> None:
    """Raise Unauthorized or Forbidden unless an administrator asks, or a client with a key."""
    if not settings.api_keys:
        require_administrator(settings)
    elif settings.admin_keys or not is_local(settings):
        require_client_key((*settings.api_keys, *settings.admin_keys))


def describe_store(bridge: Gateway) -> Json:
    """What kind of store there is, and whether it can be read and written."""
    if bridge.database is None:
        return {"kind": "none"}
    error = bridge.database.find_error(bridge.settings.ready_ttl)
    state = {"kind": bridge.database.kind, "reachable": error is None}
    return state if error is None else {**state, "error": error}


def describe_models(bridge: Gateway, states: Json) -> Json:
    """What is registered -> how it fares; beside it, the upstreams' states get theirs."""
    standings = bridge.resilience.describe_states()
    found: Json = {}
    for name, check in bridge.health.check_all(bridge.settings.ready_ttl).items():
        if name in states:
            states[name] |= {"health": check.to_json()}
        else:
            found[name] = {**check.to_json(), "resilience": standings.get(name)}
    for remote in bridge.registry.list_models():
        if remote.locked:
            found[remote.name] = {"error": "Its key cannot be opened: the secret is missing."}
    return found
