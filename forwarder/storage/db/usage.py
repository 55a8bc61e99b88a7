"""Usage counts by hour, client, model and upstream. New counts are added to the existing row."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import sqlalchemy as sa

from forwarder.config.parsers import Price
from forwarder.storage.db.clock import NOW
from forwarder.storage.db.statements import make_insert
from forwarder.storage.db.tables import usage_hours

HOUR_SECONDS = 3600
DAY_SECONDS = 86400

MAX_DELETED_HOURS = 24
"""Hours that are deleted per transaction, so that other writers can interleave."""


class UsageCounts(NamedTuple):
    """The counts of a set of requests.

    ``errors`` counts requests with a status from 400 and failed answers, ``cancelled`` requests
    whose client disconnected. No request counts as both. ``estimated`` is the number of requests
    with estimated tokens. ``cached_tokens`` are part of ``input_tokens``, ``reasoning_tokens`` of
    ``output_tokens``. ``first_event_ms`` is the sum of the times to the first event of the
    ``first_events`` answers that had one, ``duration_ms`` the sum of the durations of all requests.
    """

    requests: int = 0
    errors: int = 0
    cancelled: int = 0
    estimated: int = 0
    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    first_events: int = 0
    first_event_ms: int = 0
    duration_ms: int = 0

    def add(self, other: UsageCounts) -> UsageCounts:
        """Return the sums."""
        return UsageCounts(*map(int.__add__, self, other))

    @property
    def tokens(self) -> int:
        """The tokens of both directions."""
        return self.input_tokens + self.output_tokens


class UsageKey(NamedTuple):
    """The key of a row of counts; ``hour`` is its start in Unix seconds, UTC."""

    hour: int
    client: str
    model: str
    upstream: str


class UsageQuery(NamedTuple):
    """The rows of the hours from ``start`` up to, but not including, ``end``; of one client or all.

    ``group`` names the dimensions of the sums: ``hour`` or ``day``, ``client``, ``model``,
    ``upstream``. Sums are ordered by their keys, with ``largest_first`` by their tokens.
    """

    start: int
    end: int
    group: tuple[str, ...]
    client: str | None = None
    largest_first: bool = False


class UsageSum(NamedTuple):
    """The sums of one group; ``key`` has the values of `UsageQuery.group` in its order."""

    key: tuple[int | str, ...]
    counts: UsageCounts


class PricedSum(NamedTuple):
    """The sums of one group and their cost in USD, None if no model has a price.

    ``unpriced_requests`` are requests for models without a price.
    """

    key: tuple[int | str, ...]
    counts: UsageCounts
    cost: float | None
    unpriced_requests: int


Prices = Mapping[tuple[str, str], Price]
"""Model and upstream -> price."""

TOKENS_PER_PRICE = 1_000_000


def compute_cost(counts: UsageCounts, price: Price) -> float:
    """Return the cost of tokens in USD."""
    cached = min(counts.cached_tokens, counts.input_tokens)
    return (
        (counts.input_tokens - cached) * price.input
        + cached * price.cached
        + counts.output_tokens * price.output
    ) / TOKENS_PER_PRICE


_ADDITIONS = ", ".join(
    f'"{name}" = usage_hours."{name}" + excluded."{name}"' for name in UsageCounts._fields
)
_ADD = make_insert(
    usage_hours, f"ON CONFLICT (hour, client, model, upstream) DO UPDATE SET {_ADDITIONS}"
)


def add_counts(connection: sa.Connection, rows: Iterable[tuple[UsageKey, UsageCounts]]) -> None:
    """Add counts to the rows of their keys.

    Rows are locked in the order of their keys, so that concurrent additions cause no deadlock.
    """
    _ADD.run(connection, *({**key._asdict(), **counts._asdict()} for key, counts in sorted(rows)))


def sum_counts(connection: sa.Connection, query: UsageQuery, limit: int) -> list[UsageSum]:
    """Return the sums of at most ``limit`` groups."""
    statement = select_sums(query, usage_hours, [])
    size = len(query.group)
    rows = connection.execute(statement.limit(limit))
    return [UsageSum(tuple(row[:size]), UsageCounts(*map(int, row[size:]))) for row in rows]


def sum_costs(
    connection: sa.Connection, query: UsageQuery, prices: Prices, limit: int
) -> list[PricedSum]:
    """Return the sums of at most ``limit`` groups with their costs by ``prices``."""
    if not prices:
        sums = sum_counts(connection, query, limit)
        return [PricedSum(key, counts, None, counts.requests) for key, counts in sums]
    names, values = ("model", "upstream"), Price._fields
    columns = [*(sa.column(name, sa.Text) for name in names),
               *(sa.column(name, sa.Float) for name in values)]  # fmt: skip
    rows = [(*pair, *price) for pair, price in prices.items()]
    listed = sa.values(*columns).data(rows).cte("listed")
    # SQLite makes an index for the join only over a table of its own (therefore DISTINCT) with
    # columns of the same type as those of the other table. Without, 100,000 rows take seconds.
    price_table = (
        sa.select(
            *(sa.cast(listed.c[name], sa.Text).label(name) for name in names),
            *(listed.c[name] for name in values),
        )
        .distinct()
        .cte("prices")
    )
    priced, used = price_table.c, usage_hours.c
    cached = sa.case((used.cached_tokens < used.input_tokens, used.cached_tokens),
                     else_=used.input_tokens)  # fmt: skip
    cost = (used.input_tokens - cached) * priced.input + cached * priced.cached
    cost = sa.func.sum(cost + used.output_tokens * priced.output) / TOKENS_PER_PRICE
    unpriced = sa.func.sum(sa.case((priced.model.is_(None), used.requests), else_=0))
    joined = usage_hours.outerjoin(
        price_table, sa.and_(priced.model == used.model, priced.upstream == used.upstream)
    )
    statement = select_sums(query, joined, [cost, sa.func.coalesce(unpriced, 0)])
    size = len(query.group)
    return [
        PricedSum(tuple(row[:size]), UsageCounts(*map(int, row[size:-2])), row[-2], int(row[-1]))
        for row in connection.execute(statement.limit(limit))
    ]


def select_sums(
    query: UsageQuery, source: sa.FromClause, more: list[sa.ColumnElement[Any]]
) -> sa.Select[Any]:
    """Return the statement for the sums of a query, with ``more`` columns at the end."""
    table = usage_hours.c
    keys = {
        "hour": table.hour,
        # Not a parameter: PostgreSQL would treat each occurrence as a different expression.
        "day": table.hour - table.hour % sa.literal_column(str(DAY_SECONDS)),
        "client": table.client,
        "model": table.model,
        "upstream": table.upstream,
    }
    group = [keys[name] for name in query.group]
    sums = [sa.func.coalesce(sa.func.sum(table[name]), 0) for name in UsageCounts._fields]
    statement = sa.select(*group, *sums, *more).select_from(source)
    statement = statement.where(table.hour >= query.start, table.hour < query.end)
    if query.client is not None:
        statement = statement.where(table.client == query.client)
    if query.largest_first:
        tokens = sa.func.sum(table.input_tokens + table.output_tokens)
        order = [tokens.desc(), sa.func.sum(table.requests).desc(), *group]
    else:
        order = group
    return statement.group_by(*group).order_by(*order)


def remove_older(connection: sa.Connection, max_age: float) -> int:
    """Delete up to `MAX_DELETED_HOURS` hours older than ``max_age`` seconds; return the rows."""
    hour = usage_hours.c.hour
    old = sa.select(hour).where(hour < NOW - max_age).distinct().order_by(hour)
    hours = list(connection.scalars(old.limit(MAX_DELETED_HOURS)))
    if not hours:
        return 0
    return connection.execute(sa.delete(usage_hours).where(hour.in_(hours))).rowcount
