"""``forwarder keys`` and ``forwarder secrets``: client keys, and encryption of the database.

A new key is the only text on standard output, so that a script can read it. All other messages go
to standard error.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any, TypeVar

import click

from forwarder.cli import CommandError, print_line
from forwarder.cli.context import with_services
from forwarder.cli.models import run_or_fail
from forwarder.client_keys.key import ClientKey, format_moment
from forwarder.client_keys.registry import CreatedKey
from forwarder.core.types import Json
from forwarder.models.registered_model import strip_tag
from forwarder.services import Services

F = TypeVar("F", bound=Callable[..., Any])

REMOVE = "none"
"""The value of an option that removes a limit."""


@click.group("keys")
def keys_group() -> None:
    """Manage the keys of clients."""


@click.group("secrets")
def secrets_group() -> None:
    """Manage the encryption of the database."""


def with_limit_options(command: F) -> F:
    """Add the options of the limits of a key."""
    options = (
        click.option("--models", metavar="GLOBS", help="Models, separated by commas: gpt-*,qwen"),
        click.option("--rpm", metavar="N", help="Requests per minute."),
        click.option("--tpm", metavar="N", help="Tokens per minute."),
        click.option("--budget", help='"5 usd/month" or "1000000 tokens/day".'),
        click.option("--expires", metavar="DATE|30d", help="Date (UTC) or duration."),
        click.option("--reasoning", metavar="STYLES", help="Reasoning styles, as in the settings."),
    )
    for option in reversed(options):
        command = option(command)
    return command


def read_limit_options(options: dict[str, str | None]) -> Json:
    """Return the body of the API that the options describe."""
    names = {"rpm": "requests_per_minute", "tpm": "tokens_per_minute"}
    body: Json = {}
    for option, value in options.items():
        if value is None:
            continue
        if value == REMOVE and option != "reasoning":  # "none" is a style
            body[names.get(option, option)] = None
        elif option not in names:
            body[option] = value
        elif value.isdecimal():
            body[names[option]] = int(value)
        else:
            raise click.UsageError(f"--{option} must be a number")
    return body


@keys_group.command("create")
@click.argument("name")
@with_limit_options
@with_services
def create(services: Services, name: str, **options: str | None) -> None:
    """Make a key for the client NAME and print it. It cannot be shown again.

    With the first key every client needs one, unless FORWARDER_CLIENT_KEYS is optional.
    """
    needed_keys = services.client_keys.are_required()
    body = {"name": name, **read_limit_options(options)}
    created = run_or_fail(lambda: services.client_keys.create(body))
    print_secret(created)
    if services.client_keys.are_required():
        if not needed_keys:
            print_line(
                "From now on every client needs a key: requests without one get a 401.", err=True
            )
    else:
        print_line(
            "Clients need no key, since FORWARDER_CLIENT_KEYS is optional: limits apply only to "
            "clients that send this one.",
            err=True,
        )


@keys_group.command("list")
@with_services
def list_keys(services: Services) -> None:
    """List all keys, revoked ones included."""
    now = time.time()
    rows = [("NAME", "STATE", "KEY", "MODELS", "LIMITS", "EXPIRES", "LAST USED")]
    for key in run_or_fail(services.client_keys.list_keys):
        values = key.to_json(now)
        rows.append(
            (
                key.name,
                key.get_state(now),
                values["hint"],
                ",".join(key.grants.models) or "all",
                describe_limits(key) or "-",
                format_moment(key.expires) or "-",
                format_moment(key.last_used) or "never",
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print_line("  ".join(cells).rstrip())


@keys_group.command("show")
@click.argument("name")
@with_services
def show(services: Services, name: str) -> None:
    """Show a key, by its name or id, and the used part of its budget."""
    key = run_or_fail(lambda: services.client_keys.get_key(name))
    values, budget = key.to_json(time.time()), key.grants.budget
    if budget is not None:
        values["budget_used"] = run_or_fail(lambda: services.budgets.get_used(key.name, budget))
    print_line(json.dumps(values, ensure_ascii=False, indent=2))


@keys_group.command("change")
@click.argument("name")
@with_limit_options
@with_services
def change(services: Services, name: str, **options: str | None) -> None:
    """Change limits of a key; "none" removes one."""
    body = read_limit_options(options)
    if not body:
        raise click.UsageError("name a limit that is to change")
    key = run_or_fail(lambda: services.client_keys.change(name, body))
    print_line(f"{key.name}: {describe_limits(key) or 'no limits'}")


@keys_group.command("revoke")
@click.argument("name")
@with_services
def revoke(services: Services, name: str) -> None:
    """Revoke a key permanently, on all workers."""
    key = run_or_fail(lambda: services.client_keys.revoke(name))
    print_line(f"revoked {key.name}")


@keys_group.command("rotate")
@click.argument("name", required=False)
@click.option("--grace", metavar="24h", help="How long the previous key stays valid.")
@with_services
def rotate(services: Services, name: str | None, grace: str | None) -> None:
    """Print a new key for the client NAME, which keeps its stored data.

    Without NAME, the command runs "forwarder secrets rotate", as it did until version 0.2.
    """
    if name is None:
        print_line(
            'warning: "forwarder keys rotate" without a name is now "forwarder secrets rotate"; '
            "the next version refuses it",
            err=True,
        )
        rotate_secrets(services)
        return
    print_secret(run_or_fail(lambda: services.client_keys.rotate(name, grace)))


@secrets_group.command("rotate")
@with_services
def rotate_secret(services: Services) -> None:
    """Re-encrypt the database with the current secret.

    That is the first one in FORWARDER_SECRET_KEY; list the old ones behind it ("new,old").
    Afterwards the database no longer needs the old secrets, and you can remove them.
    """
    rotate_secrets(services)


def rotate_secrets(services: Services) -> None:
    if not services.settings.secret_keys:
        raise CommandError(
            "FORWARDER_SECRET_KEY is not set: set it to a new secret, a comma and the secret from "
            "the file beside the database."
        )
    result = run_or_fail(services.rotate_keys)
    print_line(f"re-encrypted: the keys of {result.models} models, {result.rows} other rows")
    if result.lost_models:
        lost = ", ".join(map(strip_tag, result.lost_models))
        raise CommandError(f"no secret decrypts the keys of: {lost}")


def print_secret(created: CreatedKey) -> None:
    key = created.key
    print_line(f"The key of {key.name}, which is shown only now:", err=True)
    print_line(created.secret)
    if key.previous_until is not None:
        until = format_moment(key.previous_until)
        print_line(f"The previous key stays valid until {until}.", err=True)


def describe_limits(key: ClientKey) -> str:
    """Return the limits of a key in a few words, ``""`` without limits."""
    grants = key.grants
    parts = [
        f"{grants.requests_per_minute} rpm" if grants.requests_per_minute else "",
        f"{grants.tokens_per_minute} tpm" if grants.tokens_per_minute else "",
        str(grants.budget or ""),
    ]
    return ", ".join(filter(None, parts))
