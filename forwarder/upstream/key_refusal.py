"""An upstream that refuses the forwarder's key: how it is recognised, and how clients hear of it.

Clients retry a 502 and take a 401 for their own key.  So the answer is a 403 that names the setting
to correct and quotes the upstream.
"""

from __future__ import annotations

import re

from forwarder.config.settings import UpstreamSettings
from forwarder.core.error_kinds import ErrorKind
from forwarder.core.errors import UpstreamKeyRefused, UpstreamRefused
from forwarder.core.url_secrets import is_telling

_KEY_PATTERN = re.compile(
    r"[\w-]*\*{3,}[\w*-]*"  # some of its letters are masked
    r"|\b((sk|pk|rk|xai|gsk|nvapi|hf|r8|fw|csk|pplx)[-_]|AIza)[\w-]{10,}",
)

_MAX_QUOTED_CHARACTERS = 500
"""Characters of the upstream's own words that are quoted."""


def is_key_refusal(refusal: UpstreamRefused) -> bool:
    """Does a refusal mean that the upstream does not accept the key it was asked with?"""
    return refusal.kind is ErrorKind.KEY_REFUSED


def describe_key_refusal(
    refusal: UpstreamRefused, settings: UpstreamSettings
) -> UpstreamKeyRefused:
    """The error for the client; ``refusal`` must be free of the secrets of ``settings``."""
    words = _KEY_PATTERN.sub("***", refusal.message[: 2 * _MAX_QUOTED_CHARACTERS])[
        :_MAX_QUOTED_CHARACTERS
    ]
    return UpstreamKeyRefused(f"{describe_refused_key(settings)} It says: {words}")


def describe_refused_key(settings: UpstreamSettings) -> str:
    """A sentence that names the upstream and the setting of its key."""
    name, suffix = settings.name, find_key_setting(settings)
    has_key = bool(settings.api_key) or suffix != "API_KEY"
    if settings.registered:
        whose = "refuses the model's own key" if has_key else "wants a key, and the model has none"
        return f"The remote of the model '{name}' {whose} ({_REGISTRATION_PARAMETERS[suffix]})."
    setting = settings.name_variable(suffix)
    if has_key:
        return f"The upstream '{name}' refuses the forwarder's key ({setting})."
    return f"The upstream '{name}' wants a key, and none is configured: {setting} is not set."


_REGISTRATION_PARAMETERS = {
    "API_KEY": "remote_api_key",
    "HEADERS": "remote_headers",
    "QUERY": "remote_query",
}
"""The setting that holds a key -> the parameter with which a model is registered."""


def find_key_setting(settings: UpstreamSettings) -> str:
    """The setting that holds the key that is sent; an Authorization header replaces the key."""
    if "authorization" in map(str.lower, settings.headers):
        return "HEADERS"
    if settings.api_key:
        return "API_KEY"
    for suffix, given in (("HEADERS", settings.headers), ("QUERY", settings.query)):
        if any(map(is_telling, given)):
            return suffix
    return "API_KEY"
