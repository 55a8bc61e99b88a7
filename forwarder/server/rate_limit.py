"""Requests and tokens that a client may have in a window of time.

Windows are fixed: they begin with a client's first use and are over after a second, a minute, an
hour or a day.  Requests are counted as they come.  What an answer costs in tokens is known when it
is over and charged then, even if that is more than was left; from there on the client is refused
until its window is over.  Requests that run at the same time can therefore go over together.

Flask-Limiter sets up the storage and the strategy.  Its decorators are not used: they charge when
a request begins, know only costs that are known by then, and answer in a shape of their own.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeVar

from limits import RateLimitItem, parse
from limits.errors import StorageError
from limits.storage import MemoryStorage
from limits.strategies import RateLimiter

from forwarder.config.settings import Settings
from forwarder.context.client_identity import make_account_id
from forwarder.context.request_context import RequestContext, RequestObserver
from forwarder.core.backend_breaker import BackendBreaker, BackendDown, BoundedBackend
from forwarder.core.errors import RateLimited, RateLimitsUnavailable

log = logging.getLogger("forwarder.ratelimit")

T = TypeVar("T")

REDIS_SOCKET_TIMEOUT = 0.5
"""Seconds after which a connection to Redis that says nothing is given up.

No request waits that long: see `forwarder.upstream.transport.backend`.
"""

MAX_REDIS_CONNECTIONS = 32
"""Connections of one worker to Redis; calls beyond them wait for one that is free."""


def make_storage_options(storage: str) -> dict[str, Any]:
    """The options of a storage for `limits`; its exceptions are all StorageError."""
    if storage.startswith("memory"):
        return {}
    from redis.backoff import NoBackoff
    from redis.connection import BlockingConnectionPool
    from redis.retry import Retry

    pool = BlockingConnectionPool.from_url(
        storage.replace("redis+unix", "unix"),
        max_connections=MAX_REDIS_CONNECTIONS,
        timeout=None,  # a full pool is no failure, and every call ends by the socket time-out
        socket_timeout=REDIS_SOCKET_TIMEOUT,
        socket_connect_timeout=REDIS_SOCKET_TIMEOUT,
        retry=Retry(NoBackoff(), 1),  # once: a connection that lay idle may be closed
    )
    return {"wrap_exceptions": True, "connection_pool": pool}


class RateLimit:
    """One limit, of ``requests`` or of ``tokens``."""

    def __init__(self, kind: str, text: str, limiter: RateLimiter) -> None:
        self.kind = kind
        self.item: RateLimitItem = parse(text)
        self._limiter = limiter

    def charge(self, who: str, cost: int) -> bool:
        """Charge ``cost``, whatever is left; whether that was enough."""
        return self._limiter.hit(self.item, self.kind, who, cost=cost)

    def read_remaining(self, who: str) -> tuple[int, float]:
        """How much is left, and in how many seconds the window is over."""
        stats = self._limiter.get_window_stats(self.item, self.kind, who)
        return stats.remaining, max(0.0, stats.reset_time - time.time())

    def make_headers(self, remaining: int, reset: float) -> dict[str, str]:
        """The state of it, as OpenAI tells it."""
        return {
            f"x-ratelimit-limit-{self.kind}": str(self.item.amount),
            f"x-ratelimit-remaining-{self.kind}": str(remaining),
            f"x-ratelimit-reset-{self.kind}": format_duration(reset),
        }

    def make_error(self, reset: float) -> RateLimited:
        error = RateLimited(
            f"Rate limit reached on {self.kind} per {self.item.GRANULARITY.name}: "
            f"Limit {self.item.amount}. Please try again in {format_duration(reset)}.",
            kind=self.kind,
        )
        error.headers["Retry-After"] = str(max(1, math.ceil(reset)))
        return error


class LimitState(NamedTuple):
    """What is left of a limit, whether that is enough, and in how many seconds it is over."""

    limit: RateLimit
    is_enough: bool
    remaining: int
    reset_seconds: float


class RateLimitObserver(RequestObserver):
    """The limits of all clients; ``observer`` is told of everyone who is turned away."""

    def __init__(self, limiter: RateLimiter, settings: Settings, observer: RequestObserver) -> None:
        self._settings = settings
        self._observer = observer
        self._request_limit = make_limit("requests", settings.rate_requests, limiter)
        self._token_limit = make_limit("tokens", settings.rate_tokens, limiter)
        self._storage = limiter.storage
        self._backend = BoundedBackend(
            BackendBreaker(self._check_storage, self._log_storage_state),
            (StorageError, OSError),
            describe_error,
        )

    def authorize(self, exchange: RequestContext, address: str | None) -> None:
        """Count a request, and note in it what is left.

        Raises RateLimited when nothing is left, and LimitsUnknown when the storage does not answer
        and the operator wants no request let through then.
        """
        who = exchange.account_id = make_account_id(exchange.client_key, address, self._settings)
        states = self._call_storage(lambda: list(self._read_states(who)))
        if states is None:
            self._apply_outage_policy()
            return
        for limit, _, remaining, reset in states:
            exchange.rate_limit_headers |= limit.make_headers(remaining, reset)
        for limit, enough, _, reset in states:
            if not enough:
                self._observer.on_rejection(limit.kind)
                raise limit.make_error(reset)

    def on_complete(self, exchange: RequestContext, seconds: float) -> None:
        """Charge what the answer has cost."""
        tokens, who, cost = self._token_limit, exchange.account_id, compute_cost(exchange)
        if tokens is not None and who is not None and cost:
            self._call_storage(lambda: tokens.charge(who, cost))

    def _read_states(self, who: str) -> Iterator[LimitState]:
        if self._request_limit is not None:
            enough = self._request_limit.charge(who, 1)
            yield LimitState(self._request_limit, enough, *self._request_limit.read_remaining(who))
        if self._token_limit is not None:
            remaining, reset = self._token_limit.read_remaining(who)
            yield LimitState(self._token_limit, remaining > 0, remaining, reset)

    def _call_storage(self, ask: Callable[[], T]) -> T | None:
        """What the storage says; ``None`` while it is down."""
        if type(self._storage) is MemoryStorage:
            return ask()
        try:
            return self._backend.call(ask)
        except BackendDown:
            return None

    def _check_storage(self) -> None:
        if not self._storage.check():
            raise BackendDown("no answer to PING")

    def _log_storage_state(self, error: str | None) -> None:
        if error is None:
            log.warning("the storage of the rate limits answers again")
            return
        fate = {"allow": "pass unlimited", "refuse": "are refused"}
        log.error(
            "the storage of the rate limits does not answer (%s): requests %s until it does",
            error, fate[self._settings.rate_when_down],
        )  # fmt: skip

    def _apply_outage_policy(self) -> None:
        if self._settings.rate_when_down == "refuse":
            self._observer.on_rejection("limits_unknown")
            raise RateLimitsUnavailable("The rate limits cannot be checked now; try again later.")


def describe_error(error: Exception) -> str:
    """The kind of a failure; its text may hold the address, with a password in it."""
    return type(error.__cause__ or error).__name__


def make_limit(kind: str, text: str | None, limiter: RateLimiter) -> RateLimit | None:
    return RateLimit(kind, text, limiter) if text else None


def compute_cost(exchange: RequestContext) -> int:
    """Tokens in and out; of an answer that broke off before it told them, its events."""
    told = [tokens for tokens in exchange.token_counts if tokens]
    return sum(told) if told else exchange.event_count


def format_duration(seconds: float) -> str:
    """As OpenAI writes it: ``250ms``, ``1s``, ``6m0s``."""
    if seconds < 1:
        return f"{math.ceil(seconds * 1000)}ms" if seconds > 0 else "0s"
    minutes, rest = divmod(math.ceil(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    head = f"{hours}h{minutes}m" if hours else f"{minutes}m" if minutes else ""
    return f"{head}{rest}s"
