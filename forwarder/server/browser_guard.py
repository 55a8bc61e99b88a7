"""Protection against web pages that misuse a forwarder without client keys.

Without keys, two attacks are possible. A page of another site can send requests (cross-site
request forgery), which the guard detects by ``Origin`` and ``Sec-Fetch-Site``. A page can make its
own host name resolve to this machine and read the responses (DNS rebinding), which the guard
detects by ``Host``. Pages cannot set these three headers. They can set ``X-Forwarded-Host``, so
the guard ignores it. Links on other sites may be followed (see `is_navigation`).
"""

from __future__ import annotations

import re
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import NamedTuple

from flask import Flask

from forwarder.config.settings import Settings
from forwarder.core.errors import Forbidden
from forwarder.server.cors import ANY, allows_origin
from forwarder.server.extension import get_request, get_services

_PROXIED = (
    *("Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto"),
    *("X-Real-Ip", "Via"),
)
"""Headers that proxies add to a request."""

_APP_SCHEMES = ("app", "file", "tauri", "vscode-file", "vscode-webview")
"""Origin schemes of desktop apps; Ollama allows the same. HTML files send ``null`` instead."""

_APP_HOST = "tauri.localhost"
"""The origin host of Tauri apps on Windows, with http or https."""

_DEFAULT_PORTS = {"http": 80, "https": 443}

_HOST = re.compile(r"(?:\[([0-9a-f:.]+)\]|([a-z0-9._-]+))(?::([0-9]{1,5}))?", re.ASCII)


_MAX_CACHED_HOSTS = 256
"""How many parsed hosts and addresses are cached; most requests name the same one."""


class Host(NamedTuple):
    """The host and port of a ``Host`` header or an origin."""

    name: str
    port: int | None

    def with_port(self, scheme: str) -> Host:
        """Return the host with the default port of ``scheme`` if it has no port."""
        return Host(self.name, self.port or _DEFAULT_PORTS.get(scheme))


def guard_browsers(app: Flask) -> None:
    """Check the host and origin of every request to ``app`` if clients need no keys."""
    app.before_request(check_request)


def check_request() -> None:
    services = get_services()
    settings = services.settings
    if not services.client_keys.are_required():
        check_host(settings)
        check_origin(settings)


def check_host(settings: Settings) -> None:
    """Raise Forbidden if ``Host`` is a name that an attacker may have pointed to this machine.

    The header may be missing: HTTP/1.0 programs omit it, browsers always send it.
    """
    text = get_request().environ.get("HTTP_HOST", "")
    host = parse_host(text)
    if text and not (host and is_own_host(host.name, settings)):
        name = f"'{host.name[:200]}'" if host else "in this header"
        raise Forbidden(
            f"The host {name} is not a host of this server. Add it to FORWARDER_HOSTS, use an IP "
            "address, or give clients keys (FORWARDER_API_KEYS or forwarder keys create).",
            code="host_not_allowed",
        )


def check_origin(settings: Settings) -> None:
    """Raise Forbidden for a page of another origin that FORWARDER_CORS_ORIGINS does not list."""
    origin = get_request().headers.get("Origin")
    cors = settings.cors_origins
    if ANY in cors or (origin is not None and allows_origin(cors, origin)):
        return
    if is_foreign_origin(origin, settings):
        raise Forbidden(
            "Web pages of this origin are not allowed. Add the origin to FORWARDER_CORS_ORIGINS.",
            code="origin_not_allowed",
        )


def is_local(settings: Settings) -> bool:
    """Return whether a program on this machine sent the request to a loopback address.

    Requests through a proxy and requests by web pages of other origins are not local, even if
    FORWARDER_CORS_ORIGINS lists the origin or another port of this machine serves the page.
    """
    host = parse_host(get_request().environ.get("HTTP_HOST", ""))
    return (
        not any(name in get_request().headers for name in _PROXIED)
        and is_loopback(get_request().remote_addr or "")
        and host is not None
        and is_loopback(host.name)
        and not is_foreign_origin(get_request().headers.get("Origin"), settings)
        and (get_request().headers.get("Sec-Fetch-Site") != "same-site" or is_navigation())
    )


def is_foreign_origin(origin: str | None, settings: Settings) -> bool:
    """Return whether a web page of another origin sent the request."""
    if origin is not None and is_app_origin(origin.lower()):
        return False
    if get_request().headers.get("Sec-Fetch-Site", "").lower() == "cross-site":
        return not is_navigation()
    return origin is not None and not is_own_origin(origin.lower(), settings)


def is_navigation() -> bool:
    """Return whether a browser opens the requested page in a tab, as it does for a link.

    The page with the link can neither read the opened page nor show it in a frame.
    """
    headers = get_request().headers
    return (
        get_request().method == "GET"
        and "Origin" not in headers
        and headers.get("Sec-Fetch-Mode") == "navigate"
        and headers.get("Sec-Fetch-Dest") == "document"
    )


def is_app_origin(origin: str) -> bool:
    scheme, separator, rest = origin.partition("://")
    host = parse_host(rest)
    is_tauri_app = scheme in _DEFAULT_PORTS and host is not None and host.name == _APP_HOST
    return bool(separator) and (scheme in _APP_SCHEMES or is_tauri_app)


def is_own_origin(origin: str, settings: Settings) -> bool:
    """Return whether ``origin`` is the requested address or that of FORWARDER_PUBLIC_URL.

    The schemes may differ because a proxy may terminate TLS.
    """
    scheme, _, rest = origin.partition("://")
    host = parse_host(rest)
    if scheme not in _DEFAULT_PORTS or host is None:
        return False
    own = (parse_host(get_request().environ.get("HTTP_HOST", "")), find_public_host(settings))
    return host.with_port(scheme) in [each.with_port(scheme) for each in own if each]


def is_own_host(name: str, settings: Settings) -> bool:
    if name == "localhost" or name.endswith(".localhost") or parse_address(name):
        return True
    public = find_public_host(settings)
    return any(matches_pattern(name, pattern) for pattern in settings.hosts) or (
        public is not None and name == public.name
    )


def matches_pattern(name: str, pattern: str) -> bool:
    """Match a name with a pattern of FORWARDER_HOSTS: ``*``, ``*.example.com`` or a name."""
    return name.endswith(pattern[1:]) if pattern.startswith("*") else name == pattern


def find_public_host(settings: Settings) -> Host | None:
    scheme, _, rest = (settings.public_url or "").partition("://")
    host = parse_host(rest.partition("/")[0])
    return host.with_port(scheme) if host else None


@lru_cache(maxsize=_MAX_CACHED_HOSTS)
def parse_host(text: str) -> Host | None:
    """Parse and normalize ``name[:port]``; None if ``text`` is malformed."""
    match = _HOST.fullmatch(text.lower())
    if match is None:
        return None
    address, name, port = match.groups()
    return Host(address or name.removesuffix("."), int(port) if port else None)


def is_loopback(name: str) -> bool:
    address = parse_address(name)
    return name == "localhost" or (address is not None and address.is_loopback)


@lru_cache(maxsize=_MAX_CACHED_HOSTS)
def parse_address(name: str) -> IPv4Address | IPv6Address | None:
    """Parse an IP address. Returns IPv4 for ``::ffff:a.b.c.d``, as dual-stack sockets report it."""
    try:
        address = ip_address(name)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address
