"""Access to settings and services for commands."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import click
from flask.cli import ScriptInfo, run_command

from forwarder.cli.check import InvalidConfiguration
from forwarder.config.settings import ConfigError, Settings, load_settings
from forwarder.observability.logging import configure_logging
from forwarder.server.extension import ForwarderExtension, get_extension
from forwarder.services import Services


def with_services(command: Callable[..., Any]) -> Callable[..., Any]:
    """Pass `Services` as first argument to a command; no background loop runs for it."""

    @wraps(command)
    def run(*arguments: Any, **options: Any) -> Any:
        with open_services() as services:
            return command(services, *arguments, **options)

    return run


def with_settings(command: Callable[..., Any]) -> Callable[..., Any]:
    """Pass `Settings` as first argument to a command that builds services of its own."""

    @wraps(command)
    def run(*arguments: Any, **options: Any) -> Any:
        return command(read_settings(), *arguments, **options)

    return run


@contextmanager
def open_services() -> Iterator[Services]:
    """Yield the services of the loaded application, or build services for this command."""
    settings, extension = read_settings(), find_loaded_extension()
    if extension is not None:
        yield extension.services
        return
    with Services.build(settings) as services:
        yield services


def read_settings() -> Settings:
    """Return the settings of the loaded application, or else those of the environment."""
    extension = find_loaded_extension()
    try:
        settings = load_settings() if extension is None else extension.settings
    except ConfigError as error:
        raise InvalidConfiguration(error.mistakes) from error
    configure_logging(settings, min_level="WARNING")  # a command prints its result
    return settings


def is_loaded_for_command() -> bool:
    """Return whether ``flask`` is loading the application for another command than ``run``."""
    context = click.get_current_context(silent=True)
    if context is None or context.find_object(ScriptInfo) is None:
        return False
    return context.command is not run_command


def find_loaded_extension() -> ForwarderExtension | None:
    """Return the extension of the application that ``flask`` has loaded to find its commands."""
    script = click.get_current_context().find_object(ScriptInfo)
    return None if script is None else get_extension(script.load_app())
