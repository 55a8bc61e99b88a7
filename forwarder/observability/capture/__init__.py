"""Captures whole exchanges (request, upstream requests, answers) for debugging.

An exchange is a client's request, the upstream requests that it causes, and all answers. Capturing
is off unless ``FORWARDER_CAPTURE`` is set. `CaptureObserver` gives each request a recorder
(`forwarder.context.capture_recorder`), which collects raw bytes while they pass through, and stores
its record on completion.

- `record.py`: makes one redacted JSON record of limited size from a recorder.
- `serialize.py`: converts answer bytes to readable JSON and back.
- `stores.py`: stores records in memory or in a directory.
- `running.py`: exchanges that have not ended, in this worker and in others.
- `feed.py`: new and changed exchanges, for pages that follow them.
- `playback.py`: serves recorded upstream answers in place of the network.
- `replay.py`: repeats a captured request and compares the answers.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import TypeVar

from forwarder.config.settings import Settings, UpstreamSettings
from forwarder.context.capture_recorder import Recorder, RequestHead
from forwarder.context.redaction import Redactor, collect_settings_secrets, collect_upstream_secrets
from forwarder.context.request_context import RequestContext, RequestObserver
from forwarder.core.blocking_work import BlockingPool
from forwarder.core.periodic_task import PeriodicTask
from forwarder.observability.capture.feed import ExchangeFeed
from forwarder.observability.capture.record import encode_record
from forwarder.observability.capture.running import RunningExchanges, name_record
from forwarder.observability.capture.stores import (
    CaptureLimits,
    CaptureStore,
    FileCaptureStore,
    MemoryCaptureStore,
)

log = logging.getLogger("forwarder.capture")

T = TypeVar("T")

CAPTURE_OFF, CAPTURE_IN_MEMORY = "off", "memory"

UNCAPTURED_ROUTES = ("stored", "files")
"""Routes without model requests."""

MAX_PRUNE_SECONDS = 60.0
"""Maximum interval between two removals of expired records."""

PUBLISH_SECONDS = 0.5
"""Interval at which the worker updates the files of its running exchanges."""

UpstreamLister = Callable[[], Iterable[UpstreamSettings]]
"""Lists the upstreams that were registered at run time."""


class CaptureObserver(RequestObserver):
    """Records requests and stores them without secrets in a `CaptureStore`.

    A record is searched for the secrets of all settings, for ``other_secrets``, and for those of
    all upstreams that are ``registered`` at its completion, because a prompt for one model may
    contain the key of another.
    """

    def __init__(
        self,
        settings: Settings,
        store: CaptureStore,
        registered: UpstreamLister = tuple,
        other_secrets: frozenset[str] = frozenset(),
    ) -> None:
        self.store = store
        self._list_registered = registered
        self._max_bytes = settings.capture_max
        self._redacted_fields = settings.capture_redact
        self._secrets = collect_settings_secrets(settings) | other_secrets
        self._worker = BlockingPool(1)  # encoding a long record takes about 0.1 s
        self.running = RunningExchanges(
            store.running_folder, self._make_redactor, settings.capture_max
        )
        self.feed = ExchangeFeed(store, self.running)
        self._reading = BlockingPool(2)
        self._prune_seconds = min(MAX_PRUNE_SECONDS, settings.capture_age / 4)
        self._next_prune = time.monotonic() + self._prune_seconds
        pause = min(PUBLISH_SECONDS, self._prune_seconds)
        self._maintenance = PeriodicTask(self._maintain, lambda: pause)

    def start(self) -> None:
        """Start the background task: it publishes running exchanges and removes old records."""
        self._maintenance.start()

    def close(self) -> None:
        """End the background task and the threads."""
        self._maintenance.stop()
        self.running.close()
        self.feed.close()
        self._reading.close()
        self._worker.close()

    def on_request(self, context: RequestContext, header: Callable[[str], str | None]) -> None:
        """Register the exchange as a running one."""
        self.running.add(context)

    def make_recorder(self, context: RequestContext, head: RequestHead) -> Recorder | None:
        """Return a recorder for the request, or ``None`` for a route without model requests."""
        if context.route in UNCAPTURED_ROUTES:
            return None
        return Recorder(head, self._max_bytes, context.started_at)

    def on_complete(self, context: RequestContext, seconds: float) -> None:
        """Store the record in the background if the request had a body or was rejected."""
        recorder, context.recorder = context.recorder, None
        try:
            if recorder is not None and (recorder.body is not None or context.status >= 400):
                redactor = self._make_redactor()
                self._worker.run(partial(self._store_record, recorder, context, seconds, redactor))
        finally:
            self.running.remove(context)

    def run_blocking(self, work: Callable[[], T]) -> T:
        """Run work on stored records outside of the event loop, and return its result."""
        return self._reading.run(work)

    def _make_redactor(self) -> Redactor:
        secrets = self._secrets.union(*map(collect_upstream_secrets, self._list_registered()))
        return Redactor(self._redacted_fields, secrets)

    def _store_record(
        self, recorder: Recorder, context: RequestContext, seconds: float, redactor: Redactor
    ) -> None:
        name = name_record(recorder)
        self.store.put(
            name, encode_record(name, recorder, context, seconds, redactor, self._max_bytes)
        )
        self.running.remove_file(recorder)

    def _maintain(self) -> None:
        try:
            self.running.publish()
        except Exception:
            log.exception(
                "could not publish running exchanges", extra={"event": "capture_running_failed"}
            )
        if time.monotonic() >= self._next_prune:
            self._next_prune = time.monotonic() + self._prune_seconds
            self._prune_store()

    def _prune_store(self) -> None:
        try:
            self._worker.run(self.store.prune)
            self.running.prune()
        except Exception:
            log.exception(
                "could not remove expired captures", extra={"event": "capture_prune_failed"}
            )


def make_capture_observer(
    settings: Settings,
    registered: UpstreamLister = tuple,
    other_secrets: frozenset[str] = frozenset(),
) -> CaptureObserver | None:
    """Return the observer for these settings, or ``None`` if capturing is off."""
    if settings.capture == CAPTURE_OFF:
        return None
    return CaptureObserver(settings, make_capture_store(settings), registered, other_secrets)


def make_capture_store(settings: Settings) -> CaptureStore:
    """Return the store that ``settings.capture`` selects; capturing must not be off."""
    limits = CaptureLimits(settings.capture_count, settings.capture_age)
    if settings.capture == CAPTURE_IN_MEMORY:
        return MemoryCaptureStore(limits)
    return FileCaptureStore(Path(settings.capture), limits)
