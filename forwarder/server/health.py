"""Liveness and readiness probes: ``GET /health`` and ``GET /ready``.

Probes run every few seconds, so successful probes are logged at DEBUG only.
"""

from __future__ import annotations

import logging
from typing import Any

from flask import Blueprint, Response, jsonify, request

from forwarder.config.settings import Settings
from forwarder.core.types import Json
from forwarder.server import request_hooks
from forwarder.server.auth import authenticate_client, require_administrator
from forwarder.server.browser_guard import is_local
from forwarder.server.extension import get_services
from forwarder.services import Services
from forwarder.upstream.resilience.breaker import OPEN

blueprint = Blueprint("health", __name__)


@blueprint.before_request
def log_at_debug() -> None:
    """Log this request at DEBUG."""
    request_hooks.current_context().log_level = logging.DEBUG


@blueprint.get("/health")
def health() -> Response:
    """Liveness: return 200 while the process answers."""
    return jsonify(status="ok")


@blueprint.get("/ready")
def ready() -> tuple[Response, int]:
    """Readiness: 200 if at least one upstream is reachable and its breaker is not open, else 503.

    The body lists the upstreams. An unreachable store makes the status ``degraded``, since the
    forwarder still serves requests that need no store. ``?verbose`` adds the provider profile,
    learned quirks and breaker state of each upstream and the health of the registered models, for
    administrators and clients with a key.
    """
    services = get_services()
    verbose = "verbose" in request.args
    if verbose:
        authorize_verbose(services.settings)
    states = describe_upstreams(services, verbose)
    is_ready = any(state["reachable"] for state in states.values())
    store = describe_store(services)
    status = "unavailable"
    if is_ready:
        status = "degraded" if "error" in store else "ok"
    verbose_fields = {"models": add_health(services, states)} if verbose else {}
    body = jsonify(status=status, upstreams=states, store=store, **verbose_fields)
    return body, 200 if is_ready else 503


def describe_upstreams(services: Services, verbose: bool = False) -> dict[str, Any]:
    """Return the state of each configured upstream by name. Asks upstreams of unknown state."""
    states = services.catalog.describe_states(verbose)
    for name, resilience in services.resilience.describe_states().items():
        if name not in states:  # a registered model's upstream
            continue
        if resilience["breaker"] == OPEN:
            states[name] |= {"reachable": False, "error": "Its breaker is open."}
        if verbose:
            states[name] |= {"resilience": resilience}
    return states


def authorize_verbose(settings: Settings) -> None:
    """Raise Unauthorized or Forbidden unless the caller is an administrator or has a client key."""
    if not get_services().client_keys.are_required():
        require_administrator(settings)
    elif settings.admin_keys or not is_local(settings):
        authenticate_client(allows_administrators=True)


def describe_store(services: Services) -> Json:
    """Return the kind of the store and whether it can be read and written."""
    if services.database is None:
        return {"kind": "none"}
    error = services.database.find_error(services.settings.ready_ttl)
    state = {"kind": services.database.kind, "reachable": error is None}
    return state if error is None else {**state, "error": error}


def add_health(services: Services, states: Json) -> Json:
    """Add the health of upstreams to ``states``, and return registered model -> health."""
    resilience_states = services.resilience.describe_states()
    models: Json = {}
    for name, check in services.health.check_all(services.settings.ready_ttl).items():
        if name in states:
            states[name] |= {"health": check.to_json()}
        else:
            models[name] = {**check.to_json(), "resilience": resilience_states.get(name)}
    for remote in services.registry.list_models():
        if remote.locked:
            models[remote.name] = {
                "error": "The forwarder cannot decrypt its key: the secret is missing."
            }
    return models
