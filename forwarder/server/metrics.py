"""``GET /metrics``: metrics of all workers in Prometheus' text format."""

from __future__ import annotations

from flask import Blueprint, Response

from forwarder.core.errors import NotFound, Unauthorized
from forwarder.observability.metrics import MetricsObserver
from forwarder.server.auth import has_key, read_bearer_token
from forwarder.server.request_context import get_gateway

blueprint = Blueprint("metrics", __name__)

_TYPE = "text/plain; version=0.0.4; charset=utf-8"


@blueprint.get("/metrics")
def metrics() -> Response:
    """Return the metrics. Requires a bearer token if FORWARDER_METRICS_KEY is set."""
    gateway = get_gateway()
    if not isinstance(gateway.metrics, MetricsObserver):
        raise NotFound("Metrics are disabled: FORWARDER_METRICS is false.")
    key = gateway.settings.metrics_key
    if key is not None and not has_key(read_bearer_token(), (key,)):
        raise Unauthorized("Metrics require the bearer token of FORWARDER_METRICS_KEY.")
    return Response(gateway.metrics.render_text(), content_type=_TYPE)
