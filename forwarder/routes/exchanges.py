"""The ends of an exchange that are Flask's: what the request says of it, what the answer says."""

from __future__ import annotations

import hmac
import re
from urllib.parse import quote

from flask import Response, current_app, request
from werkzeug.exceptions import HTTPException

from forwarder.bridge import Bridge
from forwarder.errors import (
    ForwarderError,
    InternalError,
    InvalidRequest,
    MethodNotAllowed,
    NotFound,
    TooLarge,
    Unauthorized,
)
from forwarder.exchange import Exchange
from forwarder.mint import random_id
from forwarder.translate.terms import Ledger

_PLAIN = " !#$&'()*+-./:;<=>?@[]^_`{|}~"
_NAME_LIMIT = 64
_MOST_NAMES = 40
_ID = re.compile(r"[\x21-\x7e]{1,128}")


def begin(route: str) -> Exchange:
    """The exchange for the current request."""
    bridge: Bridge = current_app.extensions["forwarder"]
    settings = bridge.settings
    given = request.headers.get("X-Request-Id", "")
    return Exchange(
        id=given if _ID.fullmatch(given) else random_id("req"),
        route=route,
        ledger=Ledger(strict=settings.strict or _asks_strict()),
        log_sample=settings.log_sample,
        log_bodies=settings.log_bodies,
    )


def authorized(keys: tuple[str, ...]) -> str | None:
    """The client's key; raises Unauthorized when keys are configured and this is none of them."""
    scheme, _, key = request.headers.get("Authorization", "").partition(" ")
    key = key.strip() if scheme.lower() == "bearer" else request.headers.get("api-key", "")
    # Every key is compared, so that the time taken says nothing about any.
    known = [hmac.compare_digest(key.encode(), each.encode()) for each in keys]
    if (keys and not any(known)) or not key.isascii():
        raise Unauthorized(
            "Incorrect API key provided." if key else "You didn't provide an API key."
        )
    return key or None


def sign(answer: Response | ForwarderError, exchange: Exchange) -> None:
    """Put what the client should know of the exchange into an answer's headers."""
    for name, value in exchange.reply_headers.items():
        answer.headers.setdefault(name, value)
    answer.headers["X-Request-Id"] = exchange.id
    if exchange.ledger.dropped:
        answer.headers["X-Forwarder-Dropped"] = _listed(sorted(exchange.ledger.dropped))


def ours(error: HTTPException) -> ForwarderError:
    """One of Werkzeug's own refusals as ours."""
    return _OURS.get(error.code or 500, InvalidRequest)(error.description or error.name)


_OURS: dict[int, type[ForwarderError]] = {
    404: NotFound,
    405: MethodNotAllowed,
    413: TooLarge,
    500: InternalError,
}


def _asks_strict() -> bool:
    return request.headers.get("X-Forwarder-Strict", "").lower() in ("1", "true", "yes", "on")


def _listed(names: list[str]) -> str:
    """Names for a header: clients choose some of them, so they are quoted and kept short."""
    quoted = [quote(name[:_NAME_LIMIT], safe=_PLAIN) for name in names[:_MOST_NAMES]]
    more = len(names) - len(quoted)
    return ", ".join(quoted) + (f", and {more} more" if more else "")
