"""The application factory: it connects services, blueprints and WSGI middleware."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import click
from flask import Flask, Request
from flask.sessions import NullSession, SessionInterface
from werkzeug.middleware.proxy_fix import ProxyFix

from forwarder.cli.context import is_loaded_for_command
from forwarder.cli.keys import keys_group, secrets_group
from forwarder.cli.models import models_group
from forwarder.cli.openapi import make_openapi_command
from forwarder.cli.replay import make_replay_command
from forwarder.cli.upstream import probe_command, translate_command
from forwarder.cli.usage import print_usage
from forwarder.client_keys.registry import DatabaseClientKeyRegistry
from forwarder.config.settings import Settings, load_settings
from forwarder.console import exchange_stream, exchanges, landing, playground, replay
from forwarder.console import keys as key_pages
from forwarder.console import models as model_pages
from forwarder.console import upstreams as upstream_pages
from forwarder.console import usage as usage_page
from forwarder.console.blueprint import blueprint as console_blueprint
from forwarder.context.request_context import RequestObserver
from forwarder.core.large_bodies import take_turn
from forwarder.core.paced_iteration import LARGE_BYTES, set_pause
from forwarder.observability.capture.replay import ReplayRequest
from forwarder.observability.logging import configure_logging
from forwarder.server import (
    client_keys,
    codex_search,
    conversations,
    diagnostics,
    docs,
    files,
    health,
    images,
    json_body,
    messages,
    metrics,
    ollama,
    openai,
    openapi,
    request_hooks,
    stored_answers,
    usage,
    vector_stores,
    websocket,
)
from forwarder.server.base_paths import PathAliases, install_base_paths
from forwarder.server.browser_guard import guard_browsers
from forwarder.server.cors import CrossOrigin
from forwarder.server.extension import install_extension
from forwarder.server.form_body import MAX_FORM_PARTS, FormRequest
from forwarder.server.replay_application import install_replay
from forwarder.services import ReplayOverrides, Services

V1_MODULES = (
    openai, messages, files, images, vector_stores, codex_search, stored_answers,
    conversations, websocket,
)  # fmt: skip
"""Modules of which all routes have the prefix ``/v1``. With `PathAliases`, clients may omit it."""

OTHER_MODULES = (
    landing, ollama, diagnostics, client_keys, usage, docs, openapi, health, metrics,
)  # fmt: skip

CONSOLE_PAGES = (
    exchange_stream, exchanges, playground, replay, model_pages, upstream_pages, usage_page,
    key_pages,
)  # fmt: skip
"""Modules that add their pages to the blueprint of the console when they are imported."""


class NoSessions(SessionInterface):
    """Gives all requests the same empty, read-only session, since no view uses one."""

    def __init__(self) -> None:
        self._session = NullSession()

    def open_session(self, app: Flask, request: Request) -> NullSession:
        """Return the empty session."""
        return self._session


class Application(Flask):
    """A Flask application without asynchronous functions and without sessions."""

    session_interface = NoSessions()

    request_class = FormRequest

    jinja_options = {"trim_blocks": True, "lstrip_blocks": True}

    def ensure_sync(self, func: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function itself. Flask would inspect each hook and view in every request."""
        return func


def create_app(settings: Settings | None = None) -> Flask:
    """Create the WSGI application. By default it reads its settings from the environment.

    Starts the background loops, unless ``flask`` needs the application only for a command. Raises
    ConfigError, with one line per mistake, if the configuration is invalid.
    """
    settings = settings or load_settings()
    configure_logging(settings)
    services = Services.build(settings)
    app = make_app(services)
    if not is_loaded_for_command():
        services.start()
    return app


def make_app(services: Services) -> Flask:
    """Create an application over ``services``, which the caller starts and closes."""
    settings = services.settings
    app = Application("forwarder", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = settings.max_body
    app.config["MAX_FORM_PARTS"] = MAX_FORM_PARTS
    app.config["SOCK_SERVER_OPTIONS"] = websocket.build_socket_options(settings)
    set_pause(partial(take_turn, LARGE_BYTES))
    install_extension(app, services)
    install_replay(app, answer_replay)
    openapi.install_document(app, encode_openapi_document)
    for command in build_commands():
        app.cli.add_command(command)
    if settings.trusted_proxies:
        proxied = ProxyFix(app.wsgi_app, x_for=settings.trusted_proxies, x_proto=0, x_host=0)
        app.wsgi_app = proxied  # type: ignore[method-assign]
    may_limit_keys = isinstance(services.client_keys, DatabaseClientKeyRegistry)
    if settings.rate_requests or settings.rate_tokens or may_limit_keys:
        # First, so that a request is charged before other observers count it.
        services.observers.insert(0, build_rate_limiter(services))
    register_routes(app)
    paths = [rule.rule.split("/") for rule in app.url_map.iter_rules()]
    roots = {parts[2] for parts in paths if parts[1] == "v1"}
    app.wsgi_app = PathAliases(app.wsgi_app, roots)  # type: ignore[method-assign]
    install_base_paths(app)
    if settings.cors_origins:
        app.wsgi_app = CrossOrigin(app.wsgi_app, settings.cors_origins)  # type: ignore[method-assign]
    request_hooks.install_hooks(app)
    guard_browsers(app)
    json_body.install_decoding(app)
    return app


def register_routes(app: Flask) -> None:
    for module in V1_MODULES:
        app.register_blueprint(module.blueprint, url_prefix="/v1")
    for module in OTHER_MODULES:
        app.register_blueprint(module.blueprint)
    app.register_blueprint(console_blueprint)


def build_commands() -> list[click.Command]:
    """Return the commands that ``flask`` and ``forwarder`` have in common."""
    return [
        probe_command,
        translate_command,
        models_group,
        keys_group,
        secrets_group,
        print_usage,
        make_openapi_command(make_app),
        make_replay_command(answer_replay),
    ]


def answer_replay(
    settings: Settings, overrides: ReplayOverrides, request: ReplayRequest
) -> tuple[int, bytes]:
    """Answer one replayed request with a separate application; return status and body."""
    with (
        Services.build(settings, overrides) as services,
        make_app(services)
        .test_client()
        .post(request.path, data=request.body, headers=request.headers) as answer,
    ):
        return answer.status_code, answer.get_data()


def encode_openapi_document(routes: list[openapi.DocumentRoute], base_url: str) -> bytes:
    # Imported here, so that only a process that serves the document loads its tables.
    from forwarder.openapi.document import encode_document

    return encode_document(routes, base_url)


def build_rate_limiter(services: Services) -> RequestObserver:
    # Imported here, so that a process without limits does not load the library.
    from forwarder.server.rate_limit import RateLimitObserver

    return RateLimitObserver(services.settings, services.metrics)
