"""New and changed exchanges, for pages that follow them.

All followers of a worker share one view of the store, which is read again at most once in
`POLL_SECONDS`, and only for a follower. Each `ExchangeFollower` compares the view with what it has
reported.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import NamedTuple

from forwarder.core.blocking_work import BlockingPool
from forwarder.core.types import Json
from forwarder.observability.capture.running import RunningExchanges
from forwarder.observability.capture.stores import CaptureStore, parse_created_at

POLL_SECONDS = 0.5

MAX_FOLLOWED = 500
"""Finished exchanges that followers see; the newest ones."""

MAX_CACHED_SUMMARIES = 2 * MAX_FOLLOWED

OVERLAP_SECONDS = 5.0
"""A follower also reports exchanges that ended this long before its start: storing a record takes
a moment.
"""

MISSED_POLLS = 3
"""Polls in which an exchange is neither running nor finished before it is reported as gone."""


class FeedState(NamedTuple):
    """The names of the newest finished exchanges, and the summaries of the running ones."""

    names: list[str]
    running: dict[str, Json]


class Change(NamedTuple):
    """An exchange that is new or different; ``summary`` is None if it is gone."""

    name: str
    summary: Json | None


class ExchangeFeed:
    """The recent exchanges of a store; ``followers`` counts those that read it now."""

    def __init__(self, store: CaptureStore, running: RunningExchanges) -> None:
        self.followers = 0
        self._store = store
        self._running = running
        self._pool = BlockingPool(1)
        self._lock = threading.Lock()
        self._state = FeedState([], {})
        self._read_at = float("-inf")
        self._summaries: dict[str, Json] = {}

    def read_state(self) -> FeedState:
        """Return the current state, which is at most `POLL_SECONDS` old."""
        with self._lock:
            if time.monotonic() >= self._read_at + POLL_SECONDS:
                # Read the running ones first: one that ends meanwhile is then in both lists.
                running = {each["id"]: each for each in self._running.list_summaries()}
                names = self._pool.run(self._store.list_names)[:MAX_FOLLOWED]
                self._state, self._read_at = FeedState(names, running), time.monotonic()
            return self._state

    def read_summaries(self, names: list[str]) -> list[Json]:
        """Return the summaries of finished exchanges, in the order of ``names``."""
        return self._pool.run(lambda: list(self._find_summaries(names)))

    def close(self) -> None:
        """End the thread that reads the store."""
        self._pool.close()

    def _find_summaries(self, names: list[str]) -> Iterator[Json]:
        for name in names:
            summary = self._summaries.get(name) or self._store.read_summary(name)
            if summary is None:
                continue
            self._summaries[name] = summary
            if len(self._summaries) > MAX_CACHED_SUMMARIES:
                del self._summaries[next(iter(self._summaries))]
            yield summary


class ExchangeFollower:
    """Reports the exchanges that have changed since ``since`` (Unix seconds)."""

    def __init__(self, feed: ExchangeFeed, since: float) -> None:
        self._feed = feed
        self._since = since
        self._finished: set[str] | None = None
        self._running: dict[str, Json] = {}
        self._missed: dict[str, int] = {}

    @property
    def running_names(self) -> list[str]:
        """The names of the exchanges that are running."""
        return list(self._running)

    def read_changes(self) -> Iterator[Change]:
        """Yield the changes since the previous call, finished exchanges from old to new."""
        state = self._feed.read_state()
        yield from self._report_finished(state)
        for name, summary in sorted(state.running.items()):
            if name not in (self._finished or ()) and self._running.get(name) != summary:
                self._running[name] = summary
                yield Change(name, summary)
        yield from self._report_missing(state)

    def _report_finished(self, state: FeedState) -> Iterator[Change]:
        current = set(state.names)
        if self._finished is None:
            summaries = self._feed.read_summaries(state.names)
            new = [each for each in summaries if find_end(each) >= self._since - OVERLAP_SECONDS]
        else:
            # An exchange that ran for long may be older than those in the state.
            ended = self._running.keys() - current - state.running.keys()
            names = sorted((current - self._finished) | ended, reverse=True)
            new = self._feed.read_summaries(names)
        self._finished = current | {each["id"] for each in new}
        for summary in reversed(new):
            self._running.pop(summary["id"], None)
            yield Change(summary["id"], summary)

    def _report_missing(self, state: FeedState) -> Iterator[Change]:
        missing = self._running.keys() - state.running.keys()
        self._missed = {name: self._missed.get(name, 0) + 1 for name in missing}
        for name in sorted(missing):
            if self._missed[name] >= MISSED_POLLS:
                del self._running[name]
                yield Change(name, None)


def find_end(summary: Json) -> float:
    """Return the time at which an exchange ended, in Unix seconds."""
    seconds = float(summary.get("duration_ms", 0.0)) / 1000
    return (parse_created_at(str(summary["id"])) or 0.0) + seconds
