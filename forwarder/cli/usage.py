"""``forwarder usage``: prints a report of usage."""

from __future__ import annotations

import time

import click

from forwarder.cli import CommandError, print_line
from forwarder.cli.context import with_services
from forwarder.core.errors import ForwarderError
from forwarder.core.terminal_text import escape_control_characters
from forwarder.services import Services
from forwarder.usage.report import UsageReport, iterate_table, parse_group, parse_range


@click.command("usage")
@click.option("--from", "start", metavar="TIME", help="Begin of the report.  [default: 7 days]")
@click.option("--to", "end", metavar="TIME", help="End of the report.  [default: now]")
@click.option(
    "--group",
    default="day,client,model",
    show_default=True,
    help="hour or day, client, model, upstream, separated by commas.",
)
@click.option("--client", help="Only the usage of this client.")
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV.")
@with_services
def print_usage(
    services: Services,
    start: str | None,
    end: str | None,
    group: str,
    client: str | None,
    as_csv: bool,
) -> None:
    """Print the usage of clients, and its cost in USD.

    TIME is a date, a date with time (ISO 8601, by default UTC) or Unix seconds.
    """
    reports = services.usage_reports
    if not reports.is_shared:
        raise CommandError(
            "there is no database: each worker keeps its usage in memory (GET /forwarder/usage)"
        )
    try:
        first, last = parse_range(start, end, time.time())
        report = reports.make_report(first, last, parse_group(group), client)
    except ForwarderError as error:
        raise CommandError(error.message) from error
    if report.is_truncated:
        click.echo(
            f"Only the first {len(report.lines)} lines follow; the total is that of all.", err=True
        )
    if as_csv:
        click.echo(escape_control_characters(report.to_csv().replace("\r\n", "\n")), nl=False)
    else:
        print_table(report)


def print_table(report: UsageReport) -> None:
    rows = list(iterate_table(report))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    names = len(rows[0]) - len(report.total.to_json(()))
    for row in rows:
        cells = [
            cell.ljust(width) if i < names else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        print_line("  ".join(cells).rstrip())
