"""Requests that browsers make for web pages: which of them are served.

A page cannot show a client's key that it does not know.  Where no keys are asked for, two other
attacks are possible: a page of another site sends requests (cross-site request forgery), and a page
whose own name is made to resolve to this machine reads the answers too (DNS rebinding).  The first
is recognised by its ``Origin`` and ``Sec-Fetch-Site``, the second by its ``Host``.  No page can set
any of the three.  ``X-Forwarded-Host`` is not read: a page can set it.
"""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import NamedTuple

from flask import Flask, current_app, request

from forwarder.config.settings import Settings
from forwarder.core.errors import Forbidden
from forwarder.pipeline.gateway import Gateway
from forwarder.server.cors import ANY, allows_origin

_PROXIED = (
    *("Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto"),
    *("X-Real-Ip", "Via"),
)
"""Headers that proxies add."""

_APP_SCHEMES = ("app", "file", "tauri", "vscode-file", "vscode-webview")
"""Schemes of origins of desktop apps, as Ollama allows them.  A page of a file sends ``null``."""

_APP_HOST = "tauri.localhost"
"""The host that Tauri's apps have on Windows, under http or https."""

_DEFAULT_PORTS = {"http": 80, "https": 443}

_HOST = re.compile(r"(?:\[([0-9a-f:.]+)\]|([a-z0-9._-]+))(?::([0-9]{1,5}))?", re.ASCII)


class Host(NamedTuple):
    """A ``Host`` header, or the part of an origin behind its scheme."""

    name: str
    port: int | None

    def with_port(self, scheme: str) -> Host:
        """The same with the port that ``scheme`` implies, if it names none."""
        return Host(self.name, self.port or _DEFAULT_PORTS.get(scheme))


def guard_browsers(app: Flask) -> None:
    """Check every request of ``app``, where no keys of clients are asked for."""
    app.before_request(check_request)


def check_request() -> None:
    bridge: Gateway = current_app.extensions["forwarder"]
    if not bridge.settings.api_keys:
        check_host(bridge.settings)
        check_origin(bridge.settings)


def check_host(settings: Settings) -> None:
    """Raise Forbidden if the request was made to a name that a stranger may have pointed here.

    Programs that speak HTTP/1.0 may send no name; browsers always send one.
    """
    text = request.environ.get("HTTP_HOST", "")
    host = parse_host(text)
    if text and not (host and is_own_host(host.name, settings)):
        name = f"'{host.name[:200]}'" if host else "in this header"
        raise Forbidden(
            f"The host {name} is not one of this server's. As long as FORWARDER_API_KEYS is not "
            "set, add it to FORWARDER_HOSTS or use an IP address.",
            code="host_not_allowed",
        )


def check_origin(settings: Settings) -> None:
    """Raise Forbidden if a page of another origin made the request, unless it is allowed to."""
    origin = request.headers.get("Origin")
    cors = settings.cors_origins
    if ANY in cors or (origin is not None and allows_origin(cors, origin)):
        return
    if is_foreign_origin(origin, settings):
        raise Forbidden(
            "Pages of other origins are not served. FORWARDER_CORS_ORIGINS lists those that are.",
            code="origin_not_allowed",
        )


def is_local(settings: Settings) -> bool:
    """Whether a program of this machine's user made the request, on this machine and for it.

    No page of another origin counts as one, not even of FORWARDER_CORS_ORIGINS or of this machine.
    """
    host = parse_host(request.environ.get("HTTP_HOST", ""))
    return (
        not any(name in request.headers for name in _PROXIED)
        and is_loopback(request.remote_addr or "")
        and host is not None
        and is_loopback(host.name)
        and not is_foreign_origin(request.headers.get("Origin"), settings)
        and request.headers.get("Sec-Fetch-Site") != "same-site"
    )


def is_foreign_origin(origin: str | None, settings: Settings) -> bool:
    """Whether a web page of another origin made the request."""
    if origin is not None and is_app_origin(origin.lower()):
        return False
    if request.headers.get("Sec-Fetch-Site", "").lower() == "cross-site":
        return True
    return origin is not None and not is_own_origin(origin.lower(), settings)


def is_app_origin(origin: str) -> bool:
    scheme, separator, rest = origin.partition("://")
    host = parse_host(rest)
    of_tauri = scheme in _DEFAULT_PORTS and host is not None and host.name == _APP_HOST
    return bool(separator) and (scheme in _APP_SCHEMES or of_tauri)


def is_own_origin(origin: str, settings: Settings) -> bool:
    """Whether an origin is the address to which the request was made, or FORWARDER_PUBLIC_URL's.

    A proxy may have taken TLS off, so the schemes may differ.
    """
    scheme, _, rest = origin.partition("://")
    host = parse_host(rest)
    if scheme not in _DEFAULT_PORTS or host is None:
        return False
    own = (parse_host(request.environ.get("HTTP_HOST", "")), find_public_host(settings))
    return host.with_port(scheme) in [each.with_port(scheme) for each in own if each]


def is_own_host(name: str, settings: Settings) -> bool:
    if name == "localhost" or name.endswith(".localhost") or parse_address(name):
        return True
    public = find_public_host(settings)
    return any(matches_pattern(name, pattern) for pattern in settings.hosts) or (
        public is not None and name == public.name
    )


def matches_pattern(name: str, pattern: str) -> bool:
    """Whether a pattern of FORWARDER_HOSTS (``*``, ``*.example.com``, a name) has this name."""
    return name.endswith(pattern[1:]) if pattern.startswith("*") else name == pattern


def find_public_host(settings: Settings) -> Host | None:
    scheme, _, rest = (settings.public_url or "").partition("://")
    host = parse_host(rest.partition("/")[0])
    return host.with_port(scheme) if host else None


def parse_host(text: str) -> Host | None:
    """A host in its normal form; None if this is none."""
    found = _HOST.fullmatch(text.lower())
    if found is None:
        return None
    address, name, port = found.groups()
    return Host(address or name.removesuffix("."), int(port) if port else None)


def is_loopback(name: str) -> bool:
    address = parse_address(name)
    return name == "localhost" or (address is not None and address.is_loopback)


def parse_address(name: str) -> IPv4Address | IPv6Address | None:
    """An address; one of IPv4 is that too where a socket for both spells it as one of IPv6."""
    try:
        address = ip_address(name)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address
