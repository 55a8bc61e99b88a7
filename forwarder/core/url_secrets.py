"""Which values of addresses, headers and parameters are secrets, by their names or their looks."""

from __future__ import annotations

import re
from collections.abc import Callable

_TELLING = re.compile(
    r"key|token|secret|auth|passw|credential|cookie|signature|(^|[_-])(sig|code|pwd)$",
    re.IGNORECASE,
)
"""Names of headers and parameters that hold secrets."""

_LONG = re.compile(r"\w{20,}")
_SCHEME = re.compile(r"[a-z][a-z\d+.-]*://", re.IGNORECASE)

_LONG_PART = 20
"""Characters of a part of an address that is more than a word."""

_UUID = re.compile(r"[\da-f]{8}(-[\da-f]{4}){3}-[\da-f]{12}", re.IGNORECASE)


def is_telling(name: str) -> bool:
    """Does the name of a header or a parameter say that it holds a secret?"""
    return _TELLING.search(name) is not None


def is_random(value: str) -> bool:
    """Does a value look like nothing but a secret?

    Twenty letters and digits in a row, or a UUID: no version, type or address looks like that.
    """
    return any(map(_is_mixed, _LONG.findall(value))) or _UUID.search(value) is not None


def _is_mixed(word: str) -> bool:
    return bool(re.search(r"\d", word) and re.search(r"[A-Za-z]", word))


def hide_url_secrets(url: str, hide: Callable[[str], object] = str) -> str:
    """The address up to its host, as OpenAI shows those of tools: any other part may be a secret.

    ``hide`` is given those that look like one, since they may stand elsewhere too.
    """
    begin = _SCHEME.match(url)
    scheme = begin[0] if begin else ""
    head, _, fragment = url[len(scheme) :].partition("#")
    head, _, query = head.partition("?")
    place, *steps = head.split("/")
    user, _, host = place.rpartition("@")
    for secret in filter(None, (user.partition(":")[2], user)):
        hide(secret)
    for step in (*steps, fragment):
        if is_random(step) or len(step) >= _LONG_PART:
            hide(step)
    for name, _, value in (pair.partition("=") for pair in query.split("&")):
        if value and (is_telling(name) or is_random(value)):
            hide(value)
    return scheme + host
