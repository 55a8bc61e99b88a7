"""Captures whole exchanges (request, upstream requests, answers) for debugging.

Capturing is off unless ``FORWARDER_CAPTURE`` is set. `CaptureObserver` gives each request a
recorder (`forwarder.context.recorder`), which collects raw bytes while they pass through, and
stores its record on completion.

- `record.py`: makes one redacted JSON record of limited size from a recorder.
- `serialize.py`: converts answer bytes to readable JSON and back.
- `stores.py`: stores records in memory or in a directory.
- `playback.py`: serves recorded upstream answers in place of the network.
- `replay.py`: repeats a captured request and compares the answers.
"""

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
from forwarder.core.concurrency import BlockingPool
from forwarder.core.periodic_task import PeriodicTask
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
"""Routes without model requests."""

MAX_PRUNE_SECONDS = 60.0
"""Maximum interval between two removals of expired records."""


UpstreamLister = Callable[[], Iterable[UpstreamSettings]]
"""Lists the upstreams that were registered at run time."""


class CaptureObserver(RequestObserver):
    """Records requests and stores them without secrets in a `CaptureStore`.

    A record is searched for the keys of all settings and of all upstreams that are ``registered``
    at its completion, because a prompt for one model may contain the key of another.
    """

    def __init__(
        self, settings: Settings, store: CaptureStore, registered: UpstreamLister = tuple
    ) -> None:
        self.store = store
        self._list_registered = registered
        self._max_bytes = settings.capture_max
        self._redacted_fields = settings.capture_redact
        self._secrets = collect_settings_secrets(settings)
        self._worker = BlockingPool(1)  # encoding a long record takes about 0.1 s
        prune_seconds = min(MAX_PRUNE_SECONDS, settings.capture_age / 4)
        self._pruning = PeriodicTask(self._prune_store, lambda: prune_seconds)

    def start(self) -> None:
        """Start the background task that removes expired records, even without requests."""
        self._pruning.start()

    def close(self) -> None:
        """End the background task."""
        self._pruning.stop()

    def make_recorder(self, context: RequestContext, head: RequestHead) -> Recorder | None:
        """Return a recorder for the request, or ``None`` for a route without model requests."""
        if context.route in UNCAPTURED_ROUTES:
            return None
        return Recorder(head, self._max_bytes, context.started_at)

    def on_complete(self, context: RequestContext, seconds: float) -> None:
        """Store the record in the background if the request had a body or was rejected."""
        recorder, context.recorder = context.recorder, None
        if recorder is None or (recorder.body is None and context.status < 400):
            return
        secrets = self._secrets.union(*map(collect_upstream_secrets, self._list_registered()))
        self._worker.run(partial(self._store_record, recorder, context, seconds, secrets))

    def _store_record(
        self, recorder: Recorder, context: RequestContext, seconds: float, secrets: frozenset[str]
    ) -> None:
        name = generate_name(time.time())
        redaction = Redactor(self._redacted_fields, secrets)
        self.store.put(
            name, encode_record(name, recorder, context, seconds, redaction, self._max_bytes)
        )

    def _prune_store(self) -> None:
        try:
            self.store.prune()
        except Exception:
            log.exception(
                "could not remove expired captures", extra={"event": "capture_prune_failed"}
            )


def make_capture_observer(
    settings: Settings, registered: UpstreamLister = tuple
) -> CaptureObserver | None:
    """Return the observer for these settings, or ``None`` if capturing is off."""
    if settings.capture == CAPTURE_OFF:
        return None
    return CaptureObserver(settings, make_capture_store(settings), registered)


def make_capture_store(settings: Settings) -> CaptureStore:
    """Return the store that ``settings.capture`` selects; capturing must not be off."""
    limits = CaptureLimits(settings.capture_count, settings.capture_age)
    if settings.capture == CAPTURE_IN_MEMORY:
        return MemoryCaptureStore(limits)
    return FileCaptureStore(Path(settings.capture), limits)
