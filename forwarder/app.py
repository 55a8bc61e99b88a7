"""The application factory: it connects settings, gateway, blueprints and WSGI middleware."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from functools import partial

from flask import Flask
from werkzeug.middleware.proxy_fix import ProxyFix

from forwarder.cli.models import build_keys_group, build_models_group
from forwarder.cli.replay import make_replay_command
from forwarder.cli.upstream import build_probe_command, build_translate_command
from forwarder.config import settings as config
from forwarder.config.settings import Settings
from forwarder.context.request_context import RequestObserver
from forwarder.core.encryption import MIN_STRONG_SECRET_LENGTH
from forwarder.core.large_bodies import take_turn
from forwarder.core.pacing import LARGE, set_pause
from forwarder.observability import logging as logs
from forwarder.pipeline.gateway import Gateway
from forwarder.server import (
    captures,
    conversations,
    docs,
    dry_run,
    files,
    health,
    images,
    json_body,
    metrics,
    ollama,
    ollama_models,
    openai,
    request_context,
    stored,
    websocket,
)
from forwarder.server.browser_guard import guard_browsers
from forwarder.server.cors import CrossOrigin
from forwarder.server.path_aliases import PathAliases
from forwarder.server.reasoning_base_paths import install_base_paths

log = logging.getLogger("forwarder.app")


def create_app(settings: Settings | None = None) -> Flask:
    """Create the WSGI application. By default it reads its settings from the environment.

    Raises ConfigError, with one line per mistake, if the configuration is invalid.
    """
    settings = settings or config.load_settings()
    logs.configure_logging(settings.log_level)
    app = Flask("forwarder", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = settings.max_body
    app.config["SOCK_SERVER_OPTIONS"] = websocket.build_socket_options(settings)
    set_pause(partial(take_turn, LARGE))
    gateway = app.extensions["forwarder"] = Gateway(settings)
    for command in (
        build_probe_command,
        build_translate_command,
        build_models_group,
        build_keys_group,
        make_replay_command(create_app),
    ):
        app.cli.add_command(command)
    if settings.trusted_proxies:
        proxied = ProxyFix(app.wsgi_app, x_for=settings.trusted_proxies, x_proto=0, x_host=0)
        app.wsgi_app = proxied  # type: ignore[method-assign]
    if settings.rate_requests or settings.rate_tokens:
        gateway.observers.insert(
            0, build_rate_limiter(app, gateway)
        )  # charge before the metrics count
    if settings.tracing:
        gateway.observers.extend(build_tracing())
    for prefix in ("/v1", "/"):
        app.register_blueprint(openai.blueprint, url_prefix=prefix, name=f"openai{prefix}")
        for module in (files, images, stored, conversations, websocket):
            app.register_blueprint(
                module.blueprint, url_prefix=prefix, name=f"{module.blueprint.name}{prefix}"
            )
    app.register_blueprint(ollama.blueprint, url_prefix="/api")
    app.register_blueprint(dry_run.blueprint)
    app.register_blueprint(captures.blueprint)
    app.register_blueprint(ollama_models.blueprint)
    app.register_blueprint(docs.blueprint)
    app.register_blueprint(health.blueprint)
    app.register_blueprint(metrics.blueprint)
    app.wsgi_app = PathAliases(app.wsgi_app)  # type: ignore[method-assign]
    install_base_paths(app)
    if settings.cors_origins:
        app.wsgi_app = CrossOrigin(app.wsgi_app, settings.cors_origins)  # type: ignore[method-assign]
    request_context.install_hooks(app)
    guard_browsers(app)
    json_body.install_decoding(app)
    log_configuration(settings)
    return app


def build_rate_limiter(app: Flask, gateway: Gateway) -> RequestObserver:
    # Imported here: without limits, the process does not load the libraries.
    from flask_limiter import Limiter

    from forwarder.server.rate_limit import RateLimitObserver, make_storage_options

    storage = gateway.settings.rate_storage
    limiter = Limiter(
        lambda: "",  # unused: RateLimitObserver identifies the client
        app=app,
        storage_uri=storage,
        storage_options=make_storage_options(storage),
        strategy="fixed-window",
    )
    return RateLimitObserver(limiter.limiter, gateway.settings, gateway.metrics)


def build_tracing() -> Iterator[RequestObserver]:
    try:
        from forwarder.observability.tracing import make_tracing_observer
    except ImportError as error:
        log.error(
            "Tracing is off although an OpenTelemetry endpoint is set: '%s' is not installed "
            "(pip install -r requirements-otel.txt).",
            error.name,
            extra={"event": "tracing_unavailable"},
        )
    else:
        yield make_tracing_observer()


def log_configuration(settings: Settings) -> None:
    if settings.demo:
        log.warning(
            "No upstream is configured: answering from the built-in demo. "
            "Set CHAT_BASE_URL or RESPONSES_BASE_URL to use a provider.",
            extra={"event": "demo_upstream"},
        )
    if any(len(secret) < MIN_STRONG_SECRET_LENGTH for secret in settings.secret_keys):
        log.warning(
            "FORWARDER_SECRET_KEY contains a secret of fewer than %d characters, which an attacker "
            "may guess. Put a long random secret in front of it (openssl rand -base64 32).",
            MIN_STRONG_SECRET_LENGTH,
            extra={"event": "weak_secret_key"},
        )
    for upstream in settings.upstreams:
        log.info(
            "upstream '%s' speaks %s",
            upstream.name,
            "/".join(sorted(upstream.apis)),
            extra={"event": "upstream_configured"},
        )
