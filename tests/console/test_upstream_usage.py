"""Requests, errors and latencies of upstreams over the last day."""

from __future__ import annotations

import html
import time
from pathlib import Path

import httpx2
import pytest

from forwarder.console import upstream_usage
from forwarder.console.upstream_usage import list_rows
from forwarder.core.errors import StoreUnavailable
from forwarder.server.extension import get_extension
from forwarder.storage.db.usage import HOUR_SECONDS, UsageCounts, UsageKey
from forwarder.usage.report import UsageLine
from tests.models.remotes import answer_normally, refusing
from tests.server.conftest import Serve

PART = "/console/upstreams/usage"

START = 20_000 * 86_400
HOURS = range(START, START + 4 * HOUR_SECONDS, HOUR_SECONDS)


def make_line(hour: int, upstream: str, requests: int, errors: int, latency: int) -> UsageLine:
    events = 1 if latency else 0
    counts = UsageCounts(
        requests=requests, errors=errors, first_events=events, first_event_ms=latency
    )
    return UsageLine(START + hour * HOUR_SECONDS, None, None, upstream, counts, None, 0)


def test_rows_have_sums_and_a_chart_by_hour() -> None:
    lines = [
        make_line(0, "a", 4, 1, 100),
        make_line(2, "a", 8, 0, 300),
        make_line(3, "a", 2, 2, 0),
        make_line(1, "b", 20, 0, 0),
        make_line(1, "none", 9, 9, 0),
    ]
    busy, row = list_rows(lines, HOURS)

    assert (busy.upstream, busy.requests, busy.latency_line) == ("b", 20, "")
    assert (row.requests, row.errors, row.first_event_ms) == (14, 3, 200.0)
    assert round(row.error_share, 3) == 0.214
    assert [(bar.x, bar.height, bar.y) for bar in row.bars] == [
        (0, "24.0", "24.0"),
        (30, "48.0", "0.0"),
        (45, "12.0", "36.0"),
    ]
    assert [bar.error_height for bar in row.bars] == ["6.0", "0.0", "12.0"]
    assert row.bars[0].title == "00:00 UTC: 4 requests, 1 failed, first event after 100 ms"
    assert row.latency_line == "7.5,32.0 37.5,0.0"
    assert row.summary == (
        "14 requests, 3 failed; most in the hour from 02:00 UTC: 8; "
        "first event after at most 300 ms in the mean of an hour"
    )


def test_number_of_upstreams_is_limited() -> None:
    lines = [make_line(0, f"u{number:02}", 1, 0, 0) for number in range(60)]

    rows = list_rows(lines, HOURS)

    assert len(rows) == upstream_usage.MAX_UPSTREAMS
    assert rows[0].upstream == "u00"


def test_requests_of_clients_are_counted_by_upstream(serve: Serve) -> None:
    def answer(request: httpx2.Request) -> httpx2.Response:
        return refusing(500)(request) if b"fail" in request.read() else answer_normally(request)

    client = serve(answer, FORWARDER_DATABASE_URL="none")
    for text in ("hi", "hi", "fail"):
        body = {"model": "chat/m", "messages": [{"role": "user", "content": text}], "stream": True}
        client.post("/v1/chat/completions", json=body, buffered=True)
    part = client.get(PART).text

    assert '<th scope="row">chat</th>' in part
    assert 'data-label="Requests">3<' in part
    assert "1 (33.3 %)" in part
    assert "<polyline" in part
    assert "those of the worker that answers" in part
    assert '<th scope="row">chat</th>' in client.get("/console/upstreams?check=1").text
    assert f'hx-get="{PART}"' in client.get("/console/upstreams").text


def test_with_a_database_the_numbers_are_those_of_all_workers(serve: Serve, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/state.db"
    workers = [serve(answer_normally, FORWARDER_DATABASE_URL=url) for _ in range(2)]
    assert "No requests in the last 24 hours" in workers[0].get(PART).text
    body = {"model": "chat/m", "messages": [{"role": "user", "content": "hi"}], "stream": True}
    workers[0].post("/v1/chat/completions", json=body, buffered=True)
    workers[0].get(PART)  # adds the counts of this worker to the database
    part = workers[1].get(PART).text

    assert 'data-label="Requests">1<' in part
    assert "those of all workers" in part


def test_hostile_names_are_escaped(serve: Serve) -> None:
    client = serve(answer_normally, FORWARDER_DATABASE_URL="none")
    hour = int(time.time()) // HOUR_SECONDS * HOUR_SECONDS
    key = UsageKey(hour, "alice", "m", "<script>" + "x" * 1000)
    reports = get_extension(client.application).services.usage_reports
    reports._store.add_counts([(key, UsageCounts(requests=1))])
    part = client.get(PART).text

    assert "&lt;script&gt;" in part
    assert "<script" not in part
    assert "x" * 500 not in part


def test_unavailable_database_is_an_error_of_the_part_only(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = serve(answer_normally)
    reports = get_extension(client.application).services.usage_reports

    def fail(*arguments: object) -> None:
        raise StoreUnavailable

    monkeypatch.setattr(reports, "make_report", fail)
    part = client.get(PART, headers={"HX-Request": "true"})

    assert part.status_code == 503
    assert part.text.startswith('<p class="notice bad"')
    assert client.get("/console/upstreams").status_code == 200
    full_page = client.get("/console/upstreams?check=1")
    assert full_page.status_code == 200
    assert html.escape(StoreUnavailable().message).replace("&#x27;", "&#39;") in full_page.text
