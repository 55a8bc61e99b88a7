"""Detects secrets in URLs, headers and parameters, by the name or by the form of the value."""

from __future__ import annotations

import re
from collections.abc import Callable
from urllib.parse import urlsplit

_SECRET_NAME_PATTERN = re.compile(
    r"key|token|secret|auth|passw|credential|cookie|signature|(^|[_-])(sig|code|pwd)$",
    re.IGNORECASE,
)
"""Names of headers and parameters that hold secrets."""

_LONG_WORD = re.compile(r"\w{20,}")
_SCHEME = re.compile(r"[a-z][a-z\d+.-]*://", re.IGNORECASE)

MAX_SEARCHED_LENGTH = 2**14
"""Characters of a URL in which secrets are looked for. Searching megabytes takes seconds."""

_LONG_SEGMENT = 20
"""Path segments of at least this many characters may be secrets."""

_UUID = re.compile(r"[\da-f]{8}(-[\da-f]{4}){3}-[\da-f]{12}", re.IGNORECASE)


def is_secret_name(name: str) -> bool:
    """Return whether the name of a header or parameter indicates a secret."""
    return _SECRET_NAME_PATTERN.search(name) is not None


def looks_like_secret(value: str) -> bool:
    """Return whether a value has the form of a secret.

    That is 20 or more letters and digits in a row, or a UUID; versions, types and hosts have
    another form.
    """
    return any(map(_is_mixed, _LONG_WORD.findall(value))) or _UUID.search(value) is not None


def _is_mixed(word: str) -> bool:
    return bool(re.search(r"\d", word) and re.search(r"[A-Za-z]", word))


def describe_url(url: str) -> str:
    """Return the URL without user, query and fragment, and with ``…`` for secrets in its path."""
    segments = urlsplit(url).path.split("/")
    path = "/".join("…" if _may_be_secret(segment) else segment for segment in segments)
    return hide_url_secrets(url) + path


def _may_be_secret(segment: str) -> bool:
    return len(segment) >= _LONG_SEGMENT or looks_like_secret(segment)


def hide_url_secrets(url: str, hide: Callable[[str], object] = str) -> str:
    """Return the URL up to its host, because any other part may be a secret.

    OpenAI shows the URLs of tools in the same way.  ``hide`` receives each part that looks like a
    secret, so that the caller can redact it elsewhere too, unless the URL is very long.
    """
    begin = _SCHEME.match(url)
    scheme = begin[0] if begin else ""
    head, _, fragment = url[len(scheme) :].partition("#")
    head, _, query = head.partition("?")
    authority, _, path = head.partition("/")
    user, _, host = authority.rpartition("@")
    if len(url) > MAX_SEARCHED_LENGTH:
        return scheme + host
    for secret in filter(None, (user.partition(":")[2], user)):
        hide(secret)
    for segment in (*path.split("/"), fragment):
        if _may_be_secret(segment):
            hide(segment)
    for name, _, value in (pair.partition("=") for pair in query.split("&")):
        if value and (is_secret_name(name) or looks_like_secret(value)):
            hide(value)
    return scheme + host
