"""``GET /console/exchanges/stream``: the rows of new and changed exchanges, as they happen.

Server-sent events, whose data is rendered HTML or names, never JSON:

    event: row      the row of an exchange; it replaces the one with the same id
    event: gone     the name of an exchange that ended without a record
    event: running  the names of all running exchanges, once, so that a page that was disconnected
                    drops the others

The id of an event is the server's time at which it was sent. A page that reconnects gets all
changes since then.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator

from flask import Response, current_app, url_for
from jinja2 import Template

from forwarder.console.blueprint import blueprint
from forwarder.console.exchanges import (
    ExchangeFilter,
    make_row,
    read_filter,
    require_capture,
)
from forwarder.console.session import find_session_end, require_same_origin
from forwarder.context.request_context import RequestContext
from forwarder.core.errors import Overloaded
from forwarder.core.in_flight_requests import InFlightRequests
from forwarder.observability.capture.feed import Change, ExchangeFeed, ExchangeFollower
from forwarder.server import request_hooks
from forwarder.server.extension import get_request, get_services

MAX_STREAMS = 8
"""Streams that a worker serves at once."""

PAUSE_SECONDS = 0.5
"""Pause between two checks for changes."""

RETRY_MILLISECONDS = 3000
"""Time after which a browser reconnects."""


@blueprint.get("/exchanges/stream")
def stream_exchanges() -> Response:
    """Send the rows of exchanges that change; raises Overloaded beyond `MAX_STREAMS`."""
    services = get_services()
    require_same_origin(services.settings)  # other sites could use up the streams
    feed, wanted = require_capture().feed, read_filter()
    if feed.followers >= MAX_STREAMS:
        raise Overloaded(f"This worker already serves {MAX_STREAMS} pages that follow exchanges.")
    context = request_hooks.current_context()
    request_hooks.watch_disconnect(context)
    follower = ExchangeFollower(feed, read_start())
    render = RowRenderer(wanted)
    until = find_session_end(services.settings) or math.inf
    chunks = send_changes(
        follower, render, context, services.running, services.settings.keepalive, until
    )
    response = Response(count_follower(feed, chunks), mimetype="text/event-stream")
    response.headers["X-Accel-Buffering"] = "no"  # nginx would buffer the events
    return response


def read_start() -> float:
    """Return the time since which changes are sent: that of the last event, or ``since``."""
    given = get_request().headers.get("Last-Event-ID") or get_request().args.get("since", "")
    try:
        start = float(given)
    except ValueError:
        return time.time()
    return start if math.isfinite(start) else time.time()


class RowRenderer:
    """Renders the changes that match a filter as events."""

    def __init__(self, wanted: ExchangeFilter) -> None:
        self._wanted = wanted
        self._address = url_for("console.list_exchanges")
        self._template: Template = current_app.jinja_env.get_template("console/exchange_row.html")

    def render(self, change: Change) -> str:
        """Return an event, or ``""`` if the page does not show the exchange."""
        if change.summary is None:
            return make_event("gone", change.name)
        if not self._wanted.matches(change.summary):
            # The filter may have matched it while it was running.
            return make_event("gone", change.name) if self._wanted.status == "running" else ""
        row = self._template.render(row=make_row(change.summary, self._address))
        return make_event("row", row)


def make_event(kind: str, data: str) -> str:
    """Return a server-sent event with the current time as its id."""
    lines = "".join(f"data: {line}\n" for line in data.splitlines() or [""])
    return f"id: {time.time():.3f}\nevent: {kind}\n{lines}\n"


def count_follower(feed: ExchangeFeed, chunks: Iterator[str]) -> Iterator[str]:
    """Yield the chunks; the stream counts as one of the followers meanwhile."""
    feed.followers += 1
    try:
        yield from chunks
    finally:
        feed.followers -= 1


def send_changes(
    follower: ExchangeFollower,
    renderer: RowRenderer,
    context: RequestContext,
    running: InFlightRequests,
    heartbeat: float,
    until: float,
) -> Iterator[str]:
    """Yield events until the client disconnects, the worker shuts down or the session ends.

    The stream does not count as a request in flight, so a shutdown does not wait for it.
    """
    with running.add_listener(context.cancel):
        yield f"retry: {RETRY_MILLISECONDS}\n\n"
        is_first, sent_at = True, time.monotonic()
        while time.time() < until:
            events = "".join(map(renderer.render, follower.read_changes()))
            if is_first:
                events += make_event("running", " ".join(follower.running_names))
                is_first = False
            if not events and time.monotonic() >= sent_at + heartbeat:
                events = ": heartbeat\n\n"
            if events:
                sent_at = time.monotonic()
                yield events
            if not context.wait(PAUSE_SECONDS):
                return
