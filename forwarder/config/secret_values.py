"""Finds the secrets in the values of settings: one function for each form of a value.

A row of the tables in `settings.py` names the function for its value. `context/redaction.py` calls
them to redact the secrets in everything that leaves the process.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from urllib.parse import parse_qsl, unquote, urlsplit

from forwarder.core.url_secrets import is_secret_name, looks_like_secret

PLAIN_WORD = re.compile(r"[a-z_.]{1,24}")
"""Values such as ``assistant`` or ``response.completed``; removing them would break a record."""

_PASSWORD = re.compile(r"[^:/]+://[^:/@]*:([^@]+)@")
"""The password of an address as SQLAlchemy reads it: it may contain slashes."""


def list_key(key: str | None) -> Iterable[str]:
    return () if key is None else (key,)


def list_keys(keys: Iterable[str]) -> Iterable[str]:
    """Return the keys in a list, or those to which a mapping assigns something."""
    return tuple(keys)


def find_named_secrets(values: Mapping[str, str]) -> Iterator[str]:
    """Yield the words of headers or query values whose name or form indicates a secret."""
    for name, value in values.items():
        if is_secret_name(name) or looks_like_secret(value):
            yield from value.split()


def find_path_secrets(url: str | None) -> Iterator[str]:
    """Yield the parts of a URL's path that look like a secret, as some gateways have them."""
    for segment in urlsplit(url or "").path.split("/"):
        if looks_like_secret(segment):
            yield segment


def find_connection_secrets(url: str) -> Iterator[str]:
    """Yield the password of a server's address, as it is written and as it is sent.

    Not a password that is a plain word, such as ``postgres``.
    """
    match = _PASSWORD.match(url)
    if match and not PLAIN_WORD.fullmatch(match[1]):
        yield from (match[1], unquote(match[1]))
    yield from find_named_secrets(dict(parse_qsl(urlsplit(url).query)))
