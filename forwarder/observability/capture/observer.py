"""The observer that captures exchanges: a tape for each, and a record of it when it is over."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

from forwarder.config.settings import Settings, UpstreamSettings
from forwarder.context.recorder import Recorder, RequestHead
from forwarder.context.redaction import Redactor, collect_settings_secrets, collect_upstream_secrets
from forwarder.context.request_context import RequestContext, RequestObserver
from forwarder.core.concurrency import BlockingPool, spawn
from forwarder.observability.capture.record import encode_record
from forwarder.observability.capture.stores import (
    CaptureLimits,
    CaptureStore,
    FileCaptureStore,
    MemoryCaptureStore,
    generate_name,
)

log = logging.getLogger("forwarder.capture")

CAPTURE_OFF, CAPTURE_IN_MEMORY = "off", "memory"

UNCAPTURED_ROUTES = ("stored", "files")
"""Routes on which no model is asked."""

MAX_PRUNE_SECONDS = 60.0
"""Seconds between two looks for what is too old, at the most."""


UpstreamLister = Callable[[], Iterable[UpstreamSettings]]
"""Gives those that came while the forwarder runs."""


class CaptureObserver(RequestObserver):
    """What exchanges say goes on tapes; from there, without its secrets, on a shelf.

    Secret are the keys of the settings and of whatever is ``registered`` by then: somebody may ask
    one model about another's.
    """

    def __init__(
        self, settings: Settings, store: CaptureStore, registered: UpstreamLister = tuple
    ) -> None:
        self.shelf = store
        self._list_registered = registered
        self._max_bytes = settings.capture_max
        self._redacted_fields = settings.capture_redact
        self._secrets = collect_settings_secrets(settings)
        self._worker = BlockingPool(1)  # a long record takes a tenth of a second to make
        self._prune_seconds = min(MAX_PRUNE_SECONDS, settings.capture_age / 4)

    def start(self) -> None:
        """Let go what is too old from now on, also when nobody asks anything."""
        spawn(self._run_pruning)

    def make_recorder(self, exchange: RequestContext, asked: RequestHead) -> Recorder | None:
        """A tape for an exchange; ``None`` where no model is asked."""
        if exchange.route in UNCAPTURED_ROUTES:
            return None
        return Recorder(asked, self._max_bytes, exchange.started_at)

    def on_complete(self, exchange: RequestContext, seconds: float) -> None:
        """Keep what was taken down, if the client brought anything or was turned away."""
        tape, exchange.recorder = exchange.recorder, None
        if tape is None or (tape.body is None and exchange.status < 400):
            return
        secrets = self._secrets.union(*map(collect_upstream_secrets, self._list_registered()))
        self._worker.run(partial(self._store_record, tape, exchange, seconds, secrets))

    def _store_record(
        self, tape: Recorder, exchange: RequestContext, seconds: float, secrets: frozenset[str]
    ) -> None:
        name = generate_name(time.time())
        redaction = Redactor(self._redacted_fields, secrets)
        self.shelf.put(
            name, encode_record(name, tape, exchange, seconds, redaction, self._max_bytes)
        )

    def _run_pruning(self) -> None:
        while True:
            time.sleep(self._prune_seconds)
            try:
                self.shelf.prune()
            except Exception:
                log.exception("captured exchanges could not be pruned")


def make_capture_observer(
    settings: Settings, registered: UpstreamLister = tuple
) -> CaptureObserver | None:
    """What captures as the settings say; ``None`` for nothing."""
    if settings.capture == CAPTURE_OFF:
        return None
    return CaptureObserver(settings, make_capture_store(settings), registered)


def make_capture_store(settings: Settings) -> CaptureStore:
    """Where the settings have the records."""
    limits = CaptureLimits(settings.capture_count, settings.capture_age)
    if settings.capture == CAPTURE_IN_MEMORY:
        return MemoryCaptureStore(limits)
    return FileCaptureStore(Path(settings.capture), limits)
