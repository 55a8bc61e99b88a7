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
from forwarder.models.codex_headers import describe_connection
from forwarder.pipeline.gateway import Bridge
from forwarder.server.auth import authorized
from forwarder.server.browser_guard import check_origin
from forwarder.server.websocket_socket import Whole
from forwarder.server.websocket_turns import Connection

blueprint = Blueprint("websocket", __name__)

PING = 25.0
"""Seconds between two pings; a client that does not answer one is gone."""

_SOCKETS = ("gunicorn.socket", "werkzeug.socket")


def options(settings: Settings) -> dict[str, Any]:
    """What flask-sock is told of every connection."""
    return {
        "ping_interval": PING,
        "max_message_size": settings.max_body,
        "receive_bytes": 2**16,
    }


@blueprint.before_request
def welcome() -> None:
    """Refuse by a status what cannot become a connection; afterwards there are only events."""
    key = authorized(_bridge().settings.api_keys)
    found = [name for name in _SOCKETS if name in request.environ]
    if not found:
        raise UpgradeRefused("This server has no WebSockets; send a POST.")
    check_origin(_bridge().settings)  # a browser lets any page open a WebSocket to anywhere
    _check_handshake()
    bridge = _bridge()
    headers = describe_connection(
        request.headers.get,
        bridge.router,
        lambda settings: bridge.upstreams.of(settings).includes_reasoning,
        bridge.catalog.etag(),
        key,
    )
    # Of compressed messages, 3 MB become 3 GB before anybody can look at their size.
    request.environ.pop("HTTP_SEC_WEBSOCKET_EXTENSIONS", None)
    for name in found:
        request.environ[name] = Whole(request.environ[name], PING, headers)


def _check_handshake() -> None:
    version = request.headers.get("Sec-WebSocket-Version", "")
    if version != "13" or not _is_key(request.headers.get("Sec-WebSocket-Key", "")):
        raise InvalidRequest("This is no WebSocket handshake.", code="invalid_handshake")


def _is_key(text: str) -> bool:
    try:
        return len(base64.b64decode(text, validate=True)) == 16
    except (binascii.Error, ValueError):
        return False


def websocket(ws: Any) -> None:
    """Responses, each a turn on one connection."""
    Connection(ws, _bridge()).serve()


Sock().route("/responses", bp=blueprint)(websocket)


def _bridge() -> Bridge:
    bridge: Bridge = current_app.extensions["forwarder"]
    return bridge
