"""What an upstream's errors must not quote: the secrets that its settings hold.

Not every header and query value is one, and a word blotted out of an error may be the one that
explains it.  A value is a secret when its name says so, or when it looks like nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from urllib.parse import quote

import orjson

from forwarder.config.settings import UpstreamSettings
from forwarder.core.types import Json
from forwarder.core.url_secrets import is_random, is_telling

MIN_REDACTED_LENGTH = 8
"""A secret shorter than this is a placeholder, and may be part of any word."""


def redact_secrets(error: Json, settings: UpstreamSettings) -> Json:
    """An upstream's error object without the secrets that ``settings`` has for this upstream."""
    said = before = orjson.dumps(error)
    for secret in list_secrets(settings):
        said = said.replace(orjson.dumps(secret)[1:-1], b"***")
    return error if said == before else dict(orjson.loads(said))


def redact_headers(headers: Mapping[str, str], settings: UpstreamSettings) -> dict[str, str]:
    """Headers of an upstream without the secrets of ``settings``; none is named after one."""
    blotted_headers = dict(headers)
    for secret in list_secrets(settings):
        blotted_headers = {
            name: value.replace(secret, "***")
            for name, value in blotted_headers.items()
            if secret.lower() not in name.lower()
        }
    return blotted_headers


def list_secrets(settings: UpstreamSettings) -> list[str]:
    """The key, and what of the headers and the query is secret; the longest first.

    The longest first, since one may hold another: ``Bearer`` and a key, the key alone.
    """
    found = {
        *split_words(settings.api_key or ""),
        *find_secret_words(settings.headers),
        *find_secret_words(settings.query),
    }
    forms = found | {quote(word, safe="") for word in found}
    return sorted(forms, key=len, reverse=True)


def find_secret_words(given: Mapping[str, str]) -> Iterator[str]:
    for name, value in given.items():
        if is_telling(name) or is_random(value):
            yield from split_words(value)


def split_words(value: str) -> Iterator[str]:
    """The words that are long enough; ``Bearer`` and its like are none."""
    return (word for word in value.split() if len(word) >= MIN_REDACTED_LENGTH)
