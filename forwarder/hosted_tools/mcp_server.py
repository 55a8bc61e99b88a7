"""MCP servers: their labels, their URLs or commands, and their secrets.

A client names a server by its URL in an ``mcp`` tool. The operator names servers in a file of the
form that other MCP clients use: ``{"mcpServers": {LABEL: {"url": …} or {"command": …}}}``.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import Any
from urllib.parse import urlsplit

from forwarder.config.secret_values import (
    find_connection_secrets,
    find_named_secrets,
    find_path_secrets,
)
from forwarder.core.url_secrets import hide_url_secrets

MAX_LABEL_LENGTH = 64
MAX_URL_LENGTH = 2048
MIN_SECRET_LENGTH = 6
"""Shorter values are not redacted, because they would also match ordinary words."""

_LABEL = re.compile(r"[A-Za-z0-9_-]+")
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_HEADER_VALUE = re.compile(r"[!-~]([ -~]*[!-~])?")

FORBIDDEN_HEADERS = frozenset(
    {
        "accept", "accept-encoding", "connection", "content-length", "content-type", "expect",
        "host", "keep-alive", "last-event-id", "mcp-protocol-version", "mcp-session-id",
        "proxy-authorization", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade",
    }
)  # fmt: skip
"""Headers that the protocol sets itself."""


@dataclass(frozen=True)
class McpServer:
    """One MCP server: either ``url`` or ``command`` is set.

    ``is_trusted`` is true for servers that the operator configured: their addresses need not be
    public, and only they may be commands. ``environment`` is added to a command's environment.
    """

    label: str
    url: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict, repr=False, hash=False)
    command: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict, repr=False, hash=False)
    directory: str | None = None
    is_trusted: bool = False

    @cached_property
    def identity(self) -> str:
        """A hash that is equal for the same server with the same credentials only."""
        parts = [
            self.url,
            sorted(self.headers.items()),
            self.command,
            sorted(self.environment.items()),
            self.directory,
            self.is_trusted,
        ]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def find_secrets(self) -> Iterator[str]:
        """Yield the values that are certainly secrets: by their name, their form or their place.

        `hide_secrets` hides more: all headers and variables, but only in the server's own texts.
        """
        if self.url is not None:
            yield from find_connection_secrets(self.url)
            yield from find_path_secrets(self.url)
        yield from find_named_secrets(self.headers)
        yield from find_named_secrets(self.environment)

    def hide_secrets(self, text: str) -> str:
        """Replace the server's secrets in a text of the server, which may contain them."""
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text

    @cached_property
    def _secrets(self) -> tuple[str, ...]:
        """The secrets, longest first; a bearer token also without its scheme."""
        found: list[str] = []
        if self.url is not None:
            hide_url_secrets(self.url, found.append)
        values = [*self.headers.values(), *self.environment.values()]
        found += [*values, *(value.partition(" ")[2] for value in values)]
        long = {secret for secret in found if len(secret) >= MIN_SECRET_LENGTH}
        return tuple(sorted(long, key=len, reverse=True))


def is_label(text: str) -> bool:
    return len(text) <= MAX_LABEL_LENGTH and _LABEL.fullmatch(text) is not None


def is_server_url(text: str) -> bool:
    """Return whether ``text`` is an http or https URL without user and fragment."""
    if len(text) > MAX_URL_LENGTH or re.search(r"[^!-~]|@|#", text):
        return False
    try:
        url = urlsplit(text)
        return url.scheme in ("http", "https") and bool(url.hostname) and url.port != 0
    except ValueError:
        return False


def is_allowed_header(name: str, value: object) -> bool:
    """Return whether a client or the operator may set this header."""
    return (
        _HEADER_NAME.fullmatch(name) is not None
        and name.lower() not in FORBIDDEN_HEADERS
        and isinstance(value, str)
        and _HEADER_VALUE.fullmatch(value) is not None
    )


def parse_server_file(text: str) -> Mapping[str, McpServer]:
    """Parse the operator's servers, by label.

    Raises ValueError. Its message repeats no value, because values may be secrets.
    """
    try:
        content = json.loads(text)
    except ValueError:
        raise ValueError("it is not JSON") from None
    entries = content.get("mcpServers") if isinstance(content, dict) else None
    if not isinstance(entries, dict):
        raise ValueError("it has no object 'mcpServers'")
    return MappingProxyType({label: _parse_entry(label, entry) for label, entry in entries.items()})


def _parse_entry(label: str, entry: Any) -> McpServer:
    if not is_label(label):
        raise ValueError("a label must consist of at most 64 letters, digits, - and _")
    if not isinstance(entry, dict) or ("url" in entry) == ("command" in entry):
        raise ValueError(f"'{label}' must have either 'url' or 'command'")
    if "url" in entry:
        headers = _parse_strings(entry.get("headers"), f"'{label}.headers'")
        if not isinstance(entry["url"], str) or not is_server_url(entry["url"]):
            raise ValueError(f"'{label}.url' must be an http:// or https:// address")
        if not all(is_allowed_header(name, value) for name, value in headers.items()):
            raise ValueError(f"'{label}.headers' has a name or value that cannot be sent")
        return McpServer(label, url=entry["url"], headers=headers, is_trusted=True)
    arguments = entry.get("args", [])
    if not isinstance(arguments, list) or not all(isinstance(each, str) for each in arguments):
        raise ValueError(f"'{label}.args' must be a list of strings")
    if not isinstance(entry["command"], str) or not entry["command"]:
        raise ValueError(f"'{label}.command' must be a program")
    directory = entry.get("cwd")
    if directory is not None and not isinstance(directory, str):
        raise ValueError(f"'{label}.cwd' must be a directory")
    return McpServer(
        label,
        command=(entry["command"], *arguments),
        environment=_parse_strings(entry.get("env"), f"'{label}.env'"),
        directory=directory,
        is_trusted=True,
    )


def _parse_strings(value: Any, name: str) -> Mapping[str, str]:
    given = {} if value is None else value
    if not isinstance(given, dict) or not all(isinstance(each, str) for each in given.values()):
        raise ValueError(f"{name} must be an object of strings")
    return MappingProxyType(given)
