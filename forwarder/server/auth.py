"""Authentication of clients and administrators by API key, or by a local connection."""

from __future__ import annotations

import hmac
from typing import NamedTuple

from forwarder.config.settings import Settings
from forwarder.context.client_identity import ClientGrants
from forwarder.core.errors import Forbidden, StoreUnavailable, Unauthorized
from forwarder.server.browser_guard import is_local
from forwarder.server.extension import get_request, get_services

_KEY_HEADERS = ("api-key", "X-Api-Key")


class Client(NamedTuple):
    """An authenticated client; ``key`` identifies it in a request context.

    ``grants`` are the permissions of a key made at run time, None for other clients. ``sent_key``
    is that key as it was sent.
    """

    key: str | None
    grants: ClientGrants | None = None
    sent_key: str | None = None


def authenticate_client(allows_administrators: bool = False) -> Client:
    """Return the client that sent the request, as `identify_client` does."""
    return identify_client(read_key(), allows_administrators)


def identify_client(key: str, allows_administrators: bool = False) -> Client:
    """Return the client that sent ``key``; ``""`` means that it sent no key.

    With ``allows_administrators``, an administrator's key is accepted too.
    Raises Unauthorized if clients need a key and this is not a client's, and StoreUnavailable if
    the keys in the database cannot be read.
    """
    services = get_services()
    settings = services.settings
    if not key.isascii():
        raise make_unknown_key_error(key)
    if settings.api_keys and has_key(key, settings.api_keys):
        return Client(key)
    found = services.client_keys.authenticate(key)
    if found is not None:
        return Client(found.identity, found.grants, key)
    if not services.client_keys.are_required():
        return Client(key or None)
    if allows_administrators and has_key(key, settings.admin_keys):
        return Client(None)
    services.client_keys.check_loaded()
    raise make_unknown_key_error(key)


def require_client_key() -> str | None:
    """Return the client's identity in a request context, None without a key.

    Raises Unauthorized or StoreUnavailable.
    """
    return authenticate_client().key


def make_unknown_key_error(key: str) -> Unauthorized:
    return Unauthorized("Incorrect API key provided." if key else "You didn't provide an API key.")


def is_client_key(key: str) -> bool:
    """Return whether a client may send this key, of the settings or made at run time."""
    services = get_services()
    if has_key(key, services.settings.api_keys):
        return True
    try:
        return services.client_keys.authenticate(key) is not None
    except (Unauthorized, StoreUnavailable):
        return False


def require_administrator(settings: Settings) -> None:
    """Check that the request may change settings that all clients share.

    With FORWARDER_ADMIN_KEYS, the request needs one of these keys. Without, it must come from a
    local program (see `is_local`): web pages of other origins and proxied requests do not count.
    Raises Unauthorized for an unknown key or one that is not valid any more, Forbidden for a
    client's key or a remote request, StoreUnavailable if the keys in the database cannot be read.
    """
    key = read_key()
    if not settings.admin_keys:
        if not is_local(settings):
            raise Forbidden(
                "Without FORWARDER_ADMIN_KEYS, only requests from the local machine are allowed."
            )
    elif not has_key(key, settings.admin_keys):
        if is_client_key(key):
            raise Forbidden(
                "This request requires an administrator key. A client key is not enough."
            )
        get_services().client_keys.authenticate(key)  # raises if it was revoked or has expired
        raise make_unknown_key_error(key)


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
