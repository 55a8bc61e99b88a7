"""Removes secrets, in one of two ways, from everything that may leave the process.

`Redactor` removes keys, and the fields that the operator configures, from captured records. A value
that is redacted in one place is also redacted everywhere else in the record, in plain,
JSON-escaped and percent-encoded form. The same holds for the secrets in the settings. A redacted
value keeps its shape, so that a captured request can be replayed.

`redact_secrets` and `redact_headers` remove the secrets in an upstream's settings from its errors
and headers. Only some configured headers and query values are secrets, and redacting a harmless
word may hide the cause of an error. A value counts as a secret if its name indicates one or if it
looks random.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from functools import lru_cache
from itertools import islice
from typing import Any
from urllib.parse import quote, unquote

import orjson

from forwarder.config.secret_values import PLAIN_WORD
from forwarder.config.settings import (
    SETTINGS,
    UPSTREAM_SETTINGS,
    Setting,
    Settings,
    UpstreamSettings,
)
from forwarder.core.types import Json
from forwarder.core.url_secrets import hide_url_secrets, is_secret_name, looks_like_secret

REDACTED = "***"

_MAX_CACHED_UPSTREAMS = 64
"""For how many upstreams the secrets are cached; they are needed for each answer."""

MIN_REDACTED_LENGTH = 8
"""A shorter value is a placeholder rather than a secret, and may be part of any word."""

MAX_SEARCHED_LENGTH = 4096
"""Redacted values longer than this are not searched for in the rest of the record."""

MAX_SEARCHED_VALUES = 500
"""How many redacted values are searched for in the rest of the record."""

KIND_FIELDS = ("type", "role")
"""Fields that stay readable in a redacted object, because they define its shape."""

KEY_NAMES = (
    "api[-_]?key|access[-_]?key|secret[-_]?key|private[-_]?key|access[-_]?token|auth[-_]?token"
    "|refresh[-_]?token|secret|password|passwd|authorization|cookie|credentials?"
)
"""Body fields that hold keys. Narrower than for headers, to exclude ``prompt_cache_key``."""

MAX_CACHED_LENGTH = 64
"""Characters at the end of a field's name that decide whether it holds a key. Only they are cached,
because clients choose the names and may choose very long ones."""

KEY_FIELD = re.compile(rf"(^|[-_])({KEY_NAMES})$", re.IGNORECASE)

URL_FIELDS = frozenset({"server_url"})
"""Fields with the URLs of MCP servers, in which clients put tokens."""

HEADER_FIELDS = frozenset({"headers", "remote_headers", "query", "remote_query"})
"""Fields that contain an object of headers or query parameters."""


def is_key_field(name: str) -> bool:
    return has_key_name(name[-MAX_CACHED_LENGTH:])


@lru_cache(maxsize=4096)
def has_key_name(ending: str) -> bool:
    return KEY_FIELD.search(ending) is not None


def is_searchable(value: str) -> bool:
    """Return whether a value is specific enough to search for in the rest of the record."""
    return MIN_REDACTED_LENGTH <= len(value) <= MAX_SEARCHED_LENGTH and not PLAIN_WORD.fullmatch(
        value
    )


class Redactor:
    """Redacts one record: first part by part, then all occurrences of the redacted values.

    ``fields`` are names, which match at any depth, or paths from the top (``messages.content``).
    Paths skip list indexes, and ``*`` in a path matches any name.
    """

    def __init__(self, fields: Iterable[str], secrets: Iterable[str] = ()) -> None:
        split = [tuple(field.lower().split(".")) for field in fields]
        self._field_names = frozenset(path[0] for path in split if len(path) == 1)
        self._field_paths = [path for path in split if len(path) > 1]
        self._last_names = sorted({path[-1] for path in split})
        self.found_secrets = set(secrets)
        self.redaction_count = 0

    # -- part by part ---------------------------------------------------------------------------

    def redact_value(self, value: Any, path: tuple[str, ...] = ()) -> Any:
        """Return a copy of a JSON value with the configured fields and key fields redacted."""
        if type(value) is dict:
            redacted = {
                name: self._redact_member(name, inner, path) for name, inner in value.items()
            }
            return self._redact_tool(redacted) if value.get("type") == "mcp" else redacted
        if type(value) is list:
            return [self.redact_value(inner, path) for inner in value]
        return value

    def _redact_tool(self, tool: dict[str, Any]) -> dict[str, Any]:
        """Redact all headers of an MCP tool, because a header of any name may hold credentials."""
        if tool.get("authorization"):
            tool["authorization"] = self._hide_value(tool["authorization"])
        if type(tool.get("headers")) is dict:
            tool["headers"] = {k: self._hide_header(v) for k, v in tool["headers"].items()}
        return tool

    def redact_pairs(self, pairs: Iterable[tuple[str, str]]) -> list[list[str]]:
        """Redact headers or query parameters that have a secret's name; return [name, value]s."""
        return [[name, self._redact_header(name, text)] for name, text in pairs]

    def redact_text(self, text: str) -> str:
        """Redact invalid JSON by matching fields textually."""
        names = "|".join([*map(re.escape, self._last_names), rf"(?:[\w-]*[-_])?(?:{KEY_NAMES})"])
        pattern = rf'("(?:{names})"\s*:\s*)"((?:[^"\\]|\\.)*)("?)'

        def redact_match(match: re.Match[str]) -> str:
            self._hide_value(match[2])
            return f'{match[1]}"{REDACTED}{match[3]}'

        return re.sub(pattern, redact_match, text, flags=re.IGNORECASE)

    def _redact_member(self, name: str, value: Any, path: tuple[str, ...]) -> Any:
        lower = name.lower()
        here = (*path, lower)
        if lower in self._field_names or (self._field_paths and self._matches_path(here)):
            return self._hide_value(value)
        if type(value) is str:
            if lower in URL_FIELDS:
                return hide_url_secrets(value, self._redact_url_secret)
            return self._hide_value(value) if is_key_field(name) else value
        if lower in HEADER_FIELDS and type(value) is dict:
            return {k: self._redact_header(k, v) if type(v) is str else v for k, v in value.items()}
        return self.redact_value(value, here)

    def _redact_url_secret(self, text: str) -> str:
        self._hide_value(text)
        self._hide_value(unquote(text))
        return REDACTED

    def _matches_path(self, here: tuple[str, ...]) -> bool:
        return any(
            len(path) == len(here) and all(map(fnmatchcase, here, path))
            for path in self._field_paths
        )

    def _redact_header(self, name: str, text: str) -> str:
        return (
            self._hide_header(text)
            if name.lower() in self._field_names or is_secret_name(name)
            else text
        )

    def _hide_header(self, text: Any) -> str:
        self.redaction_count += 1
        # Only random-looking words are searched for elsewhere: a header may contain a plain word
        # such as "assistant".
        room = max(0, MAX_SEARCHED_VALUES - len(self.found_secrets))
        self.found_secrets.update(islice(filter(looks_like_secret, str(text).split()), room))
        return REDACTED

    def _hide_value(self, value: Any) -> Any:
        """Return a value of the same shape without any of its content."""
        if type(value) is str:
            self.redaction_count += bool(value)
            if len(self.found_secrets) < MAX_SEARCHED_VALUES and is_searchable(value):
                self.found_secrets.add(value)
            return REDACTED if value else value
        if type(value) is dict:
            return {k: v if k in KIND_FIELDS else self._hide_value(v) for k, v in value.items()}
        if type(value) is list:
            return [self._hide_value(inner) for inner in value]
        return 0 if type(value) in (int, float) else value

    # -- the whole record -----------------------------------------------------------------------

    def redact_everywhere(
        self, record: bytes, write: Callable[[Any], bytes] = orjson.dumps
    ) -> bytes:
        """Return a serialized record without any occurrence of the redacted values.

        Values are replaced in the bytes. If that breaks the JSON (a value may be ``12345678`` or
        ``null,null``), only the strings of the parsed record are searched, and ``write``
        serializes it again.
        """
        forms = set(self.found_secrets)
        for value in self.found_secrets:
            forms |= {orjson.dumps(value)[1:-1].decode(), quote(value, safe="")}
        ordered = sorted(forms, key=len, reverse=True)
        redacted = record
        for form in ordered:
            redacted = redacted.replace(orjson.dumps(form)[1:-1], REDACTED.encode())
        if redacted == record or is_json(redacted):
            return redacted
        return write(remove_forms(ordered, orjson.loads(record)))


def remove_forms(forms: list[str], value: Any) -> Any:
    """Return a JSON value with each form replaced in all strings and field names."""
    if type(value) is str:
        for form in forms:
            value = value.replace(form, REDACTED)
    elif type(value) is list:
        return [remove_forms(forms, inner) for inner in value]
    elif type(value) is dict:
        return {
            remove_forms(forms, name): remove_forms(forms, inner) for name, inner in value.items()
        }
    return value


def is_json(data: bytes) -> bool:
    try:
        orjson.loads(data)
    except ValueError:
        return False
    return True


# -- errors and headers of upstreams --------------------------------------------------------------


def redact_secrets(error: Json, settings: UpstreamSettings) -> Json:
    """Return an upstream's error object without the secrets in that upstream's settings."""
    redacted = original = orjson.dumps(error)
    for secret in list_secrets(settings):
        redacted = redacted.replace(orjson.dumps(secret)[1:-1], REDACTED.encode())
    return error if redacted == original else dict(orjson.loads(redacted))


def redact_headers(headers: Mapping[str, str], settings: UpstreamSettings) -> dict[str, str]:
    """Return an upstream's response headers without secrets.

    Secrets in values are replaced. Headers with a secret in their name are removed.
    """
    redacted = dict(headers)
    for secret in list_secrets(settings):
        redacted = {
            name: value.replace(secret, REDACTED)
            for name, value in redacted.items()
            if secret.lower() not in name.lower()
        }
    return redacted


# -- secrets in the settings -----------------------------------------------------------------------


def collect_settings_secrets(settings: Settings) -> frozenset[str]:
    """Return the secrets in the settings, without those shorter than MIN_REDACTED_LENGTH.

    These are the values that the tables in `config/settings.py` mark as secret, such as keys and
    the password of the database. Not here: the file of MCP servers (`HostedToolServices.secrets`),
    and variables that only libraries read, such as OpenTelemetry's.
    """
    return frozenset(find_secrets(settings, SETTINGS)).union(
        *map(collect_upstream_secrets, settings.upstreams)
    )


def collect_upstream_secrets(settings: UpstreamSettings) -> frozenset[str]:
    """Return the secrets of one upstream."""
    return frozenset(list_secrets(settings))


def collect_client_key(client_key: str | None) -> frozenset[str]:
    """Return the client's key as a set, which is empty if the key is missing or too short."""
    return frozenset([client_key] if client_key and len(client_key) >= MIN_REDACTED_LENGTH else ())


@lru_cache(maxsize=_MAX_CACHED_UPSTREAMS)
def list_secrets(settings: UpstreamSettings) -> tuple[str, ...]:
    """Return the secrets in the settings of all endpoints, plain and percent-encoded.

    Longer ones come first, because one secret may contain another.
    """
    secrets = {
        secret for each in settings.endpoints for secret in find_secrets(each, UPSTREAM_SETTINGS)
    }
    forms = secrets | {quote(word, safe="") for word in secrets}
    return tuple(sorted(forms, key=len, reverse=True))


def find_secrets(
    settings: Settings | UpstreamSettings, table: tuple[Setting, ...]
) -> Iterator[str]:
    """Yield the values that are long enough to be secrets, which excludes ``Bearer``."""
    for row in table:
        if row.list_secrets is not None:
            for secret in row.list_secrets(getattr(settings, row.field)):
                if len(secret) >= MIN_REDACTED_LENGTH:
                    yield secret
