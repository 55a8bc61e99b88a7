"""Commands that show how requests are translated and find out what an upstream accepts."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import IO

import click
import orjson

from forwarder.cli.context import with_bridge
from forwarder.config.parsers import make_prefix
from forwarder.context.request_context import RequestContext
from forwarder.core.errors import ForwarderError, InvalidRequest, UpstreamRefused
from forwarder.core.ids import generate_id
from forwarder.core.terminal_escapes import escape_control_characters, print_line
from forwarder.core.translation_context import LossReport
from forwarder.core.types import Json
from forwarder.pipeline.dry_run import CLIENT_PROTOCOLS, detect_protocol
from forwarder.pipeline.gateway import Gateway
from forwarder.providers import Profile
from forwarder.providers.adapt_request import adapt_request
from forwarder.providers.learn import infer_quirk
from forwarder.providers.learned_cache import serialize_changes
from forwarder.providers.probe import (
    MAX_REFUSALS,
    PROBES,
    diff_profiles,
    make_openai_profile,
    make_probe_request,
)
from forwarder.server.request_shape import adapt_shape
from forwarder.upstream.client import Upstream

LIST_TIMEOUT_SECONDS = 5.0
"""Seconds for the list of models, when none was named."""


@click.command("probe")
@click.argument("name")
@click.option("--model", help="The upstream's name for the model that is asked.")
@with_bridge
def build_probe_command(bridge: Gateway, name: str, model: str | None) -> None:
    """Ask the Chat upstream NAME a few small requests; print what its profile should say."""
    upstream = bridge.upstreams.get(name)
    if upstream is None:
        raise click.UsageError(f"there is no upstream '{name}'")
    try:
        profile = probe_profile(upstream, model or pick_model(upstream))
    except ForwarderError as error:
        raise click.ClickException(escape_control_characters(error.message)) from error
    changes = json.dumps(serialize_changes(diff_profiles(profile, upstream.profile)))
    print_line(f"{make_prefix(name)}QUIRKS={changes}")


@click.command("translate")
@click.argument("file", type=click.File("rb"), default="-")
@click.option("--from", "protocol", type=click.Choice(CLIENT_PROTOCOLS), help="The request's API.")
@click.option("--model", help="The model to ask for instead of the request's own.")
@click.option("--strict", is_flag=True, help="Refuse what cannot be carried.")
@with_bridge
def build_translate_command(
    bridge: Gateway, file: IO[bytes], protocol: str | None, model: str | None, strict: bool
) -> None:
    """Show the upstream's request for the client's request in FILE; no upstream is called."""
    try:
        request = read_request(file)
        client = detect_protocol(request, protocol)
        if model:
            request["model"] = model
        ledger = LossReport(
            strict=strict or bridge.settings.strict,
            max_schema_nodes=bridge.settings.max_schema_nodes,
        )
        exchange = RequestContext("translate", "translate", ledger)
        request = adapt_shape(request, client, exchange)
        report = bridge.preview(client, request, None, exchange)
    except ForwarderError as error:
        raise click.ClickException(
            escape_control_characters(" ".join(error.message.split()))
        ) from error
    print_line(json.dumps(report, ensure_ascii=False, indent=2))


def read_request(file: IO[bytes]) -> Json:
    try:
        request = orjson.loads(file.read())
    except ValueError:
        raise InvalidRequest("The request is not valid JSON.") from None
    if not isinstance(request, dict):
        raise InvalidRequest("The request must be a JSON object.")
    return request


def pick_model(upstream: Upstream) -> str:
    """An alias says which models are in use here; else any will do."""
    for model in upstream.settings.aliases.values():
        return model
    for listed in upstream.list_models(LIST_TIMEOUT_SECONDS):
        return str(listed["id"])
    raise click.UsageError("the upstream lists no models: name one with --model")


def probe_profile(upstream: Upstream, model: str) -> Profile:
    """The profile that passes all questions that can be passed."""
    profile = make_openai_profile(upstream.profile)
    for question in PROBES:
        profile, verdict = ask_question(upstream, model, question, profile)
        print_line(f"  {question}: {verdict}", err=True)
    return profile


def ask_question(
    upstream: Upstream, model: str, question: str, profile: Profile
) -> tuple[Profile, str]:
    """The profile with which a question is taken, and how that went."""
    body, tried = make_probe_request(question, model), profile
    for attempt in range(MAX_REFUSALS):
        try:
            send_question(upstream, body, tried)
        except UpstreamRefused as refusal:
            sent = adapt_request(body, "chat", tried, LossReport())
            lesson = infer_quirk(refusal, "chat", sent, tried)
            if lesson is None:
                return profile, f"refused, and no mend is known ({refusal.message[:200]})"
            tried = replace(tried, **lesson.changes)
        else:
            return tried, "mended" if attempt else "taken"
    return profile, "refused, whatever was mended"


def send_question(upstream: Upstream, body: dict[str, object], profile: Profile) -> None:
    exchange = RequestContext(generate_id("probe"), "probe", LossReport())
    try:
        for _ in upstream.send(body, "chat", profile, exchange):
            pass
    except UpstreamRefused:
        raise
    except ForwarderError as error:
        if error.code != "upstream_protocol":
            raise  # an answer that says nothing was an answer
    finally:
        exchange.cleanup.close()
