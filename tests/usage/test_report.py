"""Reports of usage, their costs, and their parameters."""

from __future__ import annotations

import csv
import io
from typing import Any

import pytest

from forwarder.config.settings import Settings
from forwarder.core.errors import InvalidRequest
from forwarder.storage.db.usage import UsageCounts, UsageKey
from forwarder.usage import report
from forwarder.usage.prices import PriceTable
from forwarder.usage.report import (
    UsageReporter,
    escape_cell,
    format_time,
    iterate_table,
    parse_group,
    parse_range,
    parse_time,
)
from forwarder.usage.store import MemoryUsageStore
from tests.helpers.check_cases import check_each

HOUR = 3600
DAY = 24 * HOUR
START = 20_000 * DAY  # 2024-10-04
COUNTS = UsageCounts(
    requests=2,
    input_tokens=1_000_000,
    cached_tokens=500_000,
    output_tokens=100_000,
    first_events=1,
    first_event_ms=300,
    duration_ms=1001,
)


@pytest.fixture
def reports() -> UsageReporter:
    store = MemoryUsageStore(None)
    store.add_counts(
        [
            (UsageKey(START, "alice", "m", "up"), COUNTS),
            (UsageKey(START, "bob", "m", "up"), COUNTS),
            (UsageKey(START + 2 * HOUR, "alice", "m", "up"), COUNTS),
            (UsageKey(START + 2 * HOUR, "alice", "free", "spare"), COUNTS),
            (UsageKey(START + DAY, "bob", "new", "up"), COUNTS.add(COUNTS)),
        ]
    )
    prices = PriceTable(Settings.from_env({"FORWARDER_PRICES": "m=2/1/10,free=0/0/0"}))
    return UsageReporter(store, prices)


COST = 0.5 * 2 + 0.5 * 1 + 0.1 * 10


def test_lines_have_sums_and_costs(reports: UsageReporter) -> None:
    usage_report = reports.make_report(START, START + 2 * DAY, ["model", "day"])

    assert (usage_report.group, usage_report.is_shared) == (("day", "model"), False)
    assert [
        (line.start, line.client, line.model, line.counts.requests, line.cost)
        for line in usage_report.lines
    ] == [
        (START, None, "free", 2, 0.0),
        (START, None, "m", 6, pytest.approx(3 * COST)),
        (START + DAY, None, "new", 4, None),
    ]
    assert [line.unpriced_requests for line in usage_report.lines] == [0, 0, 4]
    assert (usage_report.total.counts.requests, usage_report.total.unpriced_requests) == (12, 4)
    assert usage_report.total.cost == pytest.approx(3 * COST)
    assert usage_report.total.mean_first_event_ms == 300.0
    assert usage_report.total.mean_duration_ms == 500.5


def test_report_is_limited_to_a_time_and_a_client(reports: UsageReporter) -> None:
    def count_requests(start: int, end: int, client: str | None = None) -> int:
        return reports.make_report(start, end, [], client).total.counts.requests

    assert count_requests(START, START + HOUR) == 4
    assert count_requests(START + HOUR, START + DAY) == 4
    assert count_requests(START, START + 2 * DAY, "alice") == 6
    assert count_requests(START, START + 2 * DAY, "nobody") == 0


def test_empty_report_has_a_total(reports: UsageReporter) -> None:
    usage_report = reports.make_report(0, HOUR, ["client"])

    assert (usage_report.lines, usage_report.total.counts, usage_report.total.cost) == (
        [],
        UsageCounts(),
        None,
    )
    assert usage_report.total.mean_duration_ms is None


def test_totals_are_ordered_by_tokens(reports: UsageReporter) -> None:
    totals = reports.list_totals(START, START + 2 * DAY, ["model"])

    assert [line.model for line in totals] == ["m", "new", "free"]


def test_report_includes_waiting_counts_of_the_worker() -> None:
    flushed: list[bool] = []
    table = PriceTable(Settings.from_env({}))
    UsageReporter(MemoryUsageStore(None), table, lambda: flushed.append(True)).make_report(0, 1)

    assert flushed == [True]


def test_report_of_too_many_lines_is_cut(
    reports: UsageReporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    complete_report = reports.make_report(START, START + 2 * DAY, ["hour", "client"])
    monkeypatch.setattr(report, "MAX_ROWS", 2)
    usage_report = reports.make_report(START, START + 2 * DAY, ["hour", "client"])

    assert (
        complete_report.is_truncated,
        len(complete_report.lines),
        complete_report.file_name,
    ) == (False, 4, "usage.csv")
    assert (usage_report.is_truncated, usage_report.file_name) == (True, "usage-truncated.csv")
    assert usage_report.to_json()["truncated"] is True
    assert usage_report.lines == complete_report.lines[:2]
    assert usage_report.total == complete_report.total


def test_groups_with_the_most_tokens_are_reported(
    reports: UsageReporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "MAX_ROWS", 2)
    usage_report = reports.make_report(START, START + 2 * DAY, ["model"])

    assert [line.model for line in usage_report.lines] == ["m", "new"]  # "free" has the fewest
    assert usage_report.total.counts.requests == 12
    reports._store.add_counts([(UsageKey(START, "bob", "m", "up"), COUNTS)])
    assert reports.list_clients(START, START + 2 * DAY, 1) == ["bob"]


def test_invented_models_do_not_prevent_reports(
    reports: UsageReporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "MAX_PRICED_MODELS", 2)
    invented = UsageCounts(requests=1000, errors=1000)
    reports._store.add_counts(
        [(UsageKey(START, "mallory", f"m{i}", "up"), invented) for i in range(50)]
    )
    usage_report = reports.make_report(START, START + DAY, ["client"])

    assert [(line.client, line.cost, line.unpriced_requests) for line in usage_report.lines] == [
        ("alice", pytest.approx(2 * COST), 0),
        ("bob", pytest.approx(COST), 0),
        ("mallory", None, 50_000),
    ]
    assert usage_report.total.cost == pytest.approx(3 * COST)


def test_json_has_the_columns_of_the_groups(reports: UsageReporter) -> None:
    body = reports.make_report(START, START + DAY, ["hour", "client"]).to_json()

    assert {k: v for k, v in body.items() if k not in ("data", "total")} == {
        "object": "usage",
        "from": "2024-10-04T00:00:00Z",
        "to": "2024-10-05T00:00:00Z",
        "group": ["hour", "client"],
        "shared": False,
        "currency": "USD",
        "truncated": False,
    }
    assert body["data"][-1] == {
        "start": "2024-10-04T02:00:00Z",
        "client": "alice",
        "requests": 4,
        "errors": 0,
        "cancelled": 0,
        "estimated": 0,
        "input_tokens": 2_000_000,
        "cached_tokens": 1_000_000,
        "output_tokens": 200_000,
        "reasoning_tokens": 0,
        "mean_first_event_ms": 300.0,
        "mean_duration_ms": 500.5,
        "cost": 2.5,
        "unpriced_requests": 0,
    }
    assert "client" not in body["total"]


def test_csv_has_the_same_columns_and_no_formulas() -> None:
    store = MemoryUsageStore(None)
    for model in ('=HYPERLINK("http://x")', "a,b"):
        store.add_counts([(UsageKey(0, "-alice", model, "up"), COUNTS)])
    usage_report = UsageReporter(store, PriceTable(Settings.from_env({}))).make_report(
        0, HOUR, ["client", "model"]
    )
    header, *rows = csv.reader(io.StringIO(usage_report.to_csv()))

    assert header == list(usage_report.to_json()["data"][0])
    assert [row[:3] for row in rows] == [
        ["'-alice", '\'=HYPERLINK("http://x")', "2"],
        ["'-alice", "a,b", "2"],
    ]
    assert rows[0][header.index("cost")] == ""


@check_each(
    ("value", "cell"),
    [("+1", "'+1"), ("@x", "'@x"), ("\tx", "'\tx"), ("\rx", "'\rx"), ("a=b", "a=b"), (-1, -1)],
)
def test_formulas_are_escaped(value: object, cell: object) -> None:
    assert escape_cell(value) == cell


def test_table_ends_with_the_total(reports: UsageReporter) -> None:
    rows = list(iterate_table(reports.make_report(START, START + DAY, ["client"])))

    assert [row[:2] for row in rows] == [
        ["client", "requests"],
        ["alice", "6"],
        ["bob", "2"],
        ["total", "8"],
    ]
    assert len(set(map(len, rows))) == 1
    assert list(iterate_table(reports.make_report(0, HOUR, [])))[-1][0] == "0"


# -- parameters -----------------------------------------------------------------------------------


@check_each(
    ("text", "group"),
    [(None, ("day",)), ("", ()), ("model, hour", ("model", "hour")), ("client,", ("client",))],
)
def test_groups_are_parsed(text: str | None, group: tuple[str, ...]) -> None:
    assert parse_group(text) == group


@check_each("text", ["week", "hour,day", "model,model", "Client"])
def test_unknown_groups_are_refused(text: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_group(text)

    assert (caught.value.param, caught.value.code) == ("group", "invalid_value")


@check_each(
    ("text", "is_end", "seconds"),
    [
        ("2024-10-04", False, START),
        ("2024-10-04", True, START + DAY),
        ("2024-10-04T01:00", False, START + HOUR),
        ("2024-10-04T01:00Z", True, START + HOUR),
        ("2024-10-04T01:00+01:00", False, START),
        (str(START), True, START),
    ],
)
def test_times_are_parsed(text: str, is_end: bool, seconds: int) -> None:
    assert parse_time(text, "from", is_end) == seconds


@check_each("text", ["yesterday", "2024-13-01", "-1", "1e9", "1969-01-01", "0001-01-01", "²"])
def test_other_times_are_refused(text: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_time(text, "to")

    assert caught.value.param == "to"


@check_each("text", ["9999-12-31", "9999-12-31T23:30", "9999-12-31T23:59:59.9-01:00"])
def test_times_that_overflow_when_rounded_to_hours_are_rejected(text: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_range("9999-12-30", text, float(START))

    assert (caught.value.param, caught.value.code) == ("to", "invalid_value")
    end = parse_range("9999-12-30", "9999-12-31T22:59:59", float(START))[1]
    assert format_time(end) == "9999-12-31T23:00:00Z"


@check_each(
    ("start", "end", "expected"),
    [
        (None, None, (START - 7 * DAY + HOUR, START + HOUR)),
        ("2024-10-03T22:59", None, (START - 2 * HOUR, START + HOUR)),
        ("2024-10-03", "2024-10-03", (START - DAY, START)),
        (None, "2024-10-03", (START - 7 * DAY, START)),
        (str(START + 5), str(START + 6), (START, START + HOUR)),
        (None, "5", (0, HOUR)),
    ],
)
def test_range_has_whole_hours(start: Any, end: Any, expected: tuple[int, int]) -> None:
    assert parse_range(start, end, START + 60.5) == expected


@check_each(
    ("start", "end"),
    [("2024-10-05", "2024-10-03"), ("2000-01-01", "2024-01-01"), ("0", "99999999999")],
)
def test_other_ranges_are_refused(start: str, end: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_range(start, end, float(START))

    assert caught.value.param == "from"
