"""What of a record nobody may read: keys always, and the fields that the operator names.

A value that is blotted out in one place is blotted out wherever else it stands, in whatever form
it went over; so are the keys that the settings hold.  What is blotted keeps its shape, so that a
request can be sent again.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase
from functools import lru_cache
from itertools import islice
from typing import Any
from urllib.parse import quote, unquote

import orjson

from forwarder.config.settings import Settings, UpstreamSettings
from forwarder.context.secrets import MIN_REDACTED_LENGTH, list_secrets
from forwarder.core.url_secrets import hide_url_secrets, is_random, is_telling

REDACTED = "***"

MAX_SEARCHED_LENGTH = 4096
"""Characters up to which a blotted value is looked for elsewhere."""

MAX_SEARCHED_VALUES = 500
"""How many such values are looked for."""

PLAIN_WORD = re.compile(r"[a-z_.]{1,24}")
"""``assistant``, ``response.completed``, ``exchange``: without these a record is none."""

KIND_FIELDS = ("type", "role")
"""Fields that say what something is, and keep a blotted object what it was."""

KEY_NAMES = (
    "api[-_]?key|access[-_]?key|secret[-_]?key|private[-_]?key|access[-_]?token|auth[-_]?token"
    "|refresh[-_]?token|secret|password|passwd|authorization|cookie|credentials?"
)
"""Fields of a body that hold keys; fewer than headers have, or ``prompt_cache_key`` were one."""

KEY_FIELD = re.compile(rf"(^|[-_])({KEY_NAMES})$", re.IGNORECASE)

URL_FIELDS = frozenset({"server_url"})
"""Fields with addresses in which clients put tokens: those of MCP servers."""

HEADER_FIELDS = frozenset({"headers", "remote_headers", "query", "remote_query"})
"""Fields whose own fields are headers or parameters."""


@lru_cache(maxsize=4096)
def is_key_field(name: str) -> bool:
    return KEY_FIELD.search(name) is not None


def is_searchable(value: str) -> bool:
    """Is a value worth looking for elsewhere?  A plain word may be a part of any record."""
    return MIN_REDACTED_LENGTH <= len(value) <= MAX_SEARCHED_LENGTH and not PLAIN_WORD.fullmatch(
        value
    )


class Redactor:
    """For one record: blots it part by part, then looks for what was blotted in all of it.

    ``fields`` are names, meant wherever they stand, or paths from the top (``messages.content``)
    in which lists do not count and ``*`` is any name.
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
        """A JSON value without what is in fields that are to be blotted."""
        if type(value) is dict:
            blotted = {
                name: self._redact_member(name, inner, path) for name, inner in value.items()
            }
            return self._redact_tool(blotted) if value.get("type") == "mcp" else blotted
        if type(value) is list:
            return [self.redact_value(inner, path) for inner in value]
        return value

    def _redact_tool(self, tool: dict[str, Any]) -> dict[str, Any]:
        """An MCP tool: whatever its headers are called, they are there to log in."""
        if tool.get("authorization"):
            tool["authorization"] = self._hide_value(tool["authorization"])
        if type(tool.get("headers")) is dict:
            tool["headers"] = {k: self._hide_header(v) for k, v in tool["headers"].items()}
        return tool

    def redact_pairs(self, pairs: Iterable[tuple[str, str]]) -> list[list[str]]:
        """Headers or parameters, without what their names say to be secret."""
        return [[name, self._redact_header(name, text)] for name, text in pairs]

    def redact_text(self, text: str) -> str:
        """What was meant to be JSON and is none; fields are found by their look."""
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
            if name.lower() in self._field_names or is_telling(name)
            else text
        )

    def _hide_header(self, text: Any) -> str:
        self.redaction_count += 1
        # Not every such header holds a secret that may be looked for elsewhere: one may say
        # "assistant".
        room = max(0, MAX_SEARCHED_VALUES - len(self.found_secrets))
        self.found_secrets.update(islice(filter(is_random, str(text).split()), room))
        return REDACTED

    def _hide_value(self, value: Any) -> Any:
        """The shape of a value, and nothing of it."""
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

    # -- all of it ------------------------------------------------------------------------------

    def redact_everywhere(self, said: bytes, write: Callable[[Any], bytes] = orjson.dumps) -> bytes:
        """A whole record as JSON, without any of the values that were found.

        ``write`` gives the bytes of a record.  It is asked where JSON itself is made of a value,
        which ``12345678`` and ``null,null`` may be: then only texts are looked through.
        """
        forms = self._list_encoded_forms()
        blotted = said
        for form in forms:
            blotted = blotted.replace(orjson.dumps(form)[1:-1], REDACTED.encode())
        if blotted == said or is_json(blotted):
            return blotted
        return write(remove_forms(forms, orjson.loads(said)))

    def _list_encoded_forms(self) -> list[str]:
        """How the values may stand in a text: as they are, in JSON, in an address."""
        forms = set(self.found_secrets)
        for value in self.found_secrets:
            forms |= {orjson.dumps(value)[1:-1].decode(), quote(value, safe="")}
        return sorted(forms, key=len, reverse=True)


def remove_forms(forms: list[str], value: Any) -> Any:
    """A JSON value whose texts hold none of these."""
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


def is_json(said: bytes) -> bool:
    try:
        orjson.loads(said)
    except ValueError:
        return False
    return True


def collect_settings_secrets(settings: Settings) -> frozenset[str]:
    """The keys that the settings hold; those too short to be any are left alone."""
    own = [*settings.api_keys, *settings.admin_keys, *settings.secret_keys]
    own += [settings.metrics_key] if settings.metrics_key else []
    return frozenset(key for key in own if len(key) >= MIN_REDACTED_LENGTH).union(
        *map(collect_upstream_secrets, settings.upstreams)
    )


def collect_upstream_secrets(settings: UpstreamSettings) -> frozenset[str]:
    """Those of one upstream."""
    return frozenset(list_secrets(settings))


def collect_client_key(client_key: str | None) -> frozenset[str]:
    """That of a client."""
    return frozenset([client_key] if client_key and len(client_key) >= MIN_REDACTED_LENGTH else ())
