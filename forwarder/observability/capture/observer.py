"""The observer that captures exchanges: a tape for each, and a record of it when it is over."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

from forwarder.config.settings import Settings, UpstreamSettings
from forwarder.context.recorder import Asked, Tape
from forwarder.context.redaction import Redaction, secrets_in, secrets_of_upstream
from forwarder.context.request_context import Exchange, Observer
from forwarder.core.concurrency import Aside, spawn
from forwarder.observability.capture.record import encoded
from forwarder.observability.capture.stores import FileShelf, Limits, MemoryShelf, Shelf, new_name

log = logging.getLogger("forwarder.capture")

OFF, MEMORY = "off", "memory"

_BESIDE = ("stored", "files")
"""Routes on which no model is asked."""

_OFTEN = 60.0
"""Seconds between two looks for what is too old, at the most."""


Upstreams = Callable[[], Iterable[UpstreamSettings]]
"""Gives those that came while the forwarder runs."""


class Capture(Observer):
    """What exchanges say goes on tapes; from there, without its secrets, on a shelf.

    Secret are the keys of the settings and of whatever is ``registered`` by then: somebody may ask
    one model about another's.
    """

    def __init__(self, settings: Settings, shelf: Shelf, registered: Upstreams = tuple) -> None:
        self.shelf = shelf
        self._registered = registered
        self._limit = settings.capture_max
        self._fields = settings.capture_redact
        self._secrets = secrets_in(settings)
        self._aside = Aside(1)  # a long record takes a tenth of a second to make
        self._pause = min(_OFTEN, settings.capture_age / 4)

    def start(self) -> None:
        """Let go what is too old from now on, also when nobody asks anything."""
        spawn(self._tidy)

    def tape(self, exchange: Exchange, asked: Asked) -> Tape | None:
        """A tape for an exchange; ``None`` where no model is asked."""
        if exchange.route in _BESIDE:
            return None
        return Tape(asked, self._limit, exchange.started)

    def ended(self, exchange: Exchange, seconds: float) -> None:
        """Keep what was taken down, if the client brought anything or was turned away."""
        tape, exchange.tape = exchange.tape, None
        if tape is None or (tape.body is None and exchange.status < 400):
            return
        secrets = self._secrets.union(*map(secrets_of_upstream, self._registered()))
        self._aside.do(partial(self._keep, tape, exchange, seconds, secrets))

    def _keep(
        self, tape: Tape, exchange: Exchange, seconds: float, secrets: frozenset[str]
    ) -> None:
        name = new_name(time.time())
        redaction = Redaction(self._fields, secrets)
        self.shelf.put(name, encoded(name, tape, exchange, seconds, redaction, self._limit))

    def _tidy(self) -> None:
        while True:
            time.sleep(self._pause)
            try:
                self.shelf.prune()
            except Exception:
                log.exception("captured exchanges could not be pruned")


def capture_for(settings: Settings, registered: Upstreams = tuple) -> Capture | None:
    """What captures as the settings say; ``None`` for nothing."""
    if settings.capture == OFF:
        return None
    return Capture(settings, shelf_for(settings), registered)


def shelf_for(settings: Settings) -> Shelf:
    """Where the settings have the records."""
    limits = Limits(settings.capture_count, settings.capture_age)
    if settings.capture == MEMORY:
        return MemoryShelf(limits)
    return FileShelf(Path(settings.capture), limits)
