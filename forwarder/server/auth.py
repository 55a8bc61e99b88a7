"""Who may ask: clients by their keys, and administrators by theirs or by sitting at the machine."""

from __future__ import annotations

import hmac

from flask import request

from forwarder.config.settings import Settings
from forwarder.core.errors import Forbidden, Unauthorized
from forwarder.server.browser_guard import is_local

_KEY_HEADERS = ("api-key", "X-Api-Key")


def require_client_key(keys: tuple[str, ...]) -> str | None:
    """The client's key; raises Unauthorized when keys are configured and this is none of them."""
    key = read_key()
    if (keys and not has_key(key, keys)) or not key.isascii():
        raise Unauthorized(
            "Incorrect API key provided." if key else "You didn't provide an API key."
        )
    return key or None


def require_administrator(settings: Settings) -> None:
    """Return if whoever asks may change what all clients share.

    With administrators' keys that takes one of them.  Without, it takes to sit at the machine: a
    browser there that runs a stranger's page does not, nor does what a proxy brings from afar.
    Raises Unauthorized without a key that is known, Forbidden with a client's.
    """
    key = read_key()
    admin_keys, client_keys = settings.admin_keys, settings.api_keys
    if not admin_keys:
        if not is_local(settings):
            raise Forbidden(
                "Only from this machine itself, as long as FORWARDER_ADMIN_KEYS is not set."
            )
    elif not has_key(key, admin_keys):
        if client_keys and has_key(key, client_keys):
            raise Forbidden("This takes an administrator's key, not a client's.")
        raise Unauthorized(
            "Incorrect API key provided." if key else "You didn't provide an API key."
        )


def read_key() -> str:
    """The key of a request as OpenAI's, Azure's or Anthropic's clients send it, or ``""``."""
    return read_bearer_token() or next(filter(None, map(request.headers.get, _KEY_HEADERS)), "")


def read_bearer_token() -> str:
    """The key of the ``Authorization`` header, or ``""``."""
    scheme, _, key = request.headers.get("Authorization", "").partition(" ")
    return key.strip() if scheme.lower() == "bearer" else ""


def has_key(key: str, keys: tuple[str, ...]) -> bool:
    """Every key is compared, so that the time taken says nothing about any."""
    known = [hmac.compare_digest(key.encode(), each.encode()) for each in keys]
    return any(known)
