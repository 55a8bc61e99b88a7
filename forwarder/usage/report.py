"""Reports of usage with costs: sums by time, client, model and upstream.

`UsageReporter` is for routes, pages and commands. Its results are typed: times are Unix seconds of
UTC, and costs USD.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import NamedTuple

import orjson

from forwarder.core.blocking_work import BlockingPool
from forwarder.core.errors import InvalidRequest
from forwarder.core.types import Json
from forwarder.storage.db.usage import (
    DAY_SECONDS,
    HOUR_SECONDS,
    PricedSum,
    Prices,
    UsageCounts,
    UsageQuery,
)
from forwarder.usage.prices import PriceTable
from forwarder.usage.store import UsageStore

TIME_GROUPS = {"hour": HOUR_SECONDS, "day": DAY_SECONDS}
NAME_GROUPS = ("client", "model", "upstream")

NO_COUNTS = UsageCounts()

MAX_ROWS = 10_000
"""Maximum number of lines of a report. A thread makes and encodes them in up to 0.2 s."""

MAX_PRICED_MODELS = 500
"""Maximum number of pairs of model and upstream whose prices a report looks up. Pairs with the most
tokens come first, because clients may invent any number of names.
"""

MAX_DAYS = 3660

MAX_TIME = 253_402_297_200
"""9999-12-31T23:00:00Z, the last whole hour that can be written as a date."""

DEFAULT_DAYS = 7

SUM_COLUMNS = UsageCounts._fields[:8]
COUNT_COLUMNS = (
    *SUM_COLUMNS, "mean_first_event_ms", "mean_duration_ms", "cost", "unpriced_requests",
)  # fmt: skip

MAX_CACHED_TIMES = 1024

_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")
"""Spreadsheets treat a text that begins with one of these as a formula."""


class UsageLine(NamedTuple):
    """The sums of a group. ``start`` is the beginning of its hour or day.

    Fields that the report is not grouped by are None. ``cost`` is that of the models with a price,
    None if no model has one; ``unpriced_requests`` are requests for models without a price.
    """

    start: int | None
    client: str | None
    model: str | None
    upstream: str | None
    counts: UsageCounts
    cost: float | None
    unpriced_requests: int

    @property
    def mean_first_event_ms(self) -> float | None:
        """The mean time to the first event of an answer, None without answers."""
        return compute_mean(self.counts.first_event_ms, self.counts.first_events)

    @property
    def mean_duration_ms(self) -> float | None:
        """The mean duration of a request, None without requests."""
        return compute_mean(self.counts.duration_ms, self.counts.requests)

    def to_json(self, group: Sequence[str]) -> Json:
        """Return the values of the columns that `list_columns` names."""
        values: Json = {} if self.start is None else {"start": format_time(self.start)}
        values.update((name, getattr(self, name)) for name in NAME_GROUPS if name in group)
        values.update(zip(SUM_COLUMNS, self.counts, strict=False))
        values["mean_first_event_ms"] = self.mean_first_event_ms
        values["mean_duration_ms"] = self.mean_duration_ms
        values["cost"] = None if self.cost is None else round(self.cost, 6)
        values["unpriced_requests"] = self.unpriced_requests
        return values


@dataclass(frozen=True)
class UsageReport:
    """The usage from ``start`` up to, but not including, ``end``.

    ``is_shared`` is false if the report covers one worker only. ``group`` names the dimensions of
    ``lines``, in the order by which the lines are sorted. ``is_truncated`` means that there were
    more than `MAX_ROWS` lines. With a time in ``group`` the latest ones are left out, otherwise
    those with the fewest tokens. ``total`` always includes all usage.
    """

    start: int
    end: int
    group: tuple[str, ...]
    is_shared: bool
    lines: list[UsageLine]
    total: UsageLine
    is_truncated: bool = False

    @property
    def file_name(self) -> str:
        """The name of a file with the lines, which says so if some are left out."""
        return "usage-truncated.csv" if self.is_truncated else "usage.csv"

    def to_json(self) -> Json:
        return {
            "object": "usage",
            "from": format_time(self.start),
            "to": format_time(self.end),
            "group": list(self.group),
            "shared": self.is_shared,
            "currency": "USD",
            "truncated": self.is_truncated,
            "data": [line.to_json(self.group) for line in self.lines],
            "total": self.total.to_json(()),
        }

    def to_csv(self) -> str:
        """Return the lines with a header. No cell is a formula for a spreadsheet."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\r\n")
        writer.writerow(list_columns(self.group))
        for line in self.lines:
            writer.writerow(map(escape_cell, line.to_json(self.group).values()))
        return text.getvalue()


class UsageReporter:
    """Reads usage from ``store``; ``flush`` adds this worker's waiting counts to it."""

    def __init__(
        self, store: UsageStore, prices: PriceTable, flush: Callable[[], object] = lambda: None
    ) -> None:
        self._store = store
        self._prices = prices
        self._flush = flush
        self._worker = BlockingPool(1)  # a thread: a long report takes 0.1 s

    @property
    def is_shared(self) -> bool:
        """Whether reports contain the usage of all workers."""
        return self._store.is_shared

    def make_report(
        self, start: int, end: int, group: Sequence[str] = (), client: str | None = None
    ) -> UsageReport:
        """Return the sums of the hours from ``start`` up to, but not including, ``end``.

        ``group`` has at most one of ``hour`` and ``day``, and any of ``client``, ``model`` and
        ``upstream``. ``client`` restricts the report to one client. Raises StoreUnavailable if the
        database cannot be read.
        """
        return self.make_reports(start, end, [group], client)[0]

    def make_reports(
        self, start: int, end: int, groups: Iterable[Sequence[str]], client: str | None = None
    ) -> list[UsageReport]:
        """Return a report, as `make_report` does, for each of ``groups``."""
        self._flush()
        prices = self._find_prices(start, end, client)
        return [self._make_report(UsageQuery(start, end, tuple(group), client), prices)
                for group in groups]  # fmt: skip

    def list_clients(self, start: int, end: int, limit: int) -> list[str]:
        """Return sorted names of clients, at most ``limit``: those with the most tokens."""
        query = UsageQuery(start, end, ("client",), largest_first=True)
        return sorted(str(key[0]) for key, _ in self._store.sum_counts(query, limit))

    def close(self) -> None:
        """End the threads that compute reports."""
        self._worker.close()
        self._store.close()

    def encode(self, report: UsageReport, form: str) -> bytes:
        """Return a report as ``csv`` or as ``json``."""
        if form == "csv":
            return self._worker.run(lambda: report.to_csv().encode())
        return self._worker.run(lambda: orjson.dumps(report.to_json()))

    def list_totals(
        self, start: int, end: int, group: Sequence[str] = (), client: str | None = None
    ) -> list[UsageLine]:
        """Return the sums by any of ``client``, ``model`` and ``upstream``, most tokens first."""
        return sort_by_tokens(self.make_report(start, end, group, client).lines)

    def _find_prices(self, start: int, end: int, client: str | None) -> Prices:
        """Return the prices of the models that were used."""
        query = UsageQuery(start, end, ("model", "upstream"), client, largest_first=True)
        sums = self._store.sum_counts(query, MAX_PRICED_MODELS)

        def look_up() -> Prices:
            names = [(str(model), str(upstream)) for (model, upstream), _ in sums]
            found = {pair: self._prices.find_price(*pair) for pair in names}
            return {pair: price for pair, price in found.items() if price is not None}

        return self._worker.run(look_up)

    def _make_report(self, query: UsageQuery, prices: Prices) -> UsageReport:
        chosen = tuple(name for name in (*TIME_GROUPS, *NAME_GROUPS) if name in query.group)
        has_time = not TIME_GROUPS.keys().isdisjoint(chosen)
        query = query._replace(group=chosen, largest_first=not has_time)
        sums = self._store.sum_costs(query, prices, MAX_ROWS + 1)
        is_truncated = len(sums) > MAX_ROWS
        if is_truncated:
            totals = self._store.sum_costs(query._replace(group=()), prices, 1)
        else:
            totals = sums

        def make_lines() -> tuple[list[UsageLine], UsageLine]:
            return [make_line(chosen, each) for each in sorted(sums[:MAX_ROWS])], make_total(totals)

        lines, total = self._worker.run(make_lines)
        return UsageReport(
            query.start, query.end, chosen, self.is_shared, lines, total, is_truncated
        )


def make_line(group: Sequence[str], found: PricedSum) -> UsageLine:
    """Return the line of a group; ``group`` are the names of the values of its key."""
    values = dict(zip(group, found.key, strict=True))
    start = values.get("hour", values.get("day"))
    client, model, upstream = (str(values[n]) if n in values else None for n in NAME_GROUPS)
    return UsageLine(None if start is None else int(start), client, model, upstream, *found[1:])


def make_total(sums: Sequence[PricedSum]) -> UsageLine:
    """Return the total of all sums."""
    columns = list(zip(*(each.counts for each in sums), strict=True))
    costs = [each.cost for each in sums if each.cost is not None]
    total = PricedSum(
        (),
        UsageCounts(*map(sum, columns)),
        sum(costs) if costs else None,
        sum(each.unpriced_requests for each in sums),
    )
    return make_line((), total)


def sort_by_tokens(lines: Iterable[UsageLine]) -> list[UsageLine]:
    """Return the lines in descending order of their tokens."""
    return sorted(lines, key=lambda line: -line.counts.tokens)


def list_columns(group: Sequence[str]) -> tuple[str, ...]:
    """Return the names of a report's columns."""
    start = ("start",) if any(name in group for name in TIME_GROUPS) else ()
    return (*start, *(name for name in NAME_GROUPS if name in group), *COUNT_COLUMNS)


def compute_mean(total: int, count: int) -> float | None:
    return round(total / count, 1) if count else None


@lru_cache(MAX_CACHED_TIMES)
def format_time(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def escape_cell(value: object) -> object:
    """Put an apostrophe before a text that a spreadsheet would treat as a formula."""
    if isinstance(value, str) and value.startswith(_FORMULA_STARTS):
        return f"'{value}"
    return value


# -- parameters of a report -----------------------------------------------------------------------


def parse_group(text: str | None) -> tuple[str, ...]:
    """Parse names separated by commas; by default ``day``. Raises InvalidRequest."""
    if text is None:
        return ("day",)
    names = [name for name in (part.strip() for part in text.split(",")) if name]
    allowed = (*TIME_GROUPS, *NAME_GROUPS)
    if not set(names) <= set(allowed) or len(names) > len(set(names)):
        raise invalid_parameter("group", f"different names of {', '.join(allowed)}")
    if set(names) >= set(TIME_GROUPS):
        raise invalid_parameter("group", "only one of hour and day")
    return tuple(names)


def parse_range(start: str | None, end: str | None, now: float) -> tuple[int, int]:
    """Parse the start and the end of a report, as `parse_time` does.

    Both are extended to whole hours. By default the report ends now and begins seven days before
    its end. Raises InvalidRequest, which names ``from`` or ``to``.
    """
    until = parse_time(end, "to", is_end=True) if end else int(now) + 1
    last = -(-until // HOUR_SECONDS) * HOUR_SECONDS
    since = parse_time(start, "from") if start else max(0, last - DEFAULT_DAYS * DAY_SECONDS)
    first = since - since % HOUR_SECONDS
    if first >= last:
        raise invalid_parameter("from", "a time before 'to'")
    if last - first > MAX_DAYS * DAY_SECONDS:
        raise invalid_parameter("from", f"a time of at most {MAX_DAYS} days before 'to'")
    return first, last


_DATE = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)
_SECONDS = re.compile(r"\d{1,11}", re.ASCII)


def parse_time(text: str, param: str, is_end: bool = False) -> int:
    """Parse a date, a date with time (ISO 8601, by default UTC) or Unix seconds.

    With ``is_end`` a date is the end of its day.
    """
    text = text.strip()
    try:
        if _SECONDS.fullmatch(text):
            seconds = int(text)
        else:
            moment = datetime.fromisoformat(text)
            if moment.tzinfo is None:
                moment = moment.replace(tzinfo=UTC)
            seconds = int(moment.timestamp())
        if is_end and _DATE.fullmatch(text):
            seconds += DAY_SECONDS
    except (ValueError, OverflowError):
        seconds = -1
    if not 0 <= seconds <= MAX_TIME:
        raise invalid_parameter(
            param, "a date such as 2026-01-31, a time such as 2026-01-31T12:00Z, or Unix seconds"
        )
    return seconds


def invalid_parameter(param: str, expected: str) -> InvalidRequest:
    return InvalidRequest(
        f"Invalid value for '{param}': expected {expected}.", param=param, code="invalid_value"
    )


def iterate_table(report: UsageReport) -> Iterator[list[str]]:
    """Yield the rows of a report as text, with a header and the total."""
    columns = list_columns(report.group)
    yield list(columns)
    for line in report.lines:
        yield [format_cell(value) for value in line.to_json(report.group).values()]
    total = report.total.to_json(())
    yield ["total" if i == 0 and name not in total else format_cell(total.get(name, ""))
           for i, name in enumerate(columns)]  # fmt: skip


def format_cell(value: object) -> str:
    return "-" if value is None else str(value)
