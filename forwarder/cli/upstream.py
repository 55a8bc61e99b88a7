"""Commands that show translated requests and probe the quirks of an upstream."""

from __future__ import annotations

import json
from typing import IO

import click
import orjson

from forwarder.cli import CommandError, print_line
from forwarder.cli.context import with_services
from forwarder.context.request_context import RequestContext
from forwarder.core.errors import ForwarderError, InvalidRequest
from forwarder.core.translation_context import LossReport
from forwarder.core.types import Json
from forwarder.pipeline.dry_run import detect_protocol
from forwarder.pipeline.gateway import Gateway
from forwarder.protocols.registry import CLIENT_PROTOCOLS
from forwarder.server.mixed_request_shapes import adapt_shape
from forwarder.services import Services
from forwarder.upstream.quirk_probe import QuirkProbe, format_quirks_setting, pick_model


@click.command("probe")
@click.argument("name")
@click.option("--model", help="The upstream's name for the model to probe.")
@with_services
def probe_command(services: Services, name: str, model: str | None) -> None:
    """Probe the Chat upstream NAME and print its quirks.

    Sends it about 25 small requests.
    """
    upstream = services.upstreams.get(name)
    if upstream is None:
        raise click.UsageError(f"there is no upstream '{name}'")
    try:
        probe = QuirkProbe(upstream, model or pick_model(upstream))
        for verdict in probe.run():
            print_line(f"  {verdict.feature}: {verdict.text}", err=True)
    except ForwarderError as error:
        raise CommandError(error.message) from error
    print_line(format_quirks_setting(upstream.settings, probe.collect_changes()))


@click.command("translate")
@click.argument("file", type=click.File("rb"), default="-")
@click.option(
    "--from", "protocol", type=click.Choice(list(CLIENT_PROTOCOLS)), help="The request's API."
)
@click.option("--model", help="The model to ask for instead of the request's own.")
@click.option("--strict", is_flag=True, help="Reject the request if parameters would be lost.")
@with_services
def translate_command(
    services: Services, file: IO[bytes], protocol: str | None, model: str | None, strict: bool
) -> None:
    """Print the upstream request for the client request in FILE.

    Sends nothing.
    """
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
        raise CommandError(error.message) from error
    print_line(json.dumps(report, ensure_ascii=False, indent=2))


def read_request(file: IO[bytes]) -> Json:
    try:
        request = orjson.loads(file.read())
    except ValueError:
        raise InvalidRequest("The request is not valid JSON.") from None
    if not isinstance(request, dict):
        raise InvalidRequest("The request must be a JSON object.")
    return request
