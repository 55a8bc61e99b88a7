"""Commands that show translated requests and probe the quirks of an upstream."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import IO

import click
import orjson

from forwarder.cli import escape_control_characters, print_line
from forwarder.cli.context import with_services
from forwarder.config.parsers import make_prefix
from forwarder.context.request_context import RequestContext
from forwarder.core.errors import ForwarderError, InvalidRequest, UpstreamRefused
from forwarder.core.ids import generate_id
from forwarder.core.translation_context import LossReport
from forwarder.core.types import Json
from forwarder.pipeline.dry_run import detect_protocol
from forwarder.pipeline.gateway import Gateway
from forwarder.protocols.registry import CLIENT_PROTOCOLS
from forwarder.providers import Profile
from forwarder.providers.adapt import adapt_request
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
from forwarder.services import Services
from forwarder.upstream.client import Upstream

LIST_TIMEOUT_SECONDS = 5.0
"""Time-out for the model list if the command names no model."""


@click.command("probe")
@click.argument("name")
@click.option("--model", help="The upstream's name for the model to probe.")
@with_services
def build_probe_command(services: Services, name: str, model: str | None) -> None:
    """Probe the Chat upstream NAME with small requests and print the quirks for its profile."""
    upstream = services.upstreams.get(name)
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
@click.option(
    "--from", "protocol", type=click.Choice(list(CLIENT_PROTOCOLS)), help="The request's API."
)
@click.option("--model", help="The model to ask for instead of the request's own.")
@click.option("--strict", is_flag=True, help="Reject the request if parameters would be lost.")
@with_services
def build_translate_command(
    services: Services, file: IO[bytes], protocol: str | None, model: str | None, strict: bool
) -> None:
    """Translate the client request in FILE and print the upstream request. Sends nothing."""
    try:
        request = read_request(file)
        client = detect_protocol(request, protocol)
        if model:
            request["model"] = model
        loss_report = LossReport(
            strict=strict or services.settings.strict,
            max_schema_nodes=services.settings.max_schema_nodes,
        )
        context = RequestContext("translate", "translate", loss_report)
        request = adapt_shape(request, client, context)
        report = Gateway(services).preview(client, request, None, context)
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
    """Return the model of the first alias or, without aliases, the first listed model."""
    for model in upstream.settings.aliases.values():
        return model
    for listed in upstream.list_models(LIST_TIMEOUT_SECONDS):
        return str(listed["id"])
    raise click.UsageError("the upstream lists no models: select one with --model")


def probe_profile(upstream: Upstream, model: str) -> Profile:
    """Return a profile with which the upstream accepts as many probes as possible."""
    profile = make_openai_profile(upstream.profile)
    for probe in PROBES:
        profile, verdict = try_probe(upstream, model, probe, profile)
        print_line(f"  {probe}: {verdict}", err=True)
    return profile


def try_probe(upstream: Upstream, model: str, probe: str, profile: Profile) -> tuple[Profile, str]:
    """Return a profile with which the upstream accepts the probe, and a verdict."""
    body, tried = make_probe_request(probe, model), profile
    for attempt in range(MAX_REFUSALS):
        try:
            send_probe(upstream, body, tried)
        except UpstreamRefused as refusal:
            sent = adapt_request(body, "chat", tried, LossReport())
            quirk = infer_quirk(refusal, "chat", sent, tried)
            if quirk is None:
                return profile, f"rejected, no known quirk helps ({refusal.message[:200]})"
            tried = replace(tried, **quirk.changes)
        else:
            return tried, "accepted with quirks" if attempt else "accepted"
    return profile, "rejected despite quirks"


def send_probe(upstream: Upstream, body: dict[str, object], profile: Profile) -> None:
    context = RequestContext(generate_id("probe"), "probe", LossReport())
    try:
        for _ in upstream.send(body, "chat", profile, context):
            pass
    except UpstreamRefused:
        raise
    except ForwarderError as error:
        if error.code != "upstream_protocol":
            raise  # a malformed response still shows that the upstream accepted the request
    finally:
        context.cleanup.close()
