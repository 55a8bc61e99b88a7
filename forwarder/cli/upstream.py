"""Commands that show how requests are translated and find out what an upstream accepts."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import IO

import click
import orjson

from forwarder import docgen
from forwarder.cli.context import with_bridge
from forwarder.config.parsers import prefix_of
from forwarder.context.request_context import Exchange
from forwarder.core.errors import ForwarderError, InvalidRequest, UpstreamRefused
from forwarder.core.ids import random_id
from forwarder.core.terminal_escapes import echo, escape_controls
from forwarder.core.translation_context import Ledger
from forwarder.core.types import Json
from forwarder.docgen.fidelity import everything
from forwarder.pipeline.dry_run import CLIENTS, protocol_of
from forwarder.pipeline.gateway import Bridge
from forwarder.providers import Profile
from forwarder.providers.adapt_request import mend
from forwarder.providers.learn import lesson_of
from forwarder.providers.learned_cache import shown
from forwarder.providers.probe import ENOUGH, QUESTIONS, asking, boldest, found
from forwarder.server.request_shape import adapt_shape
from forwarder.upstream.client import Upstream

_LIST_TIMEOUT = 5.0
"""Seconds for the list of models, when none was named."""


@click.command("probe")
@click.argument("name")
@click.option("--model", help="The upstream's name for the model that is asked.")
@with_bridge
def probe(bridge: Bridge, name: str, model: str | None) -> None:
    """Ask the Chat upstream NAME a few small requests; print what its profile should say."""
    upstream = bridge.upstreams.get(name)
    if upstream is None:
        raise click.UsageError(f"there is no upstream '{name}'")
    try:
        profile = _examined(upstream, model or _some_model(upstream))
    except ForwarderError as error:
        raise click.ClickException(escape_controls(error.message)) from error
    changes = json.dumps(shown(found(profile, upstream.profile)))
    echo(f"{prefix_of(name)}QUIRKS={changes}")


@click.command("translate")
@click.argument("file", type=click.File("rb"), default="-")
@click.option("--from", "protocol", type=click.Choice(CLIENTS), help="The request's API.")
@click.option("--model", help="The model to ask for instead of the request's own.")
@click.option("--strict", is_flag=True, help="Refuse what cannot be carried.")
@with_bridge
def translate(
    bridge: Bridge, file: IO[bytes], protocol: str | None, model: str | None, strict: bool
) -> None:
    """Show the upstream's request for the client's request in FILE; no upstream is called."""
    try:
        request = _read(file)
        client = protocol_of(request, protocol)
        if model:
            request["model"] = model
        ledger = Ledger(
            strict=strict or bridge.settings.strict,
            max_schema_nodes=bridge.settings.max_schema_nodes,
        )
        exchange = Exchange("translate", "translate", ledger)
        request = adapt_shape(request, client, exchange)
        report = bridge.shown(client, request, None, exchange)
    except ForwarderError as error:
        raise click.ClickException(escape_controls(" ".join(error.message.split()))) from error
    echo(json.dumps(report, ensure_ascii=False, indent=2))


@click.command("fidelity")
@click.option("--write", is_flag=True, help="Renew the tables in the documents instead.")
def fidelity(write: bool) -> None:
    """Print what becomes of every parameter, item, part and tool, as Markdown."""
    if write:
        docgen.write()
    else:
        echo(everything())


def _read(file: IO[bytes]) -> Json:
    try:
        request = orjson.loads(file.read())
    except ValueError:
        raise InvalidRequest("The request is not valid JSON.") from None
    if not isinstance(request, dict):
        raise InvalidRequest("The request must be a JSON object.")
    return request


def _some_model(upstream: Upstream) -> str:
    """An alias says which models are in use here; else any will do."""
    for model in upstream.settings.aliases.values():
        return model
    for listed in upstream.models(_LIST_TIMEOUT):
        return str(listed["id"])
    raise click.UsageError("the upstream lists no models: name one with --model")


def _examined(upstream: Upstream, model: str) -> Profile:
    """The profile that passes all questions that can be passed."""
    profile = boldest(upstream.profile)
    for question in QUESTIONS:
        profile, verdict = _answered(upstream, model, question, profile)
        echo(f"  {question}: {verdict}", err=True)
    return profile


def _answered(
    upstream: Upstream, model: str, question: str, profile: Profile
) -> tuple[Profile, str]:
    """The profile with which a question is taken, and how that went."""
    body, tried = asking(question, model), profile
    for attempt in range(ENOUGH):
        try:
            _ask(upstream, body, tried)
        except UpstreamRefused as refusal:
            sent = mend(body, "chat", tried, Ledger())
            lesson = lesson_of(refusal, "chat", sent, tried)
            if lesson is None:
                return profile, f"refused, and no mend is known ({refusal.message[:200]})"
            tried = replace(tried, **lesson.changes)
        else:
            return tried, "mended" if attempt else "taken"
    return profile, "refused, whatever was mended"


def _ask(upstream: Upstream, body: dict[str, object], profile: Profile) -> None:
    exchange = Exchange(random_id("probe"), "probe", Ledger())
    try:
        for _ in upstream.ask(body, "chat", profile, exchange):
            pass
    except UpstreamRefused:
        raise
    except ForwarderError as error:
        if error.code != "upstream_protocol":
            raise  # an answer that says nothing was an answer
    finally:
        exchange.opened.close()
