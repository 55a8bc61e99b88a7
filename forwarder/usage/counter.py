"""Counts finished model requests, and adds the counts to the store regularly.

A request costs a few additions in memory. The number of rows is bounded: all requests without an
upstream count as one model, and beyond a maximum per client and hour further models count as
``other``.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from forwarder.config.parsers import UNKNOWN_CLIENT
from forwarder.context.request_context import (
    RequestContext,
    RequestObserver,
    read_token_counts,
    to_token_count,
)
from forwarder.core.errors import ClientDisconnected, StoreUnavailable
from forwarder.core.periodic_task import PeriodicTask
from forwarder.core.types import Json
from forwarder.middleware.usage_estimate import EstimatedUsage
from forwarder.storage.db.usage import HOUR_SECONDS, UsageCounts, UsageKey
from forwarder.usage.store import UsageStore

log = logging.getLogger("forwarder.usage")

MAX_CLIENT_ROWS = 100
"""Maximum number of pairs of model and upstream per client, hour and worker."""

MAX_PENDING_ROWS = 20_000
"""Maximum number of rows that wait while the store is not available, about 10 MB."""

MAX_NAME_LENGTH = 128

MAX_REQUEST_TOKENS = 10**10
"""Maximum tokens of one request: upstreams may report any number, and columns have 64 bits."""

UNKNOWN_MODEL = UNKNOWN_CLIENT
"""The name of all models for which there was no upstream."""

NO_UPSTREAM = "none"

OTHER = "other"
"""The model and upstream of a client's requests beyond `MAX_CLIENT_ROWS`."""

Rows = dict[tuple[int, str, str, str], list[int]]
"""The fields of `UsageKey` -> those of `UsageCounts`."""


class UsageCounter(RequestObserver):
    """Adds finished requests to rows in memory, and these rows to ``store``."""

    def __init__(
        self, store: UsageStore, flush_seconds: float, now: Callable[[], float] = time.time
    ) -> None:
        self._store = store
        self._now = now
        self._lock, self._flush_lock = threading.Lock(), threading.Lock()
        self._pending: Rows = {}
        self._hour = 0
        self._client_rows: dict[str, set[tuple[str, str]]] = {}
        self._lost_requests = 0
        self._is_failing = False
        self._flush_task = PeriodicTask(self.flush, lambda: flush_seconds)

    def start(self) -> None:
        """Start adding counts to the store regularly."""
        self._flush_task.start()

    def close(self) -> None:
        """Stop, and add the last counts to the store."""
        self._flush_task.stop()
        self.flush()

    def on_complete(self, context: RequestContext, seconds: float) -> None:
        """Count a request for a model."""
        if context.requested_model is None or context.client_name is None:
            return
        hour = int(self._now()) // HOUR_SECONDS * HOUR_SECONDS
        key = (hour, context.client_name, *name_model(context))  # equals a `UsageKey`
        counts = count_request(context, seconds)
        with self._lock:
            row = self._pending.get(key) or self._add_row(UsageKey(*key))
            for i, count in enumerate(counts):
                if count:
                    row[i] += count

    def flush(self) -> bool:
        """Add all counts to the store, also those that another call is adding now.

        Returns False if the store is not available; then the counts wait for the next flush.
        """
        with self._flush_lock:
            return self._flush_rows()

    def _flush_rows(self) -> bool:
        with self._lock:
            rows, self._pending = self._pending, {}
            lost, self._lost_requests = self._lost_requests, 0
        if lost:
            log.error(
                "the usage of %d requests was not counted: too much is waiting for the database",
                lost,
                extra={"event": "usage_lost"},
            )
        if not rows:
            return True
        try:
            self._store.add_counts(
                [(UsageKey(*key), UsageCounts(*row)) for key, row in rows.items()]
            )
        except Exception as error:
            self._restore(rows)
            self._log_failure(error)
            return False
        self._is_failing = False
        return True

    def _add_row(self, key: UsageKey) -> list[int]:
        """Add and return the row of a key.

        Beyond `MAX_CLIENT_ROWS` it is the row of `OTHER`. Beyond `MAX_PENDING_ROWS` the
        returned row is not added, so its counts are lost.
        """
        if key.hour != self._hour:
            self._hour = key.hour
            self._client_rows.clear()
        names = self._client_rows.setdefault(key.client, set())
        name = (key.model, key.upstream)
        if name not in names:
            if len(names) >= MAX_CLIENT_ROWS:
                key = key._replace(model=OTHER, upstream=OTHER)
            else:
                names.add(name)
        row = self._pending.get(key)
        if row is not None:
            return row
        row = [0] * len(UsageCounts._fields)
        if len(self._pending) < MAX_PENDING_ROWS:
            self._pending[key] = row
        else:
            self._lost_requests += 1
        return row

    def _restore(self, rows: Rows) -> None:
        """Put rows back into memory, and add the counts that have arrived since."""
        with self._lock:
            newer, self._pending = self._pending, rows
            for key, counts in newer.items():
                row = rows.get(key)
                if row is not None:
                    rows[key] = [a + b for a, b in zip(row, counts, strict=True)]
                elif len(rows) < MAX_PENDING_ROWS:
                    rows[key] = counts
                else:
                    self._lost_requests += counts[0]

    def _log_failure(self, error: Exception) -> None:
        """Log the first of consecutive failures. The database logs why it is not available."""
        if not self._is_failing:
            log.error(
                "usage could not be stored; it waits in memory",
                exc_info=None if isinstance(error, StoreUnavailable) else error,
                extra={"event": "usage_not_stored"},
            )
        self._is_failing = True


def name_model(context: RequestContext) -> tuple[str, str]:
    """Return the model and the upstream under which a request is counted."""
    if context.upstream is None:
        return UNKNOWN_MODEL, NO_UPSTREAM
    model = context.requested_model or context.model or UNKNOWN_MODEL
    if len(model) > MAX_NAME_LENGTH or not model.isprintable():
        model = OTHER
    return model, context.upstream


def count_request(context: RequestContext, seconds: float) -> tuple[int, ...]:
    """Return the counts of one request, the fields of `UsageCounts`."""
    usage = context.usage or {}
    # If the client disconnected while no event was being sent, the request has no error. If it
    # closed the connection right after the end of the stream, there is usage: not cancelled.
    cancelled = context.error_class is ClientDisconnected or (
        context.is_cancelled and context.error is None and not usage
    )
    failed = not cancelled and (context.status >= 400 or context.error is not None)
    usage = usage or context.rounds_usage or {}
    first = context.first_event_at
    input_tokens, output_tokens = (
        min(tokens or 0, MAX_REQUEST_TOKENS) for tokens in read_token_counts(usage)
    )
    return (
        1,
        failed,
        cancelled,
        isinstance(usage, EstimatedUsage),
        input_tokens,
        min(read_cached_tokens(usage), input_tokens),
        output_tokens,
        min(read_reasoning_tokens(usage), output_tokens),
        first is not None,
        0 if first is None else round((first - context.started_at) * 1000),
        round(seconds * 1000),
    )


def read_cached_tokens(usage: Json) -> int:
    """Return the input tokens that an upstream read from its cache, of either protocol."""
    details = usage.get("input_tokens_details") or usage.get("prompt_tokens_details")
    return read_detail(details, "cached_tokens") or read_detail(usage, "prompt_cache_hit_tokens")


def read_reasoning_tokens(usage: Json) -> int:
    """Return the output tokens that are reasoning, of either protocol."""
    details = usage.get("output_tokens_details") or usage.get("completion_tokens_details")
    return read_detail(details, "reasoning_tokens")


def read_detail(details: object, name: str) -> int:
    value = to_token_count(details.get(name)) if isinstance(details, dict) else None
    return min(value or 0, MAX_REQUEST_TOKENS)
