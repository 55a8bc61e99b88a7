"""The forwarder's objects in a Flask application, and Flask's current objects without a proxy.

The forwarder's objects are ``app.extensions["forwarder"]``.
"""

from __future__ import annotations

from typing import Any

from flask import Flask, Request, current_app, g, request

from forwarder.config.settings import Settings
from forwarder.core.in_flight_requests import InFlightRequests
from forwarder.pipeline.gateway import Gateway
from forwarder.services import Services

_NAME = "forwarder"


class ForwarderExtension:
    """The services and the gateway of an application.

    gunicorn's worker reads ``settings`` and ``running`` and calls `resume_background_work` and
    `save_usage`, all by name: after a SIGHUP its version may differ from the application's.
    """

    def __init__(self, services: Services) -> None:
        self.services = services
        self.gateway = Gateway(services)

    @property
    def settings(self) -> Settings:
        """The settings of the application."""
        return self.services.settings

    @property
    def running(self) -> InFlightRequests:
        """The requests in flight."""
        return self.services.running

    def resume_background_work(self) -> None:
        """Start taking over background work of workers that have stopped."""
        self.gateway.resume_background_work()

    def save_usage(self) -> None:
        """Store the usage that was not stored yet, because the process ends."""
        self.services.usage.close()


def install_extension(app: Flask, services: Services) -> None:
    """Make ``services`` and their gateway those of ``app``."""
    app.extensions[_NAME] = ForwarderExtension(services)


def get_extension(app: Flask) -> ForwarderExtension:
    """Return the extension of an application."""
    extension: ForwarderExtension = app.extensions[_NAME]
    return extension


def get_services() -> Services:
    """Return the services of the current application."""
    # Flask's proxy would look the application up again for each of its attributes.
    app: Flask = current_app._get_current_object()  # type: ignore[attr-defined]
    extension: ForwarderExtension = app.extensions[_NAME]
    return extension.services


def get_gateway() -> Gateway:
    """Return the gateway of the current application."""
    extension: ForwarderExtension = current_app.extensions[_NAME]
    return extension.gateway


def get_request() -> Request:
    """Return the current request without Flask's proxy, which looks it up at each access."""
    flask_request: Request = request._get_current_object()  # type: ignore[attr-defined]
    return flask_request


def get_globals() -> Any:
    """Return Flask's ``g`` of the current request without its proxy."""
    return g._get_current_object()
