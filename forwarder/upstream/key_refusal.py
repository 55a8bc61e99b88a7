"""Detects that an upstream refuses the forwarder's key, and creates the error for the client.

Clients would retry a 502, and would read a 401 as a refusal of their own key.  So the error is a
403 that names the setting to correct and quotes the upstream.
"""

from __future__ import annotations

import re

from forwarder.config.settings import UpstreamSettings
from forwarder.core.error_kinds import ErrorKind
from forwarder.core.errors import UpstreamKeyRefused, UpstreamRefused
from forwarder.core.url_secrets import is_secret_name

_KEY_PATTERN = re.compile(
    r"[\w-]*\*{3,}[\w*-]*"  # some of its letters are masked
    r"|\b((sk|pk|rk|xai|gsk|nvapi|hf|r8|fw|csk|pplx)[-_]|AIza)[\w-]{10,}",
)

_MAX_QUOTED_CHARACTERS = 500
"""Characters of the upstream's message that are quoted."""


def is_key_refusal(refusal: UpstreamRefused) -> bool:
    """Return whether a refusal means that the upstream does not accept the key of the request."""
    return refusal.kind is ErrorKind.KEY_REFUSED


def make_key_refusal_error(
    refusal: UpstreamRefused, settings: UpstreamSettings
) -> UpstreamKeyRefused:
    """Create the error for the client; ``refusal`` must not contain secrets of ``settings``."""
    quote = _KEY_PATTERN.sub("***", refusal.message[: 2 * _MAX_QUOTED_CHARACTERS])[
        :_MAX_QUOTED_CHARACTERS
    ]
    return UpstreamKeyRefused(f"{describe_refused_key(settings)} It says: {quote}")


def describe_refused_key(settings: UpstreamSettings) -> str:
    """Return a sentence that names the upstream and the setting of its key."""
    name, suffix = settings.name, find_key_setting(settings)
    has_key = bool(settings.api_key) or suffix != "API_KEY"
    if settings.registered:
        problem = (
            "refuses the model's own key" if has_key else "wants a key, and the model has none"
        )
        return f"The remote of the model '{name}' {problem} ({_REGISTRATION_PARAMETERS[suffix]})."
    setting = settings.name_variable(suffix)
    endpoint = settings.endpoint
    if has_key and endpoint is not None:
        place = f"key {endpoint.key} of {setting}, at host {endpoint.host}"
        return f"The upstream '{name}' refuses one of the forwarder's keys ({place})."
    if has_key:
        return f"The upstream '{name}' refuses the forwarder's key ({setting})."
    return f"The upstream '{name}' wants a key, and none is configured: {setting} is not set."


_REGISTRATION_PARAMETERS = {
    "API_KEY": "remote_api_key",
    "HEADERS": "remote_headers",
    "QUERY": "remote_query",
}
"""The setting that holds a key -> the corresponding parameter of a registered model."""


def find_key_setting(settings: UpstreamSettings) -> str:
    """Return the setting with the key that is sent; an Authorization header replaces the key."""
    if "authorization" in map(str.lower, settings.headers):
        return "HEADERS"
    if settings.api_key:
        return "API_KEY"
    for suffix, values in (("HEADERS", settings.headers), ("QUERY", settings.query)):
        if any(map(is_secret_name, values)):
            return suffix
    return "API_KEY"
