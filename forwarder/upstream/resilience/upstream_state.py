"""How one upstream stands: its breaker, its slots, its retries, and what was counted of it."""

from __future__ import annotations

import logging
import random
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from forwarder.config.settings import UpstreamSettings
from forwarder.context.request_context import RequestContext, RequestObserver
from forwarder.core.cleanup import CleanupStack
from forwarder.core.errors import ForwarderError, Overloaded, UpstreamUnavailable
from forwarder.core.types import EventStream, Handler, Json
from forwarder.upstream.resilience.backoff import Backoff, parse_retry_after
from forwarder.upstream.resilience.breaker import CLOSED, CircuitBreaker
from forwarder.upstream.resilience.classify import (
    Outcome,
    classify_outcome,
    get_failure_label,
    is_worth_retry,
)
from forwarder.upstream.resilience.concurrency_limit import ConcurrencyLimit
from forwarder.upstream.resilience.retry_budget import RetryBudget

log = logging.getLogger("forwarder.resilience")

T = TypeVar("T")


class UpstreamState:
    """The state of one upstream in this process."""

    def __init__(
        self,
        settings: UpstreamSettings,
        observer: RequestObserver,
        now: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
        identify: Callable[[RequestContext], str] = lambda exchange: exchange.client_key or "",
    ) -> None:
        self.settings = settings
        self.concurrency_limit = ConcurrencyLimit(settings.max_concurrent)
        self.retry_budget = RetryBudget(now)
        self.breaker = CircuitBreaker(
            settings.breaker_failures,
            settings.breaker_share,
            settings.breaker_window,
            settings.breaker_cooldown,
            self._on_breaker_change,
            now,
        )
        self.counts: Counter[str] = Counter()
        self._observer = observer
        self._chance = chance
        self._identify_client = identify

    def admit_request(self) -> CleanupStack:
        """Let a request in; closing what this gives lets it out again.

        Raises Overloaded when there are too many, UpstreamUnavailable while the breaker is open.
        """
        name = self.settings.name
        held = CleanupStack()
        free = self.concurrency_limit.acquire()
        if free is None:
            raise self._record_refusal(
                Overloaded(f"Too many requests at once for the upstream '{name}'.")
            )
        held.add(free)
        if not self.breaker.allow_request():
            held.close()
            message = f"The upstream '{name}' keeps failing, and is left alone for a while."
            raise self._record_refusal(
                UpstreamUnavailable(message, self.breaker.remaining_cooldown)
            )
        # One that leaves without having asked the upstream does not keep others from trying.
        held.add(self.breaker.record_outcome, self.breaker.term, Outcome.UNKNOWN)
        return held

    def with_retries(self, call: Handler, exchange: RequestContext) -> Handler:
        """Wrap a call so that it is tried again as the settings and the upstream allow.

        The call must have read the beginning of its answer when it returns.
        """

        def handle_request(request: Json) -> EventStream:
            return self.run_with_retries(partial(call, request), exchange)

        return handle_request

    def run_with_retries(self, do: Callable[[], T], exchange: RequestContext) -> T:
        """Do it, more than once where that may help; raises the last failure."""
        pauses = Backoff(self.settings.max_retries, self.settings.retry_wait, self._chance)
        self.retry_budget.earn()
        while True:
            try:
                return self._record_outcome(do, exchange)
            except ForwarderError as error:
                if not self._wait_for_retry(error, pauses, exchange):
                    raise

    def describe(self) -> dict[str, object]:
        """The state and the counters, for people."""
        state = {"breaker": self.breaker.state, "concurrent": self.concurrency_limit.in_use}
        return {**state, **dict(sorted(self.counts.items()))}

    def _record_outcome(self, do: Callable[[], T], exchange: RequestContext) -> T:
        """Do it, and let the breaker know."""
        term = self.breaker.term
        self.counts["attempts"] += 1
        try:
            done = do()
        except ForwarderError as error:
            # A client that has gone broke the connection itself.
            said = Outcome.UNKNOWN if exchange.is_cancelled else classify_outcome(error)
            self.counts["failures"] += said in (Outcome.FAILURE, Outcome.AMBIGUOUS_FAILURE)
            if said is not Outcome.AMBIGUOUS_FAILURE:
                self.breaker.record_outcome(term, said)
            elif self.settings.fallback:
                self.breaker.record_outcome(term, said, self._identify_client(exchange))
            else:  # the upstream answers, and there is no other to ask
                self.breaker.record_outcome(term, Outcome.SUCCESS)
            raise
        self.breaker.record_outcome(term, Outcome.SUCCESS)
        return done

    def _wait_for_retry(
        self, error: ForwarderError, pauses: Backoff, exchange: RequestContext
    ) -> bool:
        """Wait for the next attempt; False when there is to be none."""
        if exchange.is_cancelled or not is_worth_retry(error) or self.breaker.state != CLOSED:
            return False
        pause = pauses.next_delay(parse_retry_after(error.headers))
        if pause is None or not self.retry_budget.spend():
            return False
        self._record_retry(error, pause, exchange)
        return exchange.wait(pause) and self.breaker.state == CLOSED

    def _record_retry(self, error: ForwarderError, pause: float, exchange: RequestContext) -> None:
        name, why = self.settings.name, get_failure_label(error)
        self.counts["retries"] += 1
        exchange.retries += 1
        exchange.reply_headers = {}
        self._observer.on_retry(name, why)
        told = {"id": exchange.id, "upstream": name, "retry_in": round(pause, 3), "reason": why}
        log.info(told | ({"detail": error.log_detail} if error.log_detail else {}))

    def _record_refusal(self, error: Overloaded | UpstreamUnavailable) -> ForwarderError:
        self.counts["refused"] += 1
        self._observer.on_rejection(get_failure_label(error), self.settings.name)
        return error

    def _on_breaker_change(self, state: str) -> None:
        self.counts[f"breaker_{state}"] += 1
        log.warning("upstream '%s': its breaker is %s", self.settings.name, state)
        self._observer.on_breaker_change(self.settings.name, state)
