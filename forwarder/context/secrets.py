"""Removes the secrets in an upstream's settings from its errors and headers.

Only some configured headers and query values are secrets, and redacting a harmless word may hide
the cause of an error. A value counts as a secret if its name indicates one or if it looks random.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from urllib.parse import quote

import orjson

from forwarder.config.settings import UpstreamSettings
from forwarder.core.types import Json
from forwarder.core.url_secrets import is_random, is_telling

MIN_REDACTED_LENGTH = 8
"""A shorter value is a placeholder rather than a secret, and may be part of any word."""


def redact_secrets(error: Json, settings: UpstreamSettings) -> Json:
    """Return an upstream's error object without the secrets in that upstream's settings."""
    redacted = original = orjson.dumps(error)
    for secret in list_secrets(settings):
        redacted = redacted.replace(orjson.dumps(secret)[1:-1], b"***")
    return error if redacted == original else dict(orjson.loads(redacted))


def redact_headers(headers: Mapping[str, str], settings: UpstreamSettings) -> dict[str, str]:
    """Return an upstream's response headers without secrets.

    Secrets in values are replaced. Headers with a secret in their name are removed.
    """
    redacted = dict(headers)
    for secret in list_secrets(settings):
        redacted = {
            name: value.replace(secret, "***")
            for name, value in redacted.items()
            if secret.lower() not in name.lower()
        }
    return redacted


def list_secrets(settings: UpstreamSettings) -> list[str]:
    """Return the secrets among the key, headers and query, plain and percent-encoded.

    Longer ones come first, because one secret may contain another.
    """
    secrets = {
        *split_words(settings.api_key or ""),
        *find_secret_words(settings.headers),
        *find_secret_words(settings.query),
    }
    forms = secrets | {quote(word, safe="") for word in secrets}
    return sorted(forms, key=len, reverse=True)


def find_secret_words(values: Mapping[str, str]) -> Iterator[str]:
    for name, value in values.items():
        if is_telling(name) or is_random(value):
            yield from split_words(value)


def split_words(value: str) -> Iterator[str]:
    """Yield the words that are long enough to be secrets, which excludes ``Bearer``."""
    return (word for word in value.split() if len(word) >= MIN_REDACTED_LENGTH)
