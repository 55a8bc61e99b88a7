"""The requests, errors and latencies of upstreams over the last day, from the usage of all clients.

The numbers are those of all workers if there is a database. The page of the upstreams loads them
with a separate request, so that a slow database does not delay it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from flask import Response

from forwarder.console.blueprint import blueprint, render_page
from forwarder.core.errors import ForwarderError, shorten_value
from forwarder.server.extension import get_services
from forwarder.storage.db.usage import HOUR_SECONDS, UsageCounts
from forwarder.usage.counter import NO_UPSTREAM
from forwarder.usage.report import UsageLine

HOURS = 24

MAX_UPSTREAMS = 50
"""Upstreams that are shown, those with the most requests first."""

HOUR_WIDTH, CHART_HEIGHT = 15, 48
"""The chart's units: the width of an hour and the height of the highest bar or point."""


class HourBar(NamedTuple):
    """The bar of an hour's requests, with its errors at the foot. ``title`` has both in words."""

    x: int
    height: str
    y: str
    error_height: str
    error_y: str
    title: str


class UpstreamUsage(NamedTuple):
    """The requests of an upstream in the last `HOURS` hours.

    ``latency_line`` has the points of the mean times to the first event. ``summary`` describes the
    chart in words.
    """

    upstream: str
    requests: int
    errors: int
    error_share: float
    first_event_ms: float | None
    bars: list[HourBar]
    latency_line: str
    summary: str


@blueprint.get("/upstreams/usage")
def show_upstream_usage() -> Response:
    """Return the part of the page with the requests of the upstreams."""
    return render_page("upstream_usage.html", **collect_usage())


def collect_usage() -> dict[str, object]:
    """Return the values of the part. Raises StoreUnavailable if the database cannot be read."""
    reports = get_services().usage_reports
    end = (int(time.time()) // HOUR_SECONDS + 1) * HOUR_SECONDS
    start = end - HOURS * HOUR_SECONDS
    report = reports.make_report(start, end, ["hour", "upstream"])
    return {
        "rows": list_rows(report.lines, range(start, end, HOUR_SECONDS)),
        "hours": HOURS,
        "is_shared": report.is_shared,
    }


def try_collect_usage() -> dict[str, object]:
    """Return the values of the part, or the message of an ``error``, for the page around it."""
    try:
        return collect_usage()
    except ForwarderError as error:
        return {"error": error.message}


def list_rows(lines: Sequence[UsageLine], hours: Sequence[int]) -> list[UpstreamUsage]:
    """Return the usage of each upstream; ``lines`` are sums by hour and upstream."""
    by_upstream: dict[str, dict[int, UsageLine]] = {}
    for line in lines:
        if line.start is not None and line.upstream and line.upstream != NO_UPSTREAM:
            by_upstream.setdefault(line.upstream, {})[line.start] = line
    rows = [describe_usage(name, lines, hours) for name, lines in by_upstream.items()]
    return sorted(rows, key=lambda row: (-row.requests, row.upstream))[:MAX_UPSTREAMS]


def describe_usage(
    upstream: str, lines: Mapping[int, UsageLine], hours: Sequence[int]
) -> UpstreamUsage:
    """Return the sums and the chart of an upstream; ``lines`` are those of its hours."""
    total = UsageCounts()
    for line in lines.values():
        total = total.add(line.counts)
    busiest = max(lines.values(), key=lambda line: line.counts.requests)
    slowest = max((line.mean_first_event_ms or 0.0 for line in lines.values()), default=0.0)
    points = [
        f"{position * HOUR_WIDTH + HOUR_WIDTH / 2:g},{scale(latency, slowest)[1]}"
        for position, hour in enumerate(hours)
        if hour in lines and (latency := lines[hour].mean_first_event_ms) is not None
    ]
    summary = (
        f"{total.requests} requests, {total.errors} failed; "
        f"most in the hour from {format_hour(busiest.start or 0)}: {busiest.counts.requests}"
    )
    if points:
        summary += f"; first event after at most {slowest:.0f} ms in the mean of an hour"
    return UpstreamUsage(
        upstream=shorten_value(upstream),
        requests=total.requests,
        errors=total.errors,
        error_share=total.errors / total.requests if total.requests else 0.0,
        first_event_ms=total.first_event_ms / total.first_events if total.first_events else None,
        bars=[
            draw_hour(position, lines[hour], busiest.counts.requests)
            for position, hour in enumerate(hours)
            if hour in lines
        ],
        # A line of one point is not drawn, a line from a point to itself is.
        latency_line=" ".join(points * 2 if len(points) == 1 else points),
        summary=summary,
    )


def draw_hour(position: int, line: UsageLine, most_requests: int) -> HourBar:
    counts, latency = line.counts, line.mean_first_event_ms
    title = f"{format_hour(line.start or 0)}: {counts.requests} requests, {counts.errors} failed"
    if latency is not None:
        title += f", first event after {latency:.0f} ms"
    return HourBar(
        position * HOUR_WIDTH,
        *scale(counts.requests, most_requests),
        *scale(counts.errors, most_requests),
        title,
    )


def scale(value: float, most: float) -> tuple[str, str]:
    """Return the height of a value in the chart, and the y of its upper end."""
    height = value / most * CHART_HEIGHT if most else 0.0
    return f"{height:.1f}", f"{CHART_HEIGHT - height:.1f}"


def format_hour(timestamp: int) -> str:
    return f"{datetime.fromtimestamp(timestamp, UTC):%H:%M} UTC"
