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
from forwarder.core.terminal_escapes import escape_control_characters, print_line
from forwarder.core.types import Json
from forwarder.models import ollama_views
from forwarder.models.names import strip_tag
from forwarder.models.ollama_views import ModelView
from forwarder.models.probe import ProbeResult, probe_model_list
from forwarder.models.registered_model import REMOTE_TYPES, RegisteredModel
from forwarder.models.registry import make_not_found
from forwarder.pipeline.gateway import Gateway

T = TypeVar("T")

KEY_VARIABLE = "REMOTE_API_KEY"


@click.group("models")
def build_models_group() -> None:
    """Models of other providers that are registered in the database."""


@click.group("keys")
def build_keys_group() -> None:
    """What is sealed in the database."""


@build_keys_group.command("rotate")
@with_bridge
def rotate(bridge: Gateway) -> None:
    """Seal everything in the database with the first secret of FORWARDER_SECRET_KEY.

    The others have to be there too, "new,old"; afterwards they are of no use for what is in
    the database, and can go.
    """
    if not bridge.settings.secret_keys:
        raise click.ClickException(
            "FORWARDER_SECRET_KEY is not set: put a new secret there and, behind a comma, the "
            "one that is kept in the file beside the database."
        )
    done = run_or_fail(bridge.rotate_keys)
    print_line(f"sealed anew: the keys of {done.models} models, {done.rows} other rows")
    if done.lost_models:
        lost = ", ".join(map(strip_tag, done.lost_models))
        raise click.ClickException(f"no secret opens the keys of: {lost}")


def refuse_visible_key(context: click.Context, option: click.Parameter, value: Any) -> Any:
    source = context.get_parameter_source(option.name or "")
    if source is click.core.ParameterSource.COMMANDLINE:
        raise click.UsageError(
            f"a key does not belong in a command line: set {KEY_VARIABLE}, or use --key-stdin"
        )
    return value


@build_models_group.command("create")
@click.argument("name")
@click.option("--from", "model", required=True, help="What the remote calls the model.")
@click.option("--host", help="The remote's base URL; without one, NAME is another name here.")
@click.option("--type", "kind", type=click.Choice(tuple(REMOTE_TYPES)), help="What it speaks.")
@click.option("--provider", help="Its profile, where the URL does not give it away.")
@click.option("--parameter", "parameters", multiple=True, metavar="NAME=VALUE")
@click.option("--system", help="The system prompt, where clients send none.")
@click.option("--key-stdin", is_flag=True, help="Read the key from the standard input.")
@click.option("--no-verify", is_flag=True, help="Do not ask the remote first.")
@click.option("--key", envvar=KEY_VARIABLE, hidden=True, callback=refuse_visible_key)
@with_bridge
def create(bridge: Gateway, key: str | None, key_stdin: bool, **given: Any) -> None:
    """Register a model under NAME.

    Its key is asked for, or read from the variable REMOTE_API_KEY or the standard input.
    """
    body: Json = {
        "model": given["name"],
        "from": given["model"],
        "remote_host": given["host"],
        "remote_type": given["kind"],
        "provider": given["provider"],
        "parameters": dict(map(parse_parameter, given["parameters"])),
        "system": given["system"],
        "verify": not given["no_verify"],
    }
    if given["host"]:
        body["remote_api_key"] = read_key(key, key_stdin)
    created = run_or_fail(lambda: bridge.creating.create(body))
    print_line(
        f"{given['name']}: {describe_check(created.check) if created.check else 'registered'}"
    )


@build_models_group.command("list")
@with_bridge
def list_models(bridge: Gateway) -> None:
    """List the registered models."""
    rows = [("NAME", "REMOTE MODEL", "HOST")]
    rows += [
        (strip_tag(remote.name), remote.model, remote.host or "-")
        for remote in bridge.registry.list_models()
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print_line("  ".join(cells).rstrip())


@build_models_group.command("show")
@click.argument("name")
@with_bridge
def show(bridge: Gateway, name: str) -> None:
    """Show all that may be known of a registered model."""
    shown = run_or_fail(lambda: view_model(bridge, find_model(bridge, name)))
    told = ollama_views.make_description(shown, None)
    print_line(json.dumps(told, ensure_ascii=False, indent=2))


@build_models_group.command("rm")
@click.argument("names", nargs=-1, required=True)
@with_bridge
def remove(bridge: Gateway, names: tuple[str, ...]) -> None:
    """Forget registered models."""
    for name in names:
        removed = run_or_fail(lambda name=name: bridge.registry.remove(name))  # type: ignore[misc]
        print_line(f"removed {strip_tag(removed.name)}")


@build_models_group.command("check")
@click.argument("names", nargs=-1)
@with_bridge
def check(bridge: Gateway, names: tuple[str, ...]) -> None:
    """Ask the remotes of models with a small request; of all, and every upstream for its list.

    The exit code is 1 when one of them is not well.
    """
    checks = list(run_checks(bridge, names))
    if not all(each.is_healthy for each in checks):
        raise click.exceptions.Exit(1)


def run_checks(bridge: Gateway, names: tuple[str, ...]) -> Iterator[ProbeResult]:
    """What was found, told as it is found."""
    upstreams = () if names else bridge.settings.upstreams
    for settings in upstreams:
        yield report_check(
            settings.name, probe_model_list(bridge.upstreams.get_or_create(settings))
        )
    remotes = (
        [find_model(bridge, name) for name in names] if names else bridge.registry.list_models()
    )
    for remote in remotes:
        if remote.locked:
            yield report_check(
                remote.name, ProbeResult(fault="key", error="its key cannot be opened")
            )
        elif remote.host:
            yield report_check(remote.name, bridge.creating.probe_registered(remote))


def report_check(name: str, check: ProbeResult) -> ProbeResult:
    print_line(f"{strip_tag(name)}: {describe_check(check)}")
    return check


def describe_check(check: ProbeResult) -> str:
    if not check.is_healthy:
        return f"{check.fault} wrong: {' '.join(str(check.error).split())}"
    found = {
        "reachable": check.is_reachable,
        "key accepted": check.is_key_accepted,
        "model known": check.is_model_known,
    }
    said = [what if is_so else f"{what}?" for what, is_so in found.items()]
    return ", ".join([*said, f"{check.latency * 1000:.0f} ms"])


def find_model(bridge: Gateway, name: str) -> RegisteredModel:
    remote = bridge.registry.find(name)
    if remote is None:
        raise click.ClickException(make_not_found(name).message)
    return remote


def view_model(bridge: Gateway, remote: RegisteredModel) -> ModelView:
    route = None if remote.host else bridge.router.resolve(remote.name, "ollama")
    return ollama_views.view_registered(remote, route)


def parse_parameter(text: str) -> tuple[str, Any]:
    name, _, value = text.partition("=")
    try:
        return name, orjson.loads(value)
    except ValueError:
        return name, value


def read_key(given: str | None, from_stdin: bool) -> str | None:
    if from_stdin:
        return sys.stdin.readline().strip() or None
    if given is None and is_terminal():
        asked = click.prompt(
            "The remote's key (empty: none)", default="", hide_input=True, show_default=False
        )
        return str(asked) or None
    return given or None


def is_terminal() -> bool:
    return sys.stdin.isatty()


def run_or_fail(work: Callable[[], T]) -> T:
    try:
        return work()
    except ForwarderError as error:
        raise click.ClickException(
            escape_control_characters(" ".join(error.message.split()))
        ) from error
