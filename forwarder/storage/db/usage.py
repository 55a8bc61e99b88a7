"""Usage of upstreams by hour, client, model and upstream. Rows are only ever added up."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import sqlalchemy as sa

from forwarder.storage.db.clock import NOW
from forwarder.storage.db.statements import make_insert
from forwarder.storage.db.tables import usage_hours

HOUR_SECONDS = 3600
DAY_SECONDS = 86400

MAX_DELETED_HOURS = 24
"""Hours that are deleted per transaction, so that other writers can interleave."""


class UsageCounts(NamedTuple):
    """What is counted.

    ``errors`` are requests with a status from 400 and failed answers, ``cancelled`` are requests
    whose client left, and neither counts as the other. ``estimated`` is the number of requests
    with estimated tokens. ``cached_tokens`` are part of ``input_tokens``, ``reasoning_tokens`` of
    ``output_tokens``. ``first_event_ms`` is the sum of the times to the first event of the
    ``first_events`` answers that had one, ``duration_ms`` that of the durations of all requests.
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


class UsageKey(NamedTuple):
    """What a row counts; ``hour`` is its start in Unix seconds, UTC."""

    hour: int
    client: str
    model: str
    upstream: str


class UsageQuery(NamedTuple):
    """The rows of the hours from ``start`` until before ``end``, of one client or of all.

    ``group`` names what the sums are separated by: ``hour`` or ``day``, ``client``, ``model``,
    ``upstream``.
    """

    start: int
    end: int
    group: tuple[str, ...]
    client: str | None = None


class UsageSum(NamedTuple):
    """The sums of one group; ``key`` has the values of `UsageQuery.group` in its order."""

    key: tuple[int | str, ...]
    counts: UsageCounts


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
    """Return the sums of at most ``limit`` groups, ordered by their keys."""
    table = usage_hours.c
    keys = {
        "hour": table.hour,
        # Not a parameter: PostgreSQL would take each occurrence for another expression.
        "day": table.hour - table.hour % sa.literal_column(str(DAY_SECONDS)),
        "client": table.client,
        "model": table.model,
        "upstream": table.upstream,
    }
    group = [keys[name] for name in query.group]
    sums = [sa.func.coalesce(sa.func.sum(table[name]), 0) for name in UsageCounts._fields]
    statement = sa.select(*group, *sums).where(table.hour >= query.start, table.hour < query.end)
    if query.client is not None:
        statement = statement.where(table.client == query.client)
    rows = connection.execute(statement.group_by(*group).order_by(*group).limit(limit))
    size = len(group)
    return [UsageSum(tuple(row[:size]), UsageCounts(*map(int, row[size:]))) for row in rows]


def remove_older(connection: sa.Connection, max_age: float) -> int:
    """Delete some of the hours older than ``max_age`` seconds; return the number of rows."""
    hour = usage_hours.c.hour
    old = sa.select(hour).where(hour < NOW - max_age).distinct().order_by(hour)
    hours = list(connection.scalars(old.limit(MAX_DELETED_HOURS)))
    if not hours:
        return 0
    return connection.execute(sa.delete(usage_hours).where(hour.in_(hours))).rowcount
