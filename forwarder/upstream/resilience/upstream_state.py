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
from forwarder.context.request_context import Exchange, Observer
from forwarder.core.cleanup import Closers
from forwarder.core.errors import ForwarderError, Overloaded, UpstreamUnavailable
from forwarder.core.types import Call, Json, Stream
from forwarder.upstream.resilience.backoff import Pauses, wanted
from forwarder.upstream.resilience.breaker import CLOSED, Breaker
from forwarder.upstream.resilience.classify import Verdict, is_worth_retry, reason, verdict
from forwarder.upstream.resilience.concurrency_limit import Slots
from forwarder.upstream.resilience.retry_budget import Budget

log = logging.getLogger("forwarder.resilience")

T = TypeVar("T")


class Standing:
    """The state of one upstream in this process."""

    def __init__(
        self,
        settings: UpstreamSettings,
        observer: Observer,
        now: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
        identify: Callable[[Exchange], str] = lambda exchange: exchange.client_key or "",
    ) -> None:
        self.settings = settings
        self.slots = Slots(settings.max_concurrent)
        self.budget = Budget(now)
        self.breaker = Breaker(
            settings.breaker_failures,
            settings.breaker_share,
            settings.breaker_window,
            settings.breaker_cooldown,
            self._turned,
            now,
        )
        self.counts: Counter[str] = Counter()
        self._observer = observer
        self._chance = chance
        self._identify = identify

    def admit(self) -> Closers:
        """Let a request in; closing what this gives lets it out again.

        Raises Overloaded when there are too many, UpstreamUnavailable while the breaker is open.
        """
        name = self.settings.name
        held = Closers()
        free = self.slots.take()
        if free is None:
            raise self._refusal(Overloaded(f"Too many requests at once for the upstream '{name}'."))
        held.add(free)
        if not self.breaker.admit():
            held.close()
            message = f"The upstream '{name}' keeps failing, and is left alone for a while."
            raise self._refusal(UpstreamUnavailable(message, self.breaker.rest))
        # One that leaves without having asked the upstream does not keep others from trying.
        held.add(self.breaker.note, self.breaker.term, Verdict.UNKNOWN)
        return held

    def steadied(self, call: Call, exchange: Exchange) -> Call:
        """Wrap a call so that it is tried again as the settings and the upstream allow.

        The call must have read the beginning of its answer when it returns.
        """

        def steady(request: Json) -> Stream:
            return self.attempt(partial(call, request), exchange)

        return steady

    def attempt(self, do: Callable[[], T], exchange: Exchange) -> T:
        """Do it, more than once where that may help; raises the last failure."""
        pauses = Pauses(self.settings.max_retries, self.settings.retry_wait, self._chance)
        self.budget.earn()
        while True:
            try:
                return self._noted(do, exchange)
            except ForwarderError as error:
                if not self._goes_on(error, pauses, exchange):
                    raise

    def shown(self) -> dict[str, object]:
        """The state and the counters, for people."""
        state = {"breaker": self.breaker.state, "concurrent": self.slots.taken}
        return {**state, **dict(sorted(self.counts.items()))}

    def _noted(self, do: Callable[[], T], exchange: Exchange) -> T:
        """Do it, and let the breaker know."""
        term = self.breaker.term
        self.counts["attempts"] += 1
        try:
            done = do()
        except ForwarderError as error:
            # A client that has gone broke the connection itself.
            said = Verdict.UNKNOWN if exchange.left else verdict(error)
            self.counts["failures"] += said in (Verdict.ILL, Verdict.FAILED)
            if said is not Verdict.FAILED:
                self.breaker.note(term, said)
            elif self.settings.fallback:
                self.breaker.note(term, said, self._identify(exchange))
            else:  # the upstream answers, and there is no other to ask
                self.breaker.note(term, Verdict.WELL)
            raise
        self.breaker.note(term, Verdict.WELL)
        return done

    def _goes_on(self, error: ForwarderError, pauses: Pauses, exchange: Exchange) -> bool:
        """Wait for the next attempt; False when there is to be none."""
        if exchange.left or not is_worth_retry(error) or self.breaker.state != CLOSED:
            return False
        pause = pauses.next(wanted(error.headers))
        if pause is None or not self.budget.spend():
            return False
        self._retrying(error, pause, exchange)
        return exchange.waited(pause) and self.breaker.state == CLOSED

    def _retrying(self, error: ForwarderError, pause: float, exchange: Exchange) -> None:
        name, why = self.settings.name, reason(error)
        self.counts["retries"] += 1
        exchange.retries += 1
        exchange.reply_headers = {}
        self._observer.retried(name, why)
        told = {"id": exchange.id, "upstream": name, "retry_in": round(pause, 3), "reason": why}
        log.info(told | ({"detail": error.log_detail} if error.log_detail else {}))

    def _refusal(self, error: Overloaded | UpstreamUnavailable) -> ForwarderError:
        self.counts["refused"] += 1
        self._observer.refused(reason(error), self.settings.name)
        return error

    def _turned(self, state: str) -> None:
        self.counts[f"breaker_{state}"] += 1
        log.warning("upstream '%s': its breaker is %s", self.settings.name, state)
        self._observer.breaker(self.settings.name, state)
