"""``GET /metrics``, for Prometheus."""

from __future__ import annotations

from flask import Blueprint, Response, current_app

from forwarder.core.errors import NotFound, Unauthorized
from forwarder.observability.metrics import MetricsObserver
from forwarder.pipeline.gateway import Gateway
from forwarder.server.auth import has_key, read_bearer_token

blueprint = Blueprint("metrics", __name__)

_TYPE = "text/plain; version=0.0.4; charset=utf-8"


@blueprint.get("/metrics")
def metrics() -> Response:
    """What all workers have counted; for those with the key, where there is one."""
    bridge: Gateway = current_app.extensions["forwarder"]
    if not isinstance(bridge.metrics, MetricsObserver):
        raise NotFound("Nothing is counted here: FORWARDER_METRICS is false.")
    require_metrics_key(bridge.settings.metrics_key)
    return Response(bridge.metrics.render_text(), content_type=_TYPE)


def require_metrics_key(key: str | None) -> None:
    if key is not None and not has_key(read_bearer_token(), (key,)):
        raise Unauthorized("The metrics are not for everybody: FORWARDER_METRICS_KEY is set.")
