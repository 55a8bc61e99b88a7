"""``GET /metrics``: metrics of all workers in Prometheus' text format."""

from __future__ import annotations

from flask import Blueprint, Response

from forwarder.core.errors import NotFound, Unauthorized
from forwarder.observability.metrics import MetricsObserver
from forwarder.server.auth import has_key, read_bearer_token
from forwarder.server.extension import get_services

blueprint = Blueprint("metrics", __name__)

_TYPE = "text/plain; version=0.0.4; charset=utf-8"


@blueprint.get("/metrics")
def metrics() -> Response:
    """Return the metrics. Requires a bearer token if FORWARDER_METRICS_KEY is set."""
    services = get_services()
    if not isinstance(services.metrics, MetricsObserver):
        raise NotFound("Metrics are disabled: FORWARDER_METRICS is false.")
    key = services.settings.metrics_key
    if key is not None and not has_key(read_bearer_token(), (key,)):
        raise Unauthorized("Metrics require the bearer token of FORWARDER_METRICS_KEY.")
    return Response(services.metrics.render_text(), content_type=_TYPE)
