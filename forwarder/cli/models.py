"""``forwarder models`` and ``forwarder keys``: registered models and the secrets in the database.

The command asks for a key, or reads it from the environment or standard input: every user of the
machine can see a command line, and the shell keeps it in its history.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import click
import orjson

from forwarder.cli.context import with_bridge
from forwarder.core.errors import ForwarderError
from forwarder.core.terminal_escapes import echo, escape_controls
from forwarder.core.types import Json
from forwarder.models import ollama_views
from forwarder.models.names import short
from forwarder.models.ollama_views import Shown
from forwarder.models.probe import Check, listed
from forwarder.models.registered_model import KINDS, Remote
from forwarder.models.registry import not_found
from forwarder.pipeline.gateway import Bridge

T = TypeVar("T")

KEY_VARIABLE = "REMOTE_API_KEY"


@click.group("models")
def models() -> None:
    """Models of other providers that are registered in the database."""


@click.group("keys")
def keys() -> None:
    """What is sealed in the database."""


@keys.command("rotate")
@with_bridge
def rotate(bridge: Bridge) -> None:
    """Seal everything in the database with the first secret of FORWARDER_SECRET_KEY.

    The others have to be there too, "new,old"; afterwards they are of no use for what is in
    the database, and can go.
    """
    if not bridge.settings.secret_keys:
        raise click.ClickException(
            "FORWARDER_SECRET_KEY is not set: put a new secret there and, behind a comma, the "
            "one that is kept in the file beside the database."
        )
    done = _done(bridge.rotate)
    echo(f"sealed anew: the keys of {done.models} models, {done.rows} other rows")
    if done.lost:
        lost = ", ".join(map(short, done.lost))
        raise click.ClickException(f"no secret opens the keys of: {lost}")


def _not_in_sight(context: click.Context, option: click.Parameter, value: Any) -> Any:
    source = context.get_parameter_source(option.name or "")
    if source is click.core.ParameterSource.COMMANDLINE:
        raise click.UsageError(
            f"a key does not belong in a command line: set {KEY_VARIABLE}, or use --key-stdin"
        )
    return value


@models.command("create")
@click.argument("name")
@click.option("--from", "model", required=True, help="What the remote calls the model.")
@click.option("--host", help="The remote's base URL; without one, NAME is another name here.")
@click.option("--type", "kind", type=click.Choice(tuple(KINDS)), help="What it speaks.")
@click.option("--provider", help="Its profile, where the URL does not give it away.")
@click.option("--parameter", "parameters", multiple=True, metavar="NAME=VALUE")
@click.option("--system", help="The system prompt, where clients send none.")
@click.option("--key-stdin", is_flag=True, help="Read the key from the standard input.")
@click.option("--no-verify", is_flag=True, help="Do not ask the remote first.")
@click.option("--key", envvar=KEY_VARIABLE, hidden=True, callback=_not_in_sight)
@with_bridge
def create(bridge: Bridge, key: str | None, key_stdin: bool, **given: Any) -> None:
    """Register a model under NAME.

    Its key is asked for, or read from the variable REMOTE_API_KEY or the standard input.
    """
    body: Json = {
        "model": given["name"],
        "from": given["model"],
        "remote_host": given["host"],
        "remote_type": given["kind"],
        "provider": given["provider"],
        "parameters": dict(map(_parameter, given["parameters"])),
        "system": given["system"],
        "verify": not given["no_verify"],
    }
    if given["host"]:
        body["remote_api_key"] = _key(key, key_stdin)
    created = _done(lambda: bridge.creating.create(body))
    echo(f"{given['name']}: {_told(created.check) if created.check else 'registered'}")


@models.command("list")
@with_bridge
def list_models(bridge: Bridge) -> None:
    """List the registered models."""
    rows = [("NAME", "REMOTE MODEL", "HOST")]
    rows += [
        (short(remote.name), remote.model, remote.host or "-")
        for remote in bridge.registry.listed()
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        echo("  ".join(cells).rstrip())


@models.command("show")
@click.argument("name")
@with_bridge
def show(bridge: Bridge, name: str) -> None:
    """Show all that may be known of a registered model."""
    shown = _done(lambda: _shown(bridge, _found(bridge, name)))
    told = ollama_views.description(shown, None)
    echo(json.dumps(told, ensure_ascii=False, indent=2))


@models.command("rm")
@click.argument("names", nargs=-1, required=True)
@with_bridge
def remove(bridge: Bridge, names: tuple[str, ...]) -> None:
    """Forget registered models."""
    for name in names:
        removed = _done(lambda name=name: bridge.registry.remove(name))  # type: ignore[misc]
        echo(f"removed {short(removed.name)}")


@models.command("check")
@click.argument("names", nargs=-1)
@with_bridge
def check(bridge: Bridge, names: tuple[str, ...]) -> None:
    """Ask the remotes of models with a small request; of all, and every upstream for its list.

    The exit code is 1 when one of them is not well.
    """
    checks = list(_checks(bridge, names))
    if not all(each.is_well for each in checks):
        raise click.exceptions.Exit(1)


def _checks(bridge: Bridge, names: tuple[str, ...]) -> Iterator[Check]:
    """What was found, told as it is found."""
    upstreams = () if names else bridge.settings.upstreams
    for settings in upstreams:
        yield _reported(settings.name, listed(bridge.upstreams.of(settings)))
    remotes = [_found(bridge, name) for name in names] if names else bridge.registry.listed()
    for remote in remotes:
        if remote.locked:
            yield _reported(remote.name, Check(wrong="key", error="its key cannot be opened"))
        elif remote.host:
            yield _reported(remote.name, bridge.creating.check(remote))


def _reported(name: str, check: Check) -> Check:
    echo(f"{short(name)}: {_told(check)}")
    return check


def _told(check: Check) -> str:
    if not check.is_well:
        return f"{check.wrong} wrong: {' '.join(str(check.error).split())}"
    found = {"reachable": check.reachable, "key accepted": check.key, "model known": check.model}
    said = [what if is_so else f"{what}?" for what, is_so in found.items()]
    return ", ".join([*said, f"{check.latency * 1000:.0f} ms"])


def _found(bridge: Bridge, name: str) -> Remote:
    remote = bridge.registry.find(name)
    if remote is None:
        raise click.ClickException(not_found(name).message)
    return remote


def _shown(bridge: Bridge, remote: Remote) -> Shown:
    route = None if remote.host else bridge.router.resolve(remote.name, "ollama")
    return ollama_views.of_remote(remote, route)


def _parameter(text: str) -> tuple[str, Any]:
    name, _, value = text.partition("=")
    try:
        return name, orjson.loads(value)
    except ValueError:
        return name, value


def _key(given: str | None, from_stdin: bool) -> str | None:
    if from_stdin:
        return sys.stdin.readline().strip() or None
    if given is None and _is_terminal():
        asked = click.prompt(
            "The remote's key (empty: none)", default="", hide_input=True, show_default=False
        )
        return str(asked) or None
    return given or None


def _is_terminal() -> bool:
    return sys.stdin.isatty()


def _done(work: Callable[[], T]) -> T:
    try:
        return work()
    except ForwarderError as error:
        raise click.ClickException(escape_controls(" ".join(error.message.split()))) from error
