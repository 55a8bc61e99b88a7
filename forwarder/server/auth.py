"""Authentication of clients and administrators by API key, or by a local connection."""

from __future__ import annotations

import hmac

from forwarder.config.settings import Settings
from forwarder.core.errors import Forbidden, Unauthorized
from forwarder.server.browser_guard import is_local
from forwarder.server.extension import get_request

_KEY_HEADERS = ("api-key", "X-Api-Key")


def require_client_key(keys: tuple[str, ...]) -> str | None:
    """Return the client's key, or None without one.

    Raises Unauthorized if FORWARDER_API_KEYS is set and does not contain the key.
    """
    key = read_key()
    if (keys and not has_key(key, keys)) or not key.isascii():
        raise Unauthorized(
            "Incorrect API key provided." if key else "You didn't provide an API key."
        )
    return key or None


def require_administrator(settings: Settings) -> None:
    """Check that the request may change settings that all clients share.

    With FORWARDER_ADMIN_KEYS, the request needs one of these keys. Without, it must come from a
    local program (see `is_local`): web pages of other origins and proxied requests do not count.
    Raises Unauthorized for an unknown key, Forbidden for a client's key or a remote request.
    """
    key = read_key()
    admin_keys, client_keys = settings.admin_keys, settings.api_keys
    if not admin_keys:
        if not is_local(settings):
            raise Forbidden(
                "Without FORWARDER_ADMIN_KEYS, only requests from the local machine are allowed."
            )
    elif not has_key(key, admin_keys):
        if client_keys and has_key(key, client_keys):
            raise Forbidden(
                "This request requires an administrator key. A client key is not enough."
            )
        raise Unauthorized(
            "Incorrect API key provided." if key else "You didn't provide an API key."
        )


def read_key() -> str:
    """Return the API key in the form OpenAI, Azure or Anthropic clients send it, or ``""``."""
    return read_bearer_token() or next(
        filter(None, map(get_request().headers.get, _KEY_HEADERS)), ""
    )


def read_bearer_token() -> str:
    """Return the bearer token of the ``Authorization`` header, or ``""``."""
    scheme, _, key = get_request().headers.get("Authorization", "").partition(" ")
    return key.strip() if scheme.lower() == "bearer" else ""


def has_key(key: str, keys: tuple[str, ...]) -> bool:
    """Return whether ``keys`` contains ``key``. The run time does not depend on the match."""
    matches = [hmac.compare_digest(key.encode(), each.encode()) for each in keys]
    return any(matches)
