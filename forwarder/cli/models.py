"""``forwarder models``: registered models.

Commands read a provider's key from a prompt, the environment or standard input, never from the
command line, which other users of the machine and the shell history can see.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import click
import orjson

from forwarder.cli import CommandError, print_line
from forwarder.cli.context import with_services
from forwarder.core.errors import ForwarderError
from forwarder.core.types import Json
from forwarder.models import ollama_views
from forwarder.models.health_probe import ProbeResult, probe_model_list
from forwarder.models.ollama_views import ModelView
from forwarder.models.registered_model import REMOTE_TYPES, RegisteredModel, strip_tag
from forwarder.models.registry import make_not_found
from forwarder.services import Services

T = TypeVar("T")

KEY_VARIABLE = "REMOTE_API_KEY"


@click.group("models")
def models_group() -> None:
    """Manage the registered models of other providers."""


def refuse_visible_key(context: click.Context, option: click.Parameter, value: Any) -> Any:
    source = context.get_parameter_source(option.name or "")
    if source is click.core.ParameterSource.COMMANDLINE:
        raise click.UsageError(
            f"do not pass a key on the command line: set {KEY_VARIABLE} or use --key-stdin"
        )
    return value


@models_group.command("create")
@click.argument("name")
@click.option("--from", "model", required=True, help="The remote's name for the model.")
@click.option("--host", help="The remote's base URL. Without it, NAME is an alias.")
@click.option("--type", "kind", type=click.Choice(tuple(REMOTE_TYPES)), help="The remote's API.")
@click.option("--provider", help="The provider profile, if the URL does not identify it.")
@click.option("--parameter", "parameters", multiple=True, metavar="NAME=VALUE")
@click.option("--system", help="The default system prompt.")
@click.option("--key-stdin", is_flag=True, help="Read the key from standard input.")
@click.option("--no-verify", is_flag=True, help="Skip the test request to the remote.")
@click.option("--key", envvar=KEY_VARIABLE, hidden=True, callback=refuse_visible_key)
@with_services
def create(services: Services, key: str | None, key_stdin: bool, **options: Any) -> None:
    """Register a model under NAME.

    Reads the remote's key from the variable REMOTE_API_KEY, standard input or a prompt.
    """
    body: Json = {
        "model": options["name"],
        "from": options["model"],
        "remote_host": options["host"],
        "remote_type": options["kind"],
        "provider": options["provider"],
        "parameters": dict(map(parse_parameter, options["parameters"])),
        "system": options["system"],
        "verify": not options["no_verify"],
    }
    if options["host"]:
        body["remote_api_key"] = read_key(key, key_stdin)
    created = run_or_fail(lambda: services.registration.create(body))
    print_line(
        f"{options['name']}: {describe_check(created.check) if created.check else 'registered'}"
    )


@models_group.command("list")
@with_services
def list_models(services: Services) -> None:
    """List the registered models."""
    rows = [("NAME", "REMOTE MODEL", "HOST")]
    rows += [
        (strip_tag(remote.name), remote.model, remote.host or "-")
        for remote in services.registry.list_models()
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print_line("  ".join(cells).rstrip())


@models_group.command("show")
@click.argument("name")
@with_services
def show(services: Services, name: str) -> None:
    """Show a registered model without its key."""
    view = run_or_fail(lambda: view_model(services, find_model(services, name)))
    description = ollama_views.make_description(view, None)
    print_line(json.dumps(description, ensure_ascii=False, indent=2))


@models_group.command("rm")
@click.argument("names", nargs=-1, required=True)
@with_services
def remove(services: Services, names: tuple[str, ...]) -> None:
    """Delete registered models."""
    for name in names:
        removed = run_or_fail(lambda name=name: services.registration.delete(name))  # type: ignore[misc]
        print_line(f"removed {strip_tag(removed.name)}")


@models_group.command("check")
@click.argument("names", nargs=-1)
@with_services
def check(services: Services, names: tuple[str, ...]) -> None:
    """Send a small request to the remotes of the named models.

    Without NAMES, check all registered models and the model list of every upstream. Exits with 1
    if a check fails.
    """
    checks = list(run_checks(services, names))
    if not all(each.is_healthy for each in checks):
        raise click.exceptions.Exit(1)


def run_checks(services: Services, names: tuple[str, ...]) -> Iterator[ProbeResult]:
    """Run the checks and print each result at once."""
    upstreams = () if names else services.settings.upstreams
    for settings in upstreams:
        yield report_check(
            settings.name, probe_model_list(services.upstreams.get_or_create(settings))
        )
    remotes = (
        [find_model(services, name) for name in names] if names else services.registry.list_models()
    )
    for remote in remotes:
        if remote.locked:
            yield report_check(
                remote.name, ProbeResult(fault="key", error="its key cannot be decrypted")
            )
        elif remote.host:
            yield report_check(remote.name, services.registration.probe_registered(remote))


def report_check(name: str, check: ProbeResult) -> ProbeResult:
    print_line(f"{strip_tag(name)}: {describe_check(check)}")
    return check


def describe_check(check: ProbeResult) -> str:
    if not check.is_healthy:
        return f"{check.fault} wrong: {' '.join(str(check.error).split())}"
    checks = {
        "reachable": check.is_reachable,
        "key accepted": check.is_key_accepted,
        "model known": check.is_model_known,
    }
    texts = [name if is_confirmed else f"{name}?" for name, is_confirmed in checks.items()]
    return ", ".join([*texts, f"{check.latency * 1000:.0f} ms"])


def find_model(services: Services, name: str) -> RegisteredModel:
    remote = services.registry.find(name)
    if remote is None:
        raise CommandError(make_not_found(name).message)
    return remote


def view_model(services: Services, remote: RegisteredModel) -> ModelView:
    route = None if remote.host else services.router.resolve(remote.name, "ollama")
    return ollama_views.view_registered(remote, route)


def parse_parameter(text: str) -> tuple[str, Any]:
    name, _, value = text.partition("=")
    try:
        return name, orjson.loads(value)
    except ValueError:
        return name, value


def read_key(key: str | None, from_stdin: bool) -> str | None:
    if from_stdin:
        return sys.stdin.readline().strip() or None
    if key is None and is_terminal():
        answer = click.prompt(
            "The remote's key (empty: none)", default="", hide_input=True, show_default=False
        )
        return str(answer) or None
    return key or None


def is_terminal() -> bool:
    return sys.stdin.isatty()


def run_or_fail(work: Callable[[], T]) -> T:
    try:
        return work()
    except ForwarderError as error:
        raise CommandError(error.message) from error
