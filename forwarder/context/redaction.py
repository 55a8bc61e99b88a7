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
from forwarder.context.secrets import SHORTEST, secrets_of
from forwarder.core.url_secrets import hide_url_secrets, is_random, is_telling

GONE = "***"

_LONGEST = 4096
"""Characters up to which a blotted value is looked for elsewhere."""

_MOST = 500
"""How many such values are looked for."""

_WORD = re.compile(r"[a-z_.]{1,24}")
"""``assistant``, ``response.completed``, ``exchange``: without these a record is none."""

_KINDS = ("type", "role")
"""Fields that say what something is, and keep a blotted object what it was."""

_KEYS = (
    "api[-_]?key|access[-_]?key|secret[-_]?key|private[-_]?key|access[-_]?token|auth[-_]?token"
    "|refresh[-_]?token|secret|password|passwd|authorization|cookie|credentials?"
)
"""Fields of a body that hold keys; fewer than headers have, or ``prompt_cache_key`` were one."""

_KEY = re.compile(rf"(^|[-_])({_KEYS})$", re.IGNORECASE)

_URLS = frozenset({"server_url"})
"""Fields with addresses in which clients put tokens: those of MCP servers."""

_HEADERS = frozenset({"headers", "remote_headers", "query", "remote_query"})
"""Fields whose own fields are headers or parameters."""


@lru_cache(maxsize=4096)
def _is_key(name: str) -> bool:
    return _KEY.search(name) is not None


def _is_telling(value: str) -> bool:
    """Is a value worth looking for elsewhere?  A plain word may be a part of any record."""
    return SHORTEST <= len(value) <= _LONGEST and not _WORD.fullmatch(value)


class Redaction:
    """For one record: blots it part by part, then looks for what was blotted in all of it.

    ``fields`` are names, meant wherever they stand, or paths from the top (``messages.content``)
    in which lists do not count and ``*`` is any name.
    """

    def __init__(self, fields: Iterable[str], secrets: Iterable[str] = ()) -> None:
        split = [tuple(field.lower().split(".")) for field in fields]
        self._names = frozenset(path[0] for path in split if len(path) == 1)
        self._paths = [path for path in split if len(path) > 1]
        self._last = sorted({path[-1] for path in split})
        self.found = set(secrets)
        self.blots = 0

    # -- part by part ---------------------------------------------------------------------------

    def value(self, value: Any, path: tuple[str, ...] = ()) -> Any:
        """A JSON value without what is in fields that are to be blotted."""
        if type(value) is dict:
            blotted = {name: self._member(name, inner, path) for name, inner in value.items()}
            return self._tool(blotted) if value.get("type") == "mcp" else blotted
        if type(value) is list:
            return [self.value(inner, path) for inner in value]
        return value

    def _tool(self, tool: dict[str, Any]) -> dict[str, Any]:
        """An MCP tool: whatever its headers are called, they are there to log in."""
        if tool.get("authorization"):
            tool["authorization"] = self._gone(tool["authorization"])
        if type(tool.get("headers")) is dict:
            tool["headers"] = {k: self._hide_header(v) for k, v in tool["headers"].items()}
        return tool

    def pairs(self, pairs: Iterable[tuple[str, str]]) -> list[list[str]]:
        """Headers or parameters, without what their names say to be secret."""
        return [[name, self._header(name, text)] for name, text in pairs]

    def text(self, text: str) -> str:
        """What was meant to be JSON and is none; fields are found by their look."""
        names = "|".join([*map(re.escape, self._last), rf"(?:[\w-]*[-_])?(?:{_KEYS})"])
        pattern = rf'("(?:{names})"\s*:\s*)"((?:[^"\\]|\\.)*)("?)'

        def blot(match: re.Match[str]) -> str:
            self._gone(match[2])
            return f'{match[1]}"{GONE}{match[3]}'

        return re.sub(pattern, blot, text, flags=re.IGNORECASE)

    def _member(self, name: str, value: Any, path: tuple[str, ...]) -> Any:
        lower = name.lower()
        here = (*path, lower)
        if lower in self._names or (self._paths and self._is_named(here)):
            return self._gone(value)
        if type(value) is str:
            if lower in _URLS:
                return hide_url_secrets(value, self._gone_of_url)
            return self._gone(value) if _is_key(name) else value
        if lower in _HEADERS and type(value) is dict:
            return {k: self._header(k, v) if type(v) is str else v for k, v in value.items()}
        return self.value(value, here)

    def _gone_of_url(self, text: str) -> str:
        self._gone(text)
        self._gone(unquote(text))
        return GONE

    def _is_named(self, here: tuple[str, ...]) -> bool:
        return any(
            len(path) == len(here) and all(map(fnmatchcase, here, path)) for path in self._paths
        )

    def _header(self, name: str, text: str) -> str:
        return self._hide_header(text) if name.lower() in self._names or is_telling(name) else text

    def _hide_header(self, text: Any) -> str:
        self.blots += 1
        # Not every such header holds a secret that may be looked for elsewhere: one may say
        # "assistant".
        room = max(0, _MOST - len(self.found))
        self.found.update(islice(filter(is_random, str(text).split()), room))
        return GONE

    def _gone(self, value: Any) -> Any:
        """The shape of a value, and nothing of it."""
        if type(value) is str:
            self.blots += bool(value)
            if len(self.found) < _MOST and _is_telling(value):
                self.found.add(value)
            return GONE if value else value
        if type(value) is dict:
            return {k: v if k in _KINDS else self._gone(v) for k, v in value.items()}
        if type(value) is list:
            return [self._gone(inner) for inner in value]
        return 0 if type(value) in (int, float) else value

    # -- all of it ------------------------------------------------------------------------------

    def everywhere(self, said: bytes, write: Callable[[Any], bytes] = orjson.dumps) -> bytes:
        """A whole record as JSON, without any of the values that were found.

        ``write`` gives the bytes of a record.  It is asked where JSON itself is made of a value,
        which ``12345678`` and ``null,null`` may be: then only texts are looked through.
        """
        forms = self._forms()
        blotted = said
        for form in forms:
            blotted = blotted.replace(orjson.dumps(form)[1:-1], GONE.encode())
        if blotted == said or _is_json(blotted):
            return blotted
        return write(_without(forms, orjson.loads(said)))

    def _forms(self) -> list[str]:
        """How the values may stand in a text: as they are, in JSON, in an address."""
        forms = set(self.found)
        for value in self.found:
            forms |= {orjson.dumps(value)[1:-1].decode(), quote(value, safe="")}
        return sorted(forms, key=len, reverse=True)


def _without(forms: list[str], value: Any) -> Any:
    """A JSON value whose texts hold none of these."""
    if type(value) is str:
        for form in forms:
            value = value.replace(form, GONE)
    elif type(value) is list:
        return [_without(forms, inner) for inner in value]
    elif type(value) is dict:
        return {_without(forms, name): _without(forms, inner) for name, inner in value.items()}
    return value


def _is_json(said: bytes) -> bool:
    try:
        orjson.loads(said)
    except ValueError:
        return False
    return True


def secrets_in(settings: Settings) -> frozenset[str]:
    """The keys that the settings hold; those too short to be any are left alone."""
    own = [*settings.api_keys, *settings.admin_keys, *settings.secret_keys]
    own += [settings.metrics_key] if settings.metrics_key else []
    return frozenset(key for key in own if len(key) >= SHORTEST).union(
        *map(secrets_of_upstream, settings.upstreams)
    )


def secrets_of_upstream(settings: UpstreamSettings) -> frozenset[str]:
    """Those of one upstream."""
    return frozenset(secrets_of(settings))


def keys_of(client_key: str | None) -> frozenset[str]:
    """That of a client."""
    return frozenset([client_key] if client_key and len(client_key) >= SHORTEST else ())
