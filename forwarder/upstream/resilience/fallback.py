"""Fallback to further upstreams, and the limit of concurrent requests."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

from forwarder.config.settings import Settings, UpstreamSettings
from forwarder.context.client_identity import make_account_id
from forwarder.context.request_context import RequestContext, RequestObserver, Route
from forwarder.core.errors import ForwarderError, Overloaded
from forwarder.core.types import EventStream
from forwarder.upstream.pool import UpstreamPool
from forwarder.upstream.resilience.classify import get_failure_label, is_worth_fallback
from forwarder.upstream.resilience.concurrency_limit import ConcurrencyLimit
from forwarder.upstream.resilience.upstream_state import UpstreamState

log = logging.getLogger("forwarder.resilience")

OpenRoute = Callable[[Route], EventStream]
"""Calls a route's upstream; the answer has begun when it returns."""


class Resilience:
    """The states of all upstreams in one process; ``observer`` is notified of fallbacks etc."""

    def __init__(self, settings: Settings, observer: RequestObserver | None = None) -> None:
        self.observer = observer or RequestObserver()
        self._settings = settings
        self.upstream_states = UpstreamPool(self._create_state, settings.upstreams)
        self.concurrency_limit = ConcurrencyLimit(settings.max_concurrent)
        self.counts: Counter[str] = Counter()

    def admit_request(self, context: RequestContext) -> None:
        """Admit a request until its context is closed.  Raises Overloaded above the limit."""
        free = self.concurrency_limit.acquire()
        if free is None:
            self.counts["refused"] += 1
            self.observer.on_rejection("overloaded")
            raise Overloaded("The forwarder already serves the maximum number of requests.")
        context.cleanup.add(free)

    def open_first_available(
        self, routes: Sequence[Route], open_: OpenRoute, context: RequestContext
    ) -> EventStream:
        """Return the answer of the first route that succeeds.

        If all fail, raises the error of the first route, which the client requested, and restores
        ``context`` to the state of that route.
        """
        first, *others = routes
        try:
            return self._open_route(first, open_, context)
        except ForwarderError as error:
            own_key = not first.upstream.passthrough_key
            if context.is_cancelled or not others or not is_worth_fallback(error, own_key):
                raise
            failures = [error]
        loss_report, headers = context.loss_report, context.reply_headers
        stream = self._try_fallbacks(routes, open_, context, failures)
        hidden_failures = list(zip(routes, failures, strict=False))[stream is None :]
        for route, failure in hidden_failures:
            self.observer.on_failure(route.upstream.name, failure)
        if stream is None:
            context.new_attempt(first.upstream.name, first.model)
            context.loss_report, context.reply_headers = loss_report, headers
            raise failures[0]
        return stream

    def describe_states(self) -> dict[str, Any]:
        """Return upstream name -> its state and counters."""
        return {name: state.describe() for name, state in self.upstream_states.items()}

    def _try_fallbacks(
        self,
        routes: Sequence[Route],
        open_: OpenRoute,
        context: RequestContext,
        failures: list[ForwarderError],
    ) -> EventStream | None:
        """Try the routes after the first; append their errors to ``failures``.

        Every error leads to the next route, because the client did not request a fallback.
        """
        for before, route in pairwise(routes):
            self._record_fallback(before, route, failures[-1], context)
            try:
                return self._open_route(route, open_, context)
            except ForwarderError as error:
                if context.is_cancelled:
                    break
                failures.append(error)
        return None

    def _open_route(self, route: Route, open_: OpenRoute, context: RequestContext) -> EventStream:
        context.new_attempt(route.upstream.name, route.model)
        admission = self.upstream_states.get_or_create(route.upstream).admit_request()
        try:
            stream = open_(route)
        except BaseException:
            admission.close()
            raise
        context.cleanup.add(admission.close)
        return stream

    def _create_state(self, settings: UpstreamSettings) -> UpstreamState:
        return UpstreamState(settings, self.observer, identify=self._identify_client)

    def _identify_client(self, context: RequestContext) -> str:
        return make_account_id(context.client_key, context.client_address, self._settings)

    def _record_fallback(
        self, before: Route, to: Route, error: ForwarderError, context: RequestContext
    ) -> None:
        names, reason = (before.upstream.name, to.upstream.name), get_failure_label(error)
        self.upstream_states.get_or_create(before.upstream).counts["fallbacks"] += 1
        context.failed_upstreams.append(before.upstream.name)
        self.observer.on_fallback(*names, reason)
        fields = {
            "event": "upstream_fallback",
            "id": context.id,
            "upstream": names[0],
            "fallback": names[1],
            "reason": reason,
        }
        log.warning(fields | ({"detail": error.log_detail} if error.log_detail else {}))
