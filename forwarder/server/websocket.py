"""The WebSocket of the Responses API: the handshake, and who may have one.

A connection is an exchange of its own, for the log; so is each of its turns, which are counted,
limited and traced as any request is.
"""

from __future__ import annotations

import base64
import binascii
from typing import Any

from flask import Blueprint, current_app, request
from flask_sock import Sock

from forwarder.config.settings import Settings
from forwarder.core.errors import InvalidRequest, UpgradeRefused
from forwarder.models.codex_headers import make_handshake_headers
from forwarder.pipeline.gateway import Gateway
from forwarder.server.auth import require_client_key
from forwarder.server.browser_guard import check_origin
from forwarder.server.websocket_socket import LockedSocket
from forwarder.server.websocket_turns import WebSocketSession

blueprint = Blueprint("websocket", __name__)

PING_SECONDS = 25.0
"""Seconds between two pings; a client that does not answer one is gone."""

_SOCKETS = ("gunicorn.socket", "werkzeug.socket")


def build_socket_options(settings: Settings) -> dict[str, Any]:
    """What flask-sock is told of every connection."""
    return {
        "ping_interval": PING_SECONDS,
        "max_message_size": settings.max_body,
        "receive_bytes": 2**16,
    }


@blueprint.before_request
def check_upgrade() -> None:
    """Refuse by a status what cannot become a connection; afterwards there are only events."""
    key = require_client_key(get_gateway().settings.api_keys)
    found = [name for name in _SOCKETS if name in request.environ]
    if not found:
        raise UpgradeRefused("This server has no WebSockets; send a POST.")
    check_origin(get_gateway().settings)  # a browser lets any page open a WebSocket to anywhere
    check_handshake()
    bridge = get_gateway()
    headers = make_handshake_headers(
        request.headers.get,
        bridge.router,
        lambda settings: bridge.upstreams.get_or_create(settings).includes_reasoning,
        bridge.catalog.compute_etag(),
        key,
    )
    # Of compressed messages, 3 MB become 3 GB before anybody can look at their size.
    request.environ.pop("HTTP_SEC_WEBSOCKET_EXTENSIONS", None)
    for name in found:
        request.environ[name] = LockedSocket(request.environ[name], PING_SECONDS, headers)


def check_handshake() -> None:
    version = request.headers.get("Sec-WebSocket-Version", "")
    if version != "13" or not is_websocket_key(request.headers.get("Sec-WebSocket-Key", "")):
        raise InvalidRequest("This is no WebSocket handshake.", code="invalid_handshake")


def is_websocket_key(text: str) -> bool:
    try:
        return len(base64.b64decode(text, validate=True)) == 16
    except (binascii.Error, ValueError):
        return False


def websocket(ws: Any) -> None:
    """Responses, each a turn on one connection."""
    WebSocketSession(ws, get_gateway()).run()


Sock().route("/responses", bp=blueprint)(websocket)


def get_gateway() -> Gateway:
    bridge: Gateway = current_app.extensions["forwarder"]
    return bridge
