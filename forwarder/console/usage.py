"""The page of usage: sums by client, model and upstream, and charts over time."""

from __future__ import annotations

import time
from typing import NamedTuple

from flask import Response

from forwarder.console.blueprint import blueprint, render_page
from forwarder.core.types import Json
from forwarder.core.validate import check_enum
from forwarder.server.extension import get_request, get_services
from forwarder.storage.db.usage import DAY_SECONDS, HOUR_SECONDS
from forwarder.usage.report import NAME_GROUPS, UsageLine, sort_by_tokens


class Period(NamedTuple):
    """A period that ends now. ``step`` is the width of a chart point in seconds."""

    name: str
    seconds: int
    step: int


PERIODS = {
    "24h": Period("Last 24 hours", 24 * HOUR_SECONDS, HOUR_SECONDS),
    "7d": Period("Last 7 days", 7 * DAY_SECONDS, HOUR_SECONDS),
    "30d": Period("Last 30 days", 30 * DAY_SECONDS, DAY_SECONDS),
    "365d": Period("Last 365 days", 365 * DAY_SECONDS, DAY_SECONDS),
}

MAX_LISTED = 200
"""Rows of the table. The CSV file has more, separated by time."""

MAX_CLIENTS = 1000
"""Names in the selection of clients."""


class Selection(NamedTuple):
    """The selection of the form: whole hours or days, a group and perhaps one client."""

    period: str
    start: int
    end: int
    group: str
    client: str | None

    @property
    def step(self) -> int:
        return PERIODS[self.period].step

    @property
    def width(self) -> str:
        """The name of the step: ``hour`` or ``day``."""
        return "hour" if self.step == HOUR_SECONDS else "day"


@blueprint.get("/usage")
def show_usage() -> Response:
    """Show the usage of a period, by client, model or upstream."""
    selection = read_selection()
    reports = get_services().usage_reports
    report, series = reports.make_reports(
        selection.start, selection.end, [[selection.group], [selection.width]], selection.client
    )
    lines = sort_by_tokens(report.lines)
    return render_page(
        "usage.html",
        selection=selection,
        periods=PERIODS,
        groups=NAME_GROUPS,
        clients=reports.list_clients(selection.start, selection.end, MAX_CLIENTS),
        lines=lines[:MAX_LISTED],
        left_out=len(lines) - MAX_LISTED,
        is_truncated=report.is_truncated,
        total=report.total,
        series=make_series(selection, series.lines),
        is_shared=report.is_shared,
    )


@blueprint.get("/usage.csv")
def download_usage() -> Response:
    """Return the usage of the period as CSV, separated by time and by the group."""
    selection = read_selection()
    reports = get_services().usage_reports
    report = reports.make_report(
        selection.start, selection.end, [selection.width, selection.group], selection.client
    )
    answer = Response(reports.encode(report, "csv"), mimetype="text/csv")
    answer.headers["Content-Disposition"] = f'attachment; filename="{report.file_name}"'
    return answer


def read_selection() -> Selection:
    """Read the form of the page; raises InvalidRequest for values that it does not offer."""
    arguments = get_request().args
    period = check_enum(arguments.get("period", "24h"), tuple(PERIODS), "period")
    group = check_enum(arguments.get("group", "model"), NAME_GROUPS, "group")
    step = PERIODS[period].step
    end = (int(time.time()) // step + 1) * step
    start = end - PERIODS[period].seconds
    return Selection(period, start, end, group, arguments.get("client") or None)


def make_series(selection: Selection, found: list[UsageLine]) -> Json:
    """Return the data of the charts: a list of times, and lists of values of the same length."""
    lines = {line.start: line for line in found}
    times = range(selection.start, selection.end, selection.step)
    points = [lines.get(at) for at in times]
    return {
        "times": list(times),
        "requests": [line.counts.requests if line else 0 for line in points],
        "errors": [line.counts.errors if line else 0 for line in points],
        "input": [line.counts.input_tokens if line else 0 for line in points],
        "output": [line.counts.output_tokens if line else 0 for line in points],
        "first": [line.mean_first_event_ms if line else None for line in points],
        "cost": [get_cost(line) for line in points],
    }


def get_cost(line: UsageLine | None) -> float:
    return (line.cost or 0.0) if line else 0.0
