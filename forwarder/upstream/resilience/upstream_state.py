"""The state of one upstream: circuit breaker, concurrency limit, retry budget and counters."""

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
        identify: Callable[[RequestContext], str] = lambda context: context.client_key or "",
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
        """Admit a request; the caller closes the returned stack when the request ends.

        Raises Overloaded above the limit, and UpstreamUnavailable while the breaker is open.
        """
        name = self.settings.name
        admission = CleanupStack()
        free = self.concurrency_limit.acquire()
        if free is None:
            raise self._record_refusal(
                Overloaded(f"Too many requests at once for the upstream '{name}'.")
            )
        admission.add(free)
        if not self.breaker.allow_request():
            admission.close()
            message = f"The upstream '{name}' keeps failing, so it is not called for a while."
            raise self._record_refusal(
                UpstreamUnavailable(message, self.breaker.remaining_cooldown)
            )
        # A trial request that ends without calling the upstream must permit another trial.
        admission.add(self.breaker.record_outcome, self.breaker.term, Outcome.UNKNOWN)
        return admission

    def with_retries(self, handler: Handler, context: RequestContext) -> Handler:
        """Wrap a handler in retries, as far as the settings and the upstream allow.

        The handler must return after the first batch of its answer.
        """

        def handle_request(request: Json) -> EventStream:
            return self.run_with_retries(partial(handler, request), context)

        return handle_request

    def run_with_retries(self, work: Callable[[], T], context: RequestContext) -> T:
        """Run ``work`` and retry it while that may help.  Raises the last error."""
        pauses = Backoff(self.settings.max_retries, self.settings.retry_wait, self._chance)
        self.retry_budget.earn()
        while True:
            try:
                return self._record_outcome(work, context)
            except ForwarderError as error:
                if not self._wait_for_retry(error, pauses, context):
                    raise

    def describe(self) -> dict[str, object]:
        """Return the state and the counters, for operators."""
        state = {"breaker": self.breaker.state, "concurrent": self.concurrency_limit.in_use}
        return {**state, **dict(sorted(self.counts.items()))}

    def _record_outcome(self, work: Callable[[], T], context: RequestContext) -> T:
        """Run ``work`` and record its outcome in the breaker."""
        term = self.breaker.term
        self.counts["attempts"] += 1
        try:
            result = work()
        except ForwarderError as error:
            # If the client has disconnected, that broke the connection, not the upstream.
            outcome = Outcome.UNKNOWN if context.is_cancelled else classify_outcome(error)
            self.counts["failures"] += outcome in (Outcome.FAILURE, Outcome.AMBIGUOUS_FAILURE)
            if outcome is not Outcome.AMBIGUOUS_FAILURE:
                self.breaker.record_outcome(term, outcome)
            elif self.settings.fallback:
                self.breaker.record_outcome(term, outcome, self._identify_client(context))
            else:  # the upstream answers, and there is no other upstream to call
                self.breaker.record_outcome(term, Outcome.SUCCESS)
            raise
        self.breaker.record_outcome(term, Outcome.SUCCESS)
        return result

    def _wait_for_retry(
        self, error: ForwarderError, pauses: Backoff, context: RequestContext
    ) -> bool:
        """Wait for the next attempt; return False if there is none."""
        if context.is_cancelled or not is_worth_retry(error) or self.breaker.state != CLOSED:
            return False
        pause = pauses.next_delay(parse_retry_after(error.headers))
        if pause is None or not self.retry_budget.spend():
            return False
        self._record_retry(error, pause, context)
        return context.wait(pause) and self.breaker.state == CLOSED

    def _record_retry(self, error: ForwarderError, pause: float, context: RequestContext) -> None:
        name, reason = self.settings.name, get_failure_label(error)
        self.counts["retries"] += 1
        context.retries += 1
        context.reply_headers = {}
        self._observer.on_retry(name, reason)
        fields = {
            "event": "upstream_retry",
            "id": context.id,
            "upstream": name,
            "retry_in": round(pause, 3),
            "reason": reason,
        }
        log.info(fields | ({"detail": error.log_detail} if error.log_detail else {}))

    def _record_refusal(self, error: Overloaded | UpstreamUnavailable) -> ForwarderError:
        self.counts["refused"] += 1
        self._observer.on_rejection(get_failure_label(error), self.settings.name)
        return error

    def _on_breaker_change(self, state: str) -> None:
        self.counts[f"breaker_{state}"] += 1
        log.warning(
            "upstream '%s': its breaker is %s",
            self.settings.name,
            state,
            extra={"event": "upstream_breaker"},
        )
        self._observer.on_breaker_change(self.settings.name, state)
