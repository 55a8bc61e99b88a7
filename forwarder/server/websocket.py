"""The WebSocket endpoint of the Responses API: authorization and handshake.

The connection and each of its turns have a request context and a log record. Turns appear in
metrics, rate limits and traces like any request; the connection does not.
"""

from __future__ import annotations

import base64
import binascii
from typing import Any

from flask import Blueprint, request
from flask_sock import Sock

from forwarder.config.settings import Settings
from forwarder.core.errors import InvalidRequest, UpgradeRefused
from forwarder.models.codex_headers import make_handshake_headers
from forwarder.server.auth import require_client_key
from forwarder.server.browser_guard import check_origin
from forwarder.server.extension import get_gateway, get_services
from forwarder.server.websocket_library_fixes import LockedSocket, watch_events
from forwarder.server.websocket_turns import WebSocketSession

blueprint = Blueprint("websocket", __name__)

PING_SECONDS = 25.0
"""Seconds between pings. A client that then neither answers nor sends counts as disconnected."""

_SOCKETS = ("gunicorn.socket", "werkzeug.socket")


def build_socket_options(settings: Settings) -> dict[str, Any]:
    """Return the value of flask-sock's SOCK_SERVER_OPTIONS."""
    return {
        "ping_interval": PING_SECONDS,
        "max_message_size": settings.max_body,
        "receive_bytes": 2**16,
    }


@blueprint.before_request
def check_upgrade() -> None:
    """Reject invalid handshakes with an HTTP error. Later errors can only be sent as events."""
    key = require_client_key()
    socket_keys = [name for name in _SOCKETS if name in request.environ]
    if not socket_keys:
        raise UpgradeRefused("This server does not support WebSockets. Send a POST request.")
    check_origin(get_services().settings)  # browsers let any page open a WebSocket to any host
    check_handshake()
    services = get_services()
    headers = make_handshake_headers(
        request.headers.get,
        services.router,
        lambda settings: services.upstreams.get_or_create(settings).reports_reasoning,
        services.catalog.compute_etag(),
        key,
    )
    # Refuse compression: 3 MB may become 3 GB before the size check.
    request.environ.pop("HTTP_SEC_WEBSOCKET_EXTENSIONS", None)
    for name in socket_keys:
        request.environ[name] = LockedSocket(request.environ[name], PING_SECONDS, headers)


def check_handshake() -> None:
    version = request.headers.get("Sec-WebSocket-Version", "")
    try:
        key = base64.b64decode(request.headers.get("Sec-WebSocket-Key", ""), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if version != "13" or len(key) != 16:
        raise InvalidRequest(
            "The request is not a valid WebSocket handshake.", code="invalid_handshake"
        )


def websocket(ws: Any) -> None:
    """Serve the turns of one connection."""
    ws.ws.events = watch_events(ws.ws.events, ws.sock.start_message)
    WebSocketSession(ws, get_services(), get_gateway()).run()


Sock().route("/responses", bp=blueprint)(websocket)
