"""``forwarder check``: validates the settings without starting the server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import click

from forwarder.cli import print_line
from forwarder.config.gunicorn_conf import read_environment, read_settings
from forwarder.config.settings import ConfigError, Settings, load_settings
from forwarder.hosted_tools.tool_services import read_servers


class InvalidConfiguration(click.ClickException):
    """Prints all mistakes, one per line, and exits with 2."""

    exit_code = 2

    def __init__(self, mistakes: list[str]) -> None:
        super().__init__("the configuration is invalid:\n" + "\n".join(mistakes))


@click.command("check")
def check() -> None:
    """Check all settings and list every mistake.

    Reads the environment and the file .env in the current directory, as "forwarder serve" does.
    Contacts no upstream and opens no database. Exits with 2 if a setting is invalid.
    """
    mistakes: list[str] = []
    gunicorn = read_settings(read_environment(Path.cwd()), mistakes.append)
    settings = None
    try:
        settings = load_settings()
        read_servers(settings)
    except ConfigError as error:
        mistakes = [*error.mistakes, *mistakes]
    if mistakes or settings is None:
        raise InvalidConfiguration(mistakes)
    print_line("The configuration is valid.")
    for label, text in _summarize(settings, gunicorn):
        print_line(f"  {label:<10}{text}")


def _summarize(settings: Settings, gunicorn: dict[str, str | int]) -> Iterator[tuple[str, str]]:
    """Yield label and text of each line, without keys and passwords."""
    for upstream in settings.upstreams:
        host = "built-in demo" if settings.demo else urlsplit(upstream.base_url).hostname
        several = f", {len(upstream.endpoints)} endpoints" if upstream.replicas else ""
        apis = " and ".join(sorted(upstream.apis))
        yield "upstream", f"{upstream.name}: {host}{several}, speaks {apis}"
    for group, members in settings.groups.items():
        yield "group", f"{group}: {', '.join(f'{m.upstream}/{m.model}' for m in members)}"
    yield "clients", describe_keys(settings)
    database, _, path = settings.database_url.partition(":///")
    yield "database", path if database == "sqlite" else database.partition(":")[0]
    workers = gunicorn["workers"]
    yield "serves", f"{gunicorn['bind']}, {workers} worker{'s' if workers != 1 else ''}"


def describe_keys(settings: Settings) -> str:
    """Return which clients need a key; the database, which may have keys, is not opened."""
    if settings.client_keys == "optional":
        return "need no key"
    keys = settings.client_count
    if keys:
        return f"need one of {keys} keys, or one made at run time"
    if settings.client_keys == "required":
        return "need a key made at run time"
    return "need no key until one is made at run time"
