"""``create_app``: wiring only."""

from __future__ import annotations

import logging

from flask import Flask

from forwarder import commands, config, logs
from forwarder.bridge import Bridge
from forwarder.config import Settings
from forwarder.routes import dry_run, exchanges, files, health, metrics, openai

log = logging.getLogger("forwarder.app")


def create_app(settings: Settings | None = None) -> Flask:
    """The WSGI application; settings come from the environment unless given.

    Raises ConfigError, with one line for each mistake, when the configuration is invalid.
    """
    settings = settings or config.load()
    logs.configure(settings.log_level)
    app = Flask("forwarder", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = settings.max_body
    bridge = app.extensions["forwarder"] = Bridge(settings)
    for command in (commands.probe, commands.translate, commands.fidelity):
        app.cli.add_command(command(bridge))
    for prefix in ("/v1", "/"):
        app.register_blueprint(openai.blueprint, url_prefix=prefix, name=f"openai{prefix}")
        app.register_blueprint(files.blueprint, url_prefix=prefix, name=f"files{prefix}")
    app.register_blueprint(dry_run.blueprint)
    app.register_blueprint(health.blueprint)
    app.register_blueprint(metrics.blueprint)
    exchanges.attend(app)
    _announce(settings)
    return app


def _announce(settings: Settings) -> None:
    if settings.demo:
        log.warning(
            "No upstream is configured: answering from the built-in demo. "
            "Set CHAT_BASE_URL or RESPONSES_BASE_URL to use a provider."
        )
    for upstream in settings.upstreams:
        log.info("upstream '%s' speaks %s", upstream.name, "/".join(sorted(upstream.apis)))
