"""``/v1/images/generations`` and ``/v1/images/edits``, passed through to an upstream.

The model's name selects the upstream if a route, an alias or a prefix matches it.
Otherwise the request goes to the first upstream that speaks Responses, or else to the first one.
The header ``X-Forwarder-Upstream`` selects any other.
"""

from __future__ import annotations

from flask import Blueprint, Response, request

from forwarder.core.errors import ShuttingDown
from forwarder.core.in_flight_requests import ShutdownInterrupt
from forwarder.core.types import Json
from forwarder.core.validate import STR, read_field
from forwarder.pipeline.upstream_calls import require_allowed_model
from forwarder.protocols.responses import RESPONSES
from forwarder.server import request_hooks
from forwarder.server.extension import get_services
from forwarder.server.files import find_selected_upstream, read_form, send_to_upstream
from forwarder.server.serving import read_json_body
from forwarder.upstream.client import Upstream
from forwarder.upstream.files import MultipartForm

blueprint = Blueprint("images", __name__)


@blueprint.post("/images/generations")
def generations() -> Response:
    """Generate images; with ``stream`` the upstream's events pass through."""
    return forward_image_request("/images/generations")


@blueprint.post("/images/edits")
def edits() -> Response:
    """Edit images, which the client sends as a form or, by URL or file id, as JSON."""
    return forward_image_request("/images/edits")


def forward_image_request(path: str) -> Response:
    """Send an image request to the upstream of its model, under the upstream's model name."""
    context = request_hooks.current_context()
    context.route = "images"
    request_hooks.authenticate(context)
    try:
        content: MultipartForm | Json
        if request.mimetype == "multipart/form-data":
            content = read_form()
            requested = content.fields.get("model")
            upstream, model = choose_upstream(requested, context.client_key)
            if model:
                content = content._replace(fields={**content.fields, "model": model})
        else:
            content = read_json_body(context)
            requested = read_field(content, "model", STR, "model")
            upstream, model = choose_upstream(requested, context.client_key)
            if model:
                content = {**content, "model": model}
        require_allowed_model(requested or "", context)
        context.model, context.requested_model = model, requested or ""
        return send_to_upstream(path, upstream, context, content)
    except ShutdownInterrupt:  # report the shutdown to the client as an error
        raise ShuttingDown from None


def choose_upstream(model: str | None, client_key: str | None) -> tuple[Upstream, str | None]:
    """Return the upstream for a model and the upstream's name for it.

    Raises InvalidRequest if the header names an unknown upstream.
    """
    services = get_services()
    selected, router = find_selected_upstream(), services.router
    if selected is not None:
        settings = selected.settings
        return selected, settings.aliases.get(model, model) if model else None
    if model and router.find_owner(model) is not None:
        route = router.resolve(model, RESPONSES.name, client_key)
        return services.upstreams.get_or_create(route.upstream), route.model
    default = services.find_upstream(
        router.default_file_upstream or services.settings.upstreams[0].name
    )
    assert default is not None
    return default, model
