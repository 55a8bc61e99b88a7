"""The state of one upstream or endpoint: breaker, limits, cooldowns, retry budget and counters.

An upstream with several endpoints has a state for each. They share the concurrency limit and the
retry budget of the upstream, and the endpoints of one host share its circuit breaker.
"""

from __future__ import annotations

import logging
import math
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeVar

from forwarder.config.settings import UpstreamSettings
from forwarder.context.request_context import RequestContext, RequestObserver
from forwarder.core.cleanup import CleanupStack
from forwarder.core.errors import ForwarderError, Overloaded, UpstreamUnavailable
from forwarder.core.types import EventStream, Handler, Json
from forwarder.upstream.resilience.breaker import CLOSED, OPEN, STATES, CircuitBreaker
from forwarder.upstream.resilience.classify import (
    Outcome,
    classify_outcome,
    describe_failure,
    get_failure_label,
)
from forwarder.upstream.resilience.concurrency_limit import ConcurrencyLimit
from forwarder.upstream.resilience.cooldowns import Cooldown, Cooldowns
from forwarder.upstream.resilience.retry_budget import RetryBudget
from forwarder.upstream.resilience.retry_policy import (
    Backoff,
    is_worth_retry,
    parse_retry_after,
)

log = logging.getLogger("forwarder.resilience")

T = TypeVar("T")


class Obstacle(NamedTuple):
    """Why an endpoint is not called: for how many seconds, and the error that says so.

    ``concerns_account`` is true if the upstream refused the key or the account, and the breaker
    permits a call.
    """

    seconds: float
    error: ForwarderError
    concerns_account: bool = False


class UpstreamState:
    """The state of one upstream, or of one of its endpoints, in this process.

    ``siblings`` are the states of the other endpoints that exist already, the first endpoint's
    first. ``on_cooldown`` is called when a cooldown starts, ``on_break`` when the breaker opens.
    ``is_grouped`` is true for a member of a group of models: if it fails, another member is called.
    """

    def __init__(
        self,
        settings: UpstreamSettings,
        observer: RequestObserver,
        now: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
        identify: Callable[[RequestContext], str] = lambda context: context.client_key or "",
        siblings: Sequence[UpstreamState] = (),
    ) -> None:
        self.settings = settings
        self.on_cooldown: Callable[[UpstreamState, Cooldown], object] = lambda *_: None
        self.on_break: Callable[[UpstreamState], object] = lambda state: None
        self.is_grouped = False
        self._now = now
        self._observer = observer
        self._chance = chance
        self._identify_client = identify
        self.counts: Counter[str] = Counter()
        self.cooldowns = Cooldowns(settings.key_cooldown, now)
        self.concurrency_limit = ConcurrencyLimit(settings.max_concurrent)
        self.retry_budget = RetryBudget(now)
        self._endpoint_requests = ConcurrencyLimit(None)
        if siblings:
            self.concurrency_limit = siblings[0].concurrency_limit
            self.retry_budget = siblings[0].retry_budget
        self._host_breakers: dict[str, CircuitBreaker] = (
            siblings[0]._host_breakers if siblings else {}
        )
        if settings.base_url not in self._host_breakers:
            self._host_breakers[settings.base_url] = self._make_breaker()
        self.breaker: CircuitBreaker = self._host_breakers[settings.base_url]

    def _make_breaker(self) -> CircuitBreaker:
        return CircuitBreaker(
            self.settings.breaker_failures,
            self.settings.breaker_share,
            self.settings.breaker_window,
            self.settings.breaker_cooldown,
            self._on_breaker_change,
            self._now,
        )

    @property
    def best_state(self) -> str:
        """The best state of the breakers of all hosts: one usable host makes an upstream usable."""
        if len(self._host_breakers) == 1:
            return self.breaker.state
        return min((each.state for each in self._host_breakers.values()), key=STATES.index)

    @property
    def in_flight(self) -> int:
        """How many requests this endpoint is serving."""
        if self.settings.endpoint is None:
            return self.concurrency_limit.in_use
        return self._endpoint_requests.in_use

    @property
    def condition(self) -> str:
        """``usable``, ``cooling_down`` (at least for some models), or ``broken``."""
        if self.breaker.state == OPEN:
            return "broken"
        return "cooling_down" if self.cooldowns.list_current() else "usable"

    def find_obstacle(self, model: str) -> Obstacle | None:
        """Return why a model cannot be called here now, and for how long; ``None`` if it can."""
        cooldown, breaker_seconds = self.cooldowns.find(model), self.breaker.remaining_cooldown
        cooldown_seconds = 0.0 if cooldown is None else cooldown.until - self._now()
        if cooldown is not None and cooldown_seconds >= breaker_seconds:
            concerns_account = cooldown.concerns_account and breaker_seconds <= 0
            error = cooldown.make_error(cooldown_seconds)
            return Obstacle(cooldown_seconds, error, concerns_account)
        return (
            Obstacle(breaker_seconds, self.make_unavailable_error())
            if breaker_seconds > 0
            else None
        )

    def admit_request(self) -> CleanupStack:
        """Admit a request; the caller closes the returned stack when the request ends.

        Raises Overloaded above the limit, and UpstreamUnavailable while the breaker is open.
        """
        name = self.settings.name
        admission = CleanupStack()
        free = self.concurrency_limit.acquire()
        if free is None:
            raise self.record_refusal(
                Overloaded(f"Too many requests at once for the upstream '{name}'.")
            )
        admission.add(free)
        if not self.breaker.admit_request():
            admission.close()
            raise self.record_refusal(self.make_unavailable_error())
        if self.settings.endpoint is not None:
            free_endpoint = self._endpoint_requests.acquire()
            assert free_endpoint is not None  # there is no limit
            admission.add(free_endpoint)
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
        pauses = self.make_backoff()
        # With several endpoints, `failover.py` tries the next endpoint instead of waiting here.
        # Once the answer has begun, no other endpoint can continue it.
        is_balanced = self.settings.endpoint is not None and context.first_event_at is None
        if not is_balanced:
            self.retry_budget.earn()
        while True:
            try:
                return self._run_attempt(work, context)
            except ForwarderError as error:
                if is_balanced or not self.wait_for_retry(error, pauses, context):
                    raise

    def make_backoff(self) -> Backoff:
        """Return the pauses of a request between its retries."""
        return Backoff(self.settings.max_retries, self.settings.retry_wait, self._chance)

    def describe(self) -> dict[str, object]:
        """Return the state and the counters, for operators."""
        state = {"breaker": self.best_state, "concurrent": self.concurrency_limit.in_use}
        return {**state, **dict(sorted(self.counts.items()))}

    def describe_endpoint(self) -> dict[str, Any]:
        """Return the state of one of several endpoints, for operators; it has no key."""
        endpoint = self.settings.endpoint
        assert endpoint is not None
        cooldowns = self.cooldowns.list_current()
        state: dict[str, Any] = {
            "host": endpoint.host,
            "key": endpoint.key,
            "weight": endpoint.weight,
            "breaker": self.breaker.state,
            "concurrent": self.in_flight,
            **dict(sorted(self.counts.items())),
        }
        if cooldowns:
            state["cooldowns"] = [
                {
                    **({"model": cooldown.model} if cooldown.model else {}),
                    "status": cooldown.status,
                    "seconds": math.ceil(cooldown.until - self._now()),
                }
                for cooldown in cooldowns
            ]
        return state

    def _run_attempt(self, work: Callable[[], T], context: RequestContext) -> T:
        """Run ``work`` and record its outcome in the breaker."""
        term = self.breaker.term
        self.counts["attempts"] += 1
        try:
            result = work()
        except ForwarderError as error:
            self._start_cooldown(error, context)
            # A client that disconnects breaks the connection; this says nothing about the upstream.
            outcome = Outcome.UNKNOWN if context.is_cancelled else classify_outcome(error)
            self.counts["failures"] += outcome in (Outcome.FAILURE, Outcome.AMBIGUOUS_FAILURE)
            if outcome is not Outcome.AMBIGUOUS_FAILURE:
                self.breaker.record_outcome(term, outcome)
            elif self.settings.fallback or self.settings.endpoint is not None or self.is_grouped:
                self.breaker.record_outcome(term, outcome, self._identify_client(context))
            else:  # the upstream answers, and there is no other upstream to call
                self.breaker.record_outcome(term, Outcome.SUCCESS)
            raise
        self.breaker.record_outcome(term, Outcome.SUCCESS)
        self.cooldowns.end_account_cooldown()
        return result

    def _start_cooldown(self, error: ForwarderError, context: RequestContext) -> None:
        """Start a cooldown if ``error`` refuses the endpoint's key; not for a key of a client."""
        if self.settings.passthrough_key or context.is_cancelled:
            return
        cooldown = self.cooldowns.start(error, context.model or "")
        if cooldown is not None:
            self.on_cooldown(self, cooldown)

    def wait_for_retry(
        self, error: ForwarderError, pauses: Backoff, context: RequestContext
    ) -> bool:
        """Wait for the next attempt; return False without waiting if no attempt is left."""
        if context.is_cancelled or not is_worth_retry(error) or self.best_state != CLOSED:
            return False
        pause = pauses.next_delay(parse_retry_after(error.headers))
        if pause is None or not self.retry_budget.spend():
            return False
        self._record_retry(error, pause, context)
        return context.wait(pause) and self.best_state == CLOSED

    def _record_retry(self, error: ForwarderError, pause: float, context: RequestContext) -> None:
        name = self.settings.name
        self.counts["retries"] += 1
        context.retries += 1
        context.reply_headers = {}
        self._observer.on_retry(name, get_failure_label(error))
        fields = {
            "event": "upstream_retry",
            "id": context.id,
            "upstream": name,
            "retry_in": round(pause, 3),
        }
        log.info(fields | describe_failure(error))

    def record_refusal(self, error: ForwarderError) -> ForwarderError:
        """Record that a request was refused without calling the upstream; return ``error``."""
        self.counts["refused"] += 1
        self._observer.on_rejection(get_failure_label(error), self.settings.name)
        return error

    def make_unavailable_error(self) -> UpstreamUnavailable:
        """Return the error for a request that an open breaker rejects."""
        return UpstreamUnavailable(
            f"The upstream '{self.settings.name}' keeps failing, so it is not called for a while.",
            self.breaker.remaining_cooldown,
        )

    def _on_breaker_change(self, state: str) -> None:
        self.counts[f"breaker_{state}"] += 1
        if state == OPEN:
            self.on_break(self)
        endpoint = self.settings.endpoint
        log.warning(
            "upstream '%s'%s: its breaker is %s",
            self.settings.name,
            f", host {endpoint.host}" if endpoint and len(self._host_breakers) > 1 else "",
            state,
            extra={"event": "upstream_breaker"},
        )
        self._observer.on_breaker_change(self.settings.name, self.best_state)
