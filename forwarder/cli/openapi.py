"""``forwarder openapi``: prints the OpenAPI document that the server has at ``/openapi.json``."""

from __future__ import annotations

from collections.abc import Callable

import click
from flask import Flask

from forwarder.cli.context import with_services
from forwarder.server.openapi import read_document
from forwarder.services import Services


def make_openapi_command(make_app: Callable[[Services], Flask]) -> click.Command:
    """Create the command; ``make_app`` is `app.make_app`, whose module imports this one."""

    @click.command("openapi")
    @with_services
    def command(services: Services) -> None:
        """Print the OpenAPI document of all routes."""
        click.echo(read_document(make_app(services)))

    return command
