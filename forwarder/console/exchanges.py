"""The pages of captured exchanges: the list, one exchange side by side, its events, its record."""

from __future__ import annotations

import json
import re
import shlex
import time
from bisect import bisect_left
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

import orjson
from flask import Response, url_for

from forwarder.console.answer_events import get_dict
from forwarder.console.blueprint import blueprint, is_part_request, render_page
from forwarder.console.exchange_events import CLIENT, UPSTREAM, Row, fold_entries, list_entries
from forwarder.console.exchange_text import (
    ReadableJsonFormatter,
    shorten_text,
    show_label,
)
from forwarder.console.exchange_view import ExchangeView, build_view
from forwarder.core.errors import InvalidRequest, NotFound
from forwarder.core.terminal_text import escape_control_characters
from forwarder.core.types import Json
from forwarder.observability.capture import CaptureObserver
from forwarder.observability.capture.replay import make_replay_request
from forwarder.observability.capture.stores import RECORD_NAME, parse_created_at
from forwarder.server.extension import get_request, get_services
from forwarder.server.request_hooks import build_public_address

PAGE_SIZE = 50
"""Exchanges of one page."""

MAX_SEARCHED = 2_000
"""Summaries that are read for one page with filters."""

MAX_FILTER_LENGTH = 200

EVENT_ROWS = 200
"""Rows of events that are shown at once."""

MAX_SHOWN_EVENTS = 100
"""Events of a row that are shown with their JSON."""

MAX_CURL_BODY = 100_000
"""Bytes of a body in a command to copy."""

DISPOSITION_COLOURS = {
    "carried": "good", "mapped": "info", "emulated": "info", "offered": "info", "added": "warn",
    "dropped": "bad", "refused": "bad",
}  # fmt: skip
"""Disposition of a parameter -> the class of its label."""

MEMORY_HINT = (
    "Each worker keeps its own exchanges in memory, so another one may have it. Set "
    "FORWARDER_CAPTURE to a directory to share them."
)

_STATUS = re.compile(r"ok|errors|running|[1-5][0-9]{2}|")
_NAME_FILTERS = ("client", "model", "upstream", "route")


# -- filter and rows ------------------------------------------------------------------------------


class ExchangeFilter(NamedTuple):
    """The filter of the list: parts of names, and ``ok``, ``errors``, ``running`` or a status."""

    client: str = ""
    model: str = ""
    upstream: str = ""
    route: str = ""
    status: str = ""

    def matches(self, summary: Json) -> bool:
        """Return whether an exchange with this summary is shown."""
        for name in _NAME_FILTERS:
            wanted = getattr(self, name).lower()
            if wanted and wanted not in str(summary.get(name, "")).lower():
                return False
        return not self.status or self.status in list_states(summary)

    def make_arguments(self) -> dict[str, Any]:
        """Return the arguments of a URL with this filter."""
        return {name: value for name, value in self._asdict().items() if value}


def list_states(summary: Json) -> tuple[str, ...]:
    """Return the values of the filter ``status`` that an exchange matches."""
    if summary.get("running"):
        return ("running",)
    status = summary.get("status")
    is_bad = bool(summary.get("error")) or (type(status) is int and status >= 400)
    return ("errors" if is_bad else "ok", str(status))


def read_filter() -> ExchangeFilter:
    """Return the filter of the current request; raises InvalidRequest for an unknown status."""
    values = {
        name: get_request().args.get(name, "").strip()[:MAX_FILTER_LENGTH]
        for name in ExchangeFilter._fields
    }
    values["status"] = values["status"].lower()
    if not _STATUS.fullmatch(values["status"]):
        raise InvalidRequest(
            "Invalid value for 'status': expected ok, errors, running or a status like 404.",
            param="status",
            code="invalid_value",
        )
    return ExchangeFilter(**values)


def make_row(summary: Json, address: str) -> Json:
    """Return the values in the row of an exchange; ``address`` is the URL of the list."""
    shown = {k: show_label(v) if isinstance(v, str) else v for k, v in summary.items()}
    states = list_states(summary)
    started_at = parse_created_at(str(summary["id"])) or 0
    milliseconds = summary.get("duration_ms", 0.0)
    if summary.get("running"):  # its summary is written only when it changes
        milliseconds = 1000 * (time.time() - started_at)
    return {
        **shown,
        "href": f"{address}/{shown['id']}",
        "started_ms": int(started_at * 1000),
        "state": states[0],
        "seconds": format_seconds(milliseconds),
    }


def format_seconds(milliseconds: float) -> str:
    """Return a duration in the unit that suits it."""
    if milliseconds < 1000:
        return f"{milliseconds:.0f} ms"
    return f"{milliseconds / 1000:.1f} s"


class ExchangePage(NamedTuple):
    """Summaries of a page; ``older`` is the name after which the next page begins."""

    summaries: list[Json]
    older: str | None
    is_searched: bool


def find_page(capture: CaptureObserver, wanted: ExchangeFilter, before: str) -> ExchangePage:
    """Read a page of finished exchanges that began before the one with the name ``before``.

    ``is_searched`` is true if the search ended before the page was full. Blocks on the disk.
    """
    names = capture.store.list_names()
    # The names are sorted from new to old.
    first = bisect_left(names, True, key=lambda name: name < before) if before else 0
    found: list[Json] = []
    last = None
    for last in islice(names, first, first + MAX_SEARCHED):
        summary = capture.store.read_summary(last)
        if summary is not None and wanted.matches(summary):
            found.append(summary)
        if len(found) == PAGE_SIZE:
            break
    has_more = last is not None and last != names[-1]
    return ExchangePage(found, last if has_more else None, has_more and len(found) < PAGE_SIZE)


# -- list -----------------------------------------------------------------------------------------


@blueprint.get("/exchanges")
def list_exchanges() -> Response:
    """Show captured exchanges, newest first. The first page is updated while it is open."""
    capture = get_services().capture
    if capture is None:
        return render_page("exchanges_off.html")
    wanted, before = read_filter(), read_cursor()
    since = time.time()
    # Read the running ones first: one that ends meanwhile is then in both lists.
    running = [] if before else capture.running.list_summaries()
    page = capture.run_blocking(partial(find_page, capture, wanted, before))
    shown = {each["id"]: each for each in running if wanted.matches(each)}
    shown |= {each["id"]: each for each in page.summaries}
    address = url_for("console.list_exchanges")
    arguments = wanted.make_arguments()
    return render_page(
        "exchanges.html",
        rows=[make_row(shown[name], address) for name in sorted(shown, reverse=True)],
        wanted=wanted,
        has_filter=bool(arguments),
        is_first=not before,
        is_shared=capture.store.is_shared,
        is_searched=page.is_searched,
        newest_url=url_for("console.list_exchanges", **arguments),
        older_url=page.older and url_for("console.list_exchanges", **arguments, before=page.older),
        stream_url=url_for("console.stream_exchanges", **arguments, since=f"{since:.3f}"),
    )


def read_cursor() -> str:
    """Return the name after which the page begins, or ``""`` for the first page."""
    before = get_request().args.get("before", "")
    if before and not RECORD_NAME.fullmatch(before):
        raise InvalidRequest(
            "Invalid value for 'before': expected the id of an exchange.",
            param="before",
            code="invalid_value",
        )
    return before


# -- one exchange ---------------------------------------------------------------------------------


@blueprint.get("/exchanges/<name>")
def show_exchange(name: str) -> Response:
    """Show one exchange side by side."""
    capture = require_capture()
    encoded = find_record(capture, name)
    page = capture.run_blocking(partial(ExchangeContent, encoded))
    summary = page.view.summary
    own_name = str(summary.get("id", name))
    newer, older = capture.run_blocking(partial(find_neighbours, capture, own_name))
    return render_page(
        "exchange.html",
        name=own_name,
        view=page.view,
        state=list_states(get_dict(page.record, "exchange"))[0],
        duration=format_seconds(summary.get("duration_ms", 0.0)),
        total_ms=max(page.view.phases[0].end, 0.1),
        rows=page.view.rows[:EVENT_ROWS],
        first_row=0,
        more_rows=max(0, len(page.view.rows) - EVENT_ROWS),
        next_row=EVENT_ROWS,
        sides=(UPSTREAM, CLIENT),
        curl=make_curl(page.record),
        newer=newer,
        older=older,
        kinds=DISPOSITION_COLOURS,
    )


class ExchangeContent:
    """The content of the page of an exchange, read from its encoded record."""

    def __init__(self, encoded: bytes) -> None:
        self.record: Json = parse_record(encoded)
        self.view: ExchangeView = build_view(self.record)


@blueprint.get("/exchanges/<name>/events")
def list_events(name: str) -> Response:
    """Show more rows of events, from the row ``from`` on."""
    capture, first = require_capture(), read_number("from")
    encoded = find_record(capture, name)
    rows = capture.run_blocking(partial(parse_rows, encoded))
    return render_page(
        "exchange_events.html" if is_part_request() else "exchange_events_page.html",
        name=name,
        rows=rows[first : first + EVENT_ROWS],
        first_row=first,
        more_rows=max(0, len(rows) - first - EVENT_ROWS),
        next_row=first + EVENT_ROWS,
        sides=(UPSTREAM, CLIENT),
    )


@blueprint.get("/exchanges/<name>/events/<int:row>")
def show_events(name: str, row: int) -> Response:
    """Show the JSON of the events of one row on one ``side``."""
    capture, side = require_capture(), get_request().args.get("side", CLIENT)
    encoded = find_record(capture, name)
    documents, rest = capture.run_blocking(partial(format_events, encoded, row, side))
    return render_page(
        "exchange_event_data.html" if is_part_request() else "exchange_events_page.html",
        name=name,
        documents=documents,
        rest=rest,
    )


def format_events(encoded: bytes, row: int, side: str) -> tuple[list[tuple[float, str]], int]:
    """Return times and JSON of the events of a row, and the number of those left out.

    Raises NotFound. Blocks, since a page of JSON takes 0.1 s.
    """
    rows = parse_rows(encoded)
    cell = rows[row].cells.get(side) if row < len(rows) else None
    if cell is None or not cell.has_data:
        raise NotFound("There are no such events.")
    shown, formatter = cell.entries[:MAX_SHOWN_EVENTS], ReadableJsonFormatter()
    documents = [(entry.at, formatter.format(entry.data)) for entry in shown]
    return documents, len(cell.entries) - len(shown)


@blueprint.get("/exchanges/<name>/record")
def download_record(name: str) -> Response:
    """Return the whole record as JSON."""
    return Response(find_record(require_capture(), name), mimetype="application/json")


def require_capture() -> CaptureObserver:
    """Return the observer of captures; raises NotFound if capturing is off."""
    capture = get_services().capture
    if capture is None:
        raise NotFound("Nothing is kept, because FORWARDER_CAPTURE is off.")
    return capture


def find_record(capture: CaptureObserver, name: str) -> bytes:
    """Return the record of an exchange, incomplete while it runs; raises NotFound."""
    encoded = capture.run_blocking(partial(capture.store.find, name))
    if encoded is None:
        encoded = capture.running.find_record(name)
    if encoded is None:  # it may have ended meanwhile
        encoded = capture.run_blocking(partial(capture.store.find, name))
    if encoded is None:
        hint = "" if capture.store.is_shared else f" {MEMORY_HINT}"
        raise NotFound(f"There is no exchange '{show_label(name)[:64]}' here.{hint}")
    return encoded


def parse_rows(encoded: bytes) -> list[Row]:
    """Return all rows of the events of an encoded record. Raises NotFound; blocks."""
    return fold_entries(list_entries(parse_record(encoded)))


def parse_record(encoded: bytes) -> Json:
    """Parse a record; raises NotFound if its file is damaged."""
    try:
        record = orjson.loads(encoded)
    except ValueError:
        record = None
    if not isinstance(record, dict) or not isinstance(record.get("exchange"), dict):
        raise NotFound("The record of this exchange is damaged.")
    return record


def read_number(name: str) -> int:
    text = get_request().args.get(name, "0")
    if not re.fullmatch(r"[0-9]{1,7}", text):
        raise InvalidRequest(
            f"Invalid value for '{name}': expected a number.", param=name, code="invalid_value"
        )
    return int(text)


def find_neighbours(capture: CaptureObserver, name: str) -> tuple[str | None, str | None]:
    """Return the names of the next newer and the next older exchange. Blocks on the disk."""
    names = capture.store.list_names()
    newer = bisect_left(names, True, key=lambda each: each <= name) - 1
    older = bisect_left(names, True, key=lambda each: each < name)
    return (
        names[newer] if newer >= 0 else None,
        names[older] if older < len(names) else None,
    )


def make_curl(record: Json) -> str | None:
    """Return a command that sends the request again, None if it cannot be sent like that."""
    try:
        replayed = make_replay_request(record, None)
    except InvalidRequest:
        return None
    if len(replayed.body) > MAX_CURL_BODY:
        return None
    try:  # as ASCII, so that no character can disguise the command
        body = json.dumps(json.loads(replayed.body))
    except ValueError:
        body = escape_control_characters(replayed.body.decode(errors="replace"))
    services = get_services()
    base = build_public_address(services.settings.public_url, get_request())
    lines = [f"curl -sN {shlex.quote(escape_control_characters(base + replayed.path))}"]
    lines += [
        f"-H {shlex.quote(escape_control_characters(shorten_text(f'{k}: {v}', 500)))}"
        for k, v in replayed.headers.items()
    ]
    if services.client_keys.are_required():
        lines.append('-H "Authorization: Bearer $FORWARDER_KEY"')
    return " \\\n  ".join([*lines, f"-d {shlex.quote(body)}"])
