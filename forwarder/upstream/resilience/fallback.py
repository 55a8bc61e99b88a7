"""Which upstream gets a request when the first cannot serve it, and how many there may be."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

from forwarder.config.settings import Settings, UpstreamSettings
from forwarder.context.client_identity import make_account_id
from forwarder.context.request_context import RequestContext, RequestObserver
from forwarder.context.route import Route
from forwarder.core.errors import ForwarderError, Overloaded
from forwarder.core.types import EventStream
from forwarder.upstream.pool import UpstreamPool
from forwarder.upstream.resilience.classify import get_failure_label, is_worth_fallback
from forwarder.upstream.resilience.concurrency_limit import ConcurrencyLimit
from forwarder.upstream.resilience.upstream_state import UpstreamState

log = logging.getLogger("forwarder.resilience")

OpenRoute = Callable[[Route], EventStream]
"""Asks a route's upstream; its answer has begun when this returns."""


class Resilience:
    """What one process knows of all its upstreams; ``observer`` hears what is done about it."""

    def __init__(self, settings: Settings, observer: RequestObserver | None = None) -> None:
        self.observer = observer or RequestObserver()
        self._settings = settings
        self.upstream_states = UpstreamPool(self._create_state, settings.upstreams)
        self.concurrency_limit = ConcurrencyLimit(settings.max_concurrent)
        self.counts: Counter[str] = Counter()

    def admit_request(self, exchange: RequestContext) -> None:
        """Let a request in until its exchange ends; raises Overloaded when there are too many."""
        free = self.concurrency_limit.acquire()
        if free is None:
            self.counts["refused"] += 1
            self.observer.on_rejection("overloaded")
            raise Overloaded("The forwarder serves as many requests as it may at the moment.")
        exchange.cleanup.add(free)

    def open_first_available(
        self, routes: Sequence[Route], open_: OpenRoute, exchange: RequestContext
    ) -> EventStream:
        """The answer of the first route that has one.

        When none has, the client is told of the first, which is the one that it asked for: its
        failure is raised, and ``exchange`` is as if no other had been asked.
        """
        first, *others = routes
        try:
            return self._open_route(first, open_, exchange)
        except ForwarderError as error:
            own_key = not first.upstream.passthrough_key
            if exchange.is_cancelled or not others or not is_worth_fallback(error, own_key):
                raise
            failures = [error]
        ledger, headers = exchange.loss_report, exchange.reply_headers
        stream = self._try_fallbacks(routes, open_, exchange, failures)
        untold = list(zip(routes, failures, strict=False))[stream is None :]
        for route, failure in untold:
            self.observer.on_failure(route.upstream.name, failure)
        if stream is None:
            exchange.new_attempt(first.upstream.name, first.model)
            exchange.loss_report, exchange.reply_headers = ledger, headers
            raise failures[0]
        return stream

    def describe_states(self) -> dict[str, Any]:
        """Upstream name -> its state and counters."""
        return {name: standing.describe() for name, standing in self.upstream_states.items()}

    def _try_fallbacks(
        self,
        routes: Sequence[Route],
        open_: OpenRoute,
        exchange: RequestContext,
        failures: list[ForwarderError],
    ) -> EventStream | None:
        """The answer of the first route but one that has one; ``failures`` are those before it.

        Whatever a fallback has against a request, the client did not ask for it.
        """
        for before, route in pairwise(routes):
            self._record_fallback(before, route, failures[-1], exchange)
            try:
                return self._open_route(route, open_, exchange)
            except ForwarderError as error:
                if exchange.is_cancelled:
                    break
                failures.append(error)
        return None

    def _open_route(self, route: Route, open_: OpenRoute, exchange: RequestContext) -> EventStream:
        exchange.new_attempt(route.upstream.name, route.model)
        held = self.upstream_states.get_or_create(route.upstream).admit_request()
        try:
            stream = open_(route)
        except BaseException:
            held.close()
            raise
        exchange.cleanup.add(held.close)
        return stream

    def _create_state(self, settings: UpstreamSettings) -> UpstreamState:
        return UpstreamState(settings, self.observer, identify=self._identify_client)

    def _identify_client(self, exchange: RequestContext) -> str:
        return make_account_id(exchange.client_key, exchange.client_address, self._settings)

    def _record_fallback(
        self, before: Route, to: Route, error: ForwarderError, exchange: RequestContext
    ) -> None:
        names, why = (before.upstream.name, to.upstream.name), get_failure_label(error)
        self.upstream_states.get_or_create(before.upstream).counts["fallbacks"] += 1
        exchange.failed_upstreams.append(before.upstream.name)
        self.observer.on_fallback(*names, why)
        told = {"id": exchange.id, "upstream": names[0], "fallback": names[1], "reason": why}
        log.warning(told | ({"detail": error.log_detail} if error.log_detail else {}))
