"""The record ``started``: the addresses, upstreams and client keys of this process.

A text log shows it as a banner, once for all workers of gunicorn. A JSON log has it for each
worker. The record contains no keys. An application that only a command or gunicorn's
``--check-config`` has loaded writes none.
"""

from __future__ import annotations

import logging
import os
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import click
from flask import Flask

from forwarder import __version__
from forwarder.config.settings import Settings, UpstreamSettings
from forwarder.context.redaction import REDACTED, collect_upstream_secrets
from forwarder.core.types import Json
from forwarder.core.url_secrets import looks_like_secret
from forwarder.observability.logging import is_text_log
from forwarder.server.extension import get_extension
from forwarder.server.gunicorn_check import find_worker, is_first_worker
from forwarder.services import Services

log = logging.getLogger("forwarder.app")

CONSOLE_PATH = "/console"
_WILDCARD_HOSTS = {"http://0.0.0.0:": "http://127.0.0.1:", "http://[::]:": "http://[::1]:"}


def log_start(app: Flask) -> None:
    """Log the start of the server that is loading ``app``; do nothing without a server."""
    services = get_extension(app).services
    addresses = find_addresses()
    is_repeated = is_text_log(services.settings) and not is_first_worker()
    if addresses and not is_repeated:
        log.info(describe_start(app, services, addresses))


def find_addresses() -> list[str]:
    """Return the addresses of the server that loads the application; empty without a server."""
    worker = find_worker()
    if worker is not None:
        scheme = "https" if worker.cfg.is_ssl else "http"
        return [format_address(scheme, each.getsockname()) for each in worker.sockets]
    command = click.get_current_context(silent=True)
    if command is None or command.info_name != "run" or "port" not in command.params:
        return []  # not `flask run`
    scheme = "https" if command.params.get("cert") else "http"
    return [format_address(scheme, (command.params["host"], command.params["port"]))]


def format_address(scheme: str, name: Any) -> str:
    """Return the address of a socket's name: host and port, or the path of a Unix socket."""
    if isinstance(name, str | bytes):
        return f"unix:{os.fsdecode(name)}"
    host, port = name[:2]
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"


def describe_start(app: Flask, services: Services, addresses: list[str]) -> Json:
    """Return the record of the start."""
    settings = services.settings
    return {
        "event": "started",
        "version": __version__,
        "upstreams": [describe_upstream(each, services) for each in settings.upstreams],
        "needs_keys": services.client_keys.are_required(),
        "capture": settings.capture,
        "store": "none" if services.database is None else services.database.kind,
        "addresses": addresses,
        "console": list_console_urls(app, settings, addresses),
    }


def describe_upstream(upstream: UpstreamSettings, services: Services) -> dict[str, Any]:
    key_source = "none"
    if upstream.passthrough_key:
        key_source = "client"
    elif upstream.api_key or collect_upstream_secrets(upstream):
        key_source = "own"
    return {
        "name": upstream.name,
        "url": hide_path_secrets(upstream.base_url),
        "protocols": sorted(upstream.apis),
        "profile": services.upstreams.get_or_create(upstream).profile.name,
        "key": key_source,
    }


def hide_path_secrets(url: str) -> str:
    """Return a base URL without credentials, query, and parts of its path that look secret."""
    parts = urlsplit(url)
    segments = (REDACTED if looks_like_secret(each) else each for each in parts.path.split("/"))
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], "/".join(segments), "", ""))


def list_console_urls(app: Flask, settings: Settings, addresses: list[str]) -> list[str]:
    """Return the URLs of the console for a browser; none if the application has no console."""
    if not any(rule.rule.rstrip("/") == CONSOLE_PATH for rule in app.url_map.iter_rules()):
        return []
    bases = [settings.public_url] if settings.public_url else map(make_local, addresses)
    return [f"{base}{CONSOLE_PATH}" for base in bases if base.startswith(("http://", "https://"))]


def make_local(address: str) -> str:
    """Return an address that a browser on this machine can open."""
    for wildcard, local in _WILDCARD_HOSTS.items():
        if address.startswith(wildcard):
            return local + address.removeprefix(wildcard)
    return address
