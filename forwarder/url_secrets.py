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


def hide_url_secrets(url: str, hide: Callable[[str], str] = lambda secret: "***") -> str:
    """The address without the secrets in its user, path and query.

    ``hide`` gives what stands in place of one.  It gets the password of a user alone, too.
    """
    head, mark, query = url.partition("?")
    scheme, separator, rest = head.partition("://")
    host, slash, path = rest.partition("/")
    user, at, host = host.rpartition("@")
    _, _, password = user.partition(":")
    if password:
        hide(password)
    user = hide(user) if user else user
    steps = "/".join(hide(step) if is_random(step) else step for step in path.split("/"))
    pairs = (pair.partition("=") for pair in query.split("&"))
    parameters = "&".join(
        f"{name}{sign}{hide(value)}"
        if value and (is_telling(name) or is_random(value))
        else f"{name}{sign}{value}"
        for name, sign, value in pairs
    )
    return f"{scheme}{separator}{user}{at}{host}{slash}{steps}{mark}{parameters}"
