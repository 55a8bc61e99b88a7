"""``GET /metrics``, for Prometheus."""

from __future__ import annotations

from flask import Blueprint, Response, current_app

from forwarder.core.errors import NotFound, Unauthorized
from forwarder.observability.metrics import Metrics
from forwarder.pipeline.gateway import Bridge
from forwarder.server.auth import bearer, is_one_of

blueprint = Blueprint("metrics", __name__)

_TYPE = "text/plain; version=0.0.4; charset=utf-8"


@blueprint.get("/metrics")
def metrics() -> Response:
    """What all workers have counted; for those with the key, where there is one."""
    bridge: Bridge = current_app.extensions["forwarder"]
    if not isinstance(bridge.metrics, Metrics):
        raise NotFound("Nothing is counted here: FORWARDER_METRICS is false.")
    _check(bridge.settings.metrics_key)
    return Response(bridge.metrics.text(), content_type=_TYPE)


def _check(key: str | None) -> None:
    if key is not None and not is_one_of(bearer(), (key,)):
        raise Unauthorized("The metrics are not for everybody: FORWARDER_METRICS_KEY is set.")
