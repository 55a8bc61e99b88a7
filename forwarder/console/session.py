"""The operator's session: signing in with an administrator key sets an encrypted cookie.

With FORWARDER_ADMIN_KEYS, a browser signs in once with one of these keys. The cookie holds the time
at which the session ends and a digest of the key, so that removing the key from the settings ends
its sessions. Without FORWARDER_ADMIN_KEYS, there is no session: the pages accept local requests
only, like the other administration routes.

Requests that change something must come from the console's own pages (see `require_same_origin`).
The cookie is also sent to other ports of the same host, since ports are not part of a site.
"""

from __future__ import annotations

import hashlib
import time

from werkzeug.wrappers import Response

from forwarder.config.settings import Settings
from forwarder.core.errors import Forbidden, Unauthorized
from forwarder.server.auth import has_key, read_key, require_administrator
from forwarder.server.browser_guard import is_foreign_origin
from forwarder.server.extension import get_request, get_services

COOKIE_NAME = "forwarder_console"
SESSION_SECONDS = 12 * 3600

_SEAL_OWNER = "console session"
_PATH = "/console"


def require_operator() -> None:
    """Check that the request comes from a signed-in browser or carries an administrator key.

    Raises Unauthorized if the operator has to sign in, Forbidden if the request can never be
    allowed.
    """
    services = get_services()
    if services.settings.admin_keys and not read_key():
        if not has_session(services.settings):
            raise Unauthorized("Sign in with an administrator key.")
    else:
        require_administrator(services.settings)
    if get_request().method not in ("GET", "HEAD"):
        require_same_origin(services.settings)


def require_same_origin(settings: Settings) -> None:
    """Raise Forbidden if a page of another origin sent the request, even one of the same site."""
    site = get_request().headers.get("Sec-Fetch-Site", "none")
    origin = get_request().headers.get("Origin")
    if site not in ("same-origin", "none") or is_foreign_origin(origin, settings):
        raise Forbidden("This request must come from a page of the console.")


def has_session(settings: Settings) -> bool:
    """Return whether the request has the cookie of a session that has not ended."""
    return find_session_end(settings) is not None


def find_session_end(settings: Settings) -> float | None:
    """Return the Unix time at which the session of the request ends, or None without a session."""
    sealed = get_request().cookies.get(COOKIE_NAME, "")
    session = get_services().cipher.decrypt(sealed, _SEAL_OWNER)
    if not isinstance(session, dict):
        return None
    digests = tuple(digest_key(key) for key in settings.admin_keys)
    until = float(session.get("until", 0))
    return until if until > time.time() and has_key(str(session.get("key")), digests) else None


def sign_in(response: Response, key: str) -> None:
    """Start a session for this administrator key with a cookie in ``response``.

    Raises Unauthorized for a key that is not an administrator's.
    """
    services = get_services()
    if not has_key(key, services.settings.admin_keys):
        raise Unauthorized("This is not an administrator key.")
    session = {"until": time.time() + SESSION_SECONDS, "key": digest_key(key)}
    response.set_cookie(
        COOKIE_NAME,
        services.cipher.encrypt(session, _SEAL_OWNER),
        max_age=SESSION_SECONDS,
        path=_PATH,
        secure=is_encrypted(services.settings),
        httponly=True,
        samesite="Strict",
    )


def sign_out(response: Response) -> None:
    """Remove the session cookie."""
    response.delete_cookie(COOKIE_NAME, path=_PATH, httponly=True, samesite="Strict")


def is_encrypted(settings: Settings) -> bool:
    """Return whether browsers reach the forwarder by HTTPS, directly or through a proxy."""
    public = (settings.public_url or "").lower()
    return get_request().is_secure or public.startswith("https://")


def digest_key(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()
