"""Which upstream gets a request when the first cannot serve it, and how many there may be."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

from forwarder.config.settings import Settings, UpstreamSettings
from forwarder.context.client_identity import identify_payer
from forwarder.context.request_context import Exchange, Observer
from forwarder.context.route import Route
from forwarder.core.errors import ForwarderError, Overloaded
from forwarder.core.types import Stream
from forwarder.upstream.pool import PerUpstream
from forwarder.upstream.resilience.classify import is_worth_fallback, reason
from forwarder.upstream.resilience.concurrency_limit import Slots
from forwarder.upstream.resilience.upstream_state import Standing

log = logging.getLogger("forwarder.resilience")

Open = Callable[[Route], Stream]
"""Asks a route's upstream; its answer has begun when this returns."""


class Resilience:
    """What one process knows of all its upstreams; ``observer`` hears what is done about it."""

    def __init__(self, settings: Settings, observer: Observer | None = None) -> None:
        self.observer = observer or Observer()
        self._settings = settings
        self.standings = PerUpstream(self._standing, settings.upstreams)
        self.slots = Slots(settings.max_concurrent)
        self.counts: Counter[str] = Counter()

    def admit(self, exchange: Exchange) -> None:
        """Let a request in until its exchange ends; raises Overloaded when there are too many."""
        free = self.slots.take()
        if free is None:
            self.counts["refused"] += 1
            self.observer.refused("overloaded")
            raise Overloaded("The forwarder serves as many requests as it may at the moment.")
        exchange.opened.add(free)

    def first_of(self, routes: Sequence[Route], open_: Open, exchange: Exchange) -> Stream:
        """The answer of the first route that has one.

        When none has, the client is told of the first, which is the one that it asked for: its
        failure is raised, and ``exchange`` is as if no other had been asked.
        """
        first, *others = routes
        try:
            return self._opened(first, open_, exchange)
        except ForwarderError as error:
            own_key = not first.upstream.passthrough_key
            if exchange.left or not others or not is_worth_fallback(error, own_key):
                raise
            failures = [error]
        ledger, headers = exchange.ledger, exchange.reply_headers
        stream = self._fallen_back(routes, open_, exchange, failures)
        untold = list(zip(routes, failures, strict=False))[stream is None :]
        for route, failure in untold:
            self.observer.failed(route.upstream.name, failure)
        if stream is None:
            exchange.goes_to(first.upstream.name, first.model)
            exchange.ledger, exchange.reply_headers = ledger, headers
            raise failures[0]
        return stream

    def states(self) -> dict[str, Any]:
        """Upstream name -> its state and counters."""
        return {name: standing.shown() for name, standing in self.standings.items()}

    def _fallen_back(
        self,
        routes: Sequence[Route],
        open_: Open,
        exchange: Exchange,
        failures: list[ForwarderError],
    ) -> Stream | None:
        """The answer of the first route but one that has one; ``failures`` are those before it.

        Whatever a fallback has against a request, the client did not ask for it.
        """
        for before, route in pairwise(routes):
            self._note(before, route, failures[-1], exchange)
            try:
                return self._opened(route, open_, exchange)
            except ForwarderError as error:
                if exchange.left:
                    break
                failures.append(error)
        return None

    def _opened(self, route: Route, open_: Open, exchange: Exchange) -> Stream:
        exchange.goes_to(route.upstream.name, route.model)
        held = self.standings.of(route.upstream).admit()
        try:
            stream = open_(route)
        except BaseException:
            held.close()
            raise
        exchange.opened.add(held.close)
        return stream

    def _standing(self, settings: UpstreamSettings) -> Standing:
        return Standing(settings, self.observer, identify=self._identify)

    def _identify(self, exchange: Exchange) -> str:
        return identify_payer(exchange.client_key, exchange.client_address, self._settings)

    def _note(self, before: Route, to: Route, error: ForwarderError, exchange: Exchange) -> None:
        names, why = (before.upstream.name, to.upstream.name), reason(error)
        self.standings.of(before.upstream).counts["fallbacks"] += 1
        exchange.failed.append(before.upstream.name)
        self.observer.fell_back(*names, why)
        told = {"id": exchange.id, "upstream": names[0], "fallback": names[1], "reason": why}
        log.warning(told | ({"detail": error.log_detail} if error.log_detail else {}))
