"""Rate limits: requests and tokens per client and time window.

The limits of a key made at run time replace those of the settings.

Windows are fixed. A window starts with the client's first use and lasts a second, a minute, an
hour or a day. A request is charged when it starts. Tokens are charged when the response ends, even
if they exceed the remaining amount; the client is then rejected until the window ends. Concurrent
requests can therefore exceed a token limit together.

`limits` has the storage and the strategy. Flask-Limiter, which is built on it, does not fit: it
charges at the start of a request, when the tokens are unknown, and uses its own error format.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any, NamedTuple, TypeVar

from limits import RateLimitItem, parse
from limits.errors import StorageError
from limits.storage import MemoryStorage, storage_from_string
from limits.strategies import FixedWindowRateLimiter, RateLimiter

from forwarder.config.settings import Settings
from forwarder.context.client_identity import make_account_id
from forwarder.context.request_context import RequestContext, RequestObserver
from forwarder.core.errors import RateLimited, RateLimitsUnavailable
from forwarder.core.storage_breaker import BoundedStorage, StorageBreaker, StorageDown

log = logging.getLogger("forwarder.ratelimit")

T = TypeVar("T")

REDIS_SOCKET_TIMEOUT = 0.5
"""Seconds after which a silent connection to Redis fails; FORWARDER_RATE_LIMIT_TIMEOUT raises it.

Requests do not wait that long while Redis is down: see `forwarder.core.storage_breaker`.
"""

MAX_KEY_LIMITS = 1024
"""How many different limits of keys are cached."""

MAX_REDIS_CONNECTIONS = 32
"""Connections to Redis per worker. Further calls wait for a free connection."""


def make_storage_options(storage: str, timeout: float) -> dict[str, Any]:
    """Return the storage options for `limits`. With them, it raises all errors as StorageError.

    ``timeout`` is the number of seconds after which the storage counts as down.
    """
    if storage.startswith("memory"):
        return {}
    from redis.backoff import NoBackoff
    from redis.connection import BlockingConnectionPool
    from redis.retry import Retry

    socket_timeout = max(REDIS_SOCKET_TIMEOUT, timeout)
    pool = BlockingConnectionPool.from_url(
        storage.replace("redis+unix", "unix"),
        max_connections=MAX_REDIS_CONNECTIONS,
        timeout=None,  # wait for a connection: each call ends by the socket time-out
        socket_timeout=socket_timeout,
        socket_connect_timeout=socket_timeout,
        retry=Retry(NoBackoff(), 1),  # once: Redis may have closed an idle connection
    )
    return {"wrap_exceptions": True, "connection_pool": pool}


def make_limiter(settings: Settings) -> RateLimiter:
    """Return a limiter with fixed windows in the storage of the settings."""
    options = make_storage_options(settings.rate_storage, settings.rate_timeout)
    return FixedWindowRateLimiter(storage_from_string(settings.rate_storage, **options))


class RateLimit:
    """One limit; ``kind`` is ``requests`` or ``tokens``."""

    def __init__(self, kind: str, text: str, limiter: RateLimiter) -> None:
        self.kind = kind
        self.item: RateLimitItem = parse(text)
        self._limiter = limiter

    def charge(self, account_id: str, cost: int) -> bool:
        """Charge ``cost`` in any case. Returns False if it exceeds the remaining amount."""
        return self._limiter.hit(self.item, self.kind, account_id, cost=cost)

    def read_remaining(self, account_id: str) -> tuple[int, float]:
        """Return the remaining amount and the seconds until the window ends."""
        stats = self._limiter.get_window_stats(self.item, self.kind, account_id)
        return stats.remaining, max(0.0, stats.reset_time - time.time())

    def make_headers(self, remaining: int, reset: float) -> dict[str, str]:
        """Return the state of the limit as OpenAI's response headers."""
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
    """The state of a limit for one request; ``reset_seconds`` is the rest of the window."""

    limit: RateLimit
    is_enough: bool
    remaining: int
    reset_seconds: float


class RateLimitObserver(RequestObserver):
    """Enforces the limits of all clients and reports rejections to ``observer``.

    ``limiter`` is the limiter of the settings' storage unless it is given.
    """

    def __init__(
        self, settings: Settings, observer: RequestObserver, limiter: RateLimiter | None = None
    ) -> None:
        limiter = limiter or make_limiter(settings)
        self._settings = settings
        self._observer = observer
        self._request_limit = make_limit("requests", settings.rate_requests, limiter)
        self._token_limit = make_limit("tokens", settings.rate_tokens, limiter)
        self._find_key_limit = lru_cache(MAX_KEY_LIMITS)(
            lambda kind, amount: RateLimit(kind, f"{amount}/minute", limiter)
        )
        self._storage = limiter.storage
        self._closed = threading.Event()
        self._bounded_storage = BoundedStorage(
            StorageBreaker(self._check_storage, self._log_storage_state, stop=self._closed),
            (StorageError, OSError),
            describe_error,
            settings.rate_timeout,
        )

    def authorize(self, context: RequestContext, address: str | None) -> None:
        """Charge a request and add the rate limit headers to ``context``.

        Raises RateLimited if a limit is exceeded, and RateLimitsUnavailable if the storage does not
        answer and FORWARDER_RATE_LIMIT_WHEN_DOWN is ``refuse``.
        """
        limits = self._find_limits(context)
        if limits == (None, None):
            return
        account_id = context.account_id = make_account_id(
            context.client_key, address, self._settings
        )
        states = self._call_storage(lambda: list(read_states(*limits, account_id)))
        if states is None:
            if self._settings.rate_when_down == "refuse":
                self._observer.on_rejection("limits_unknown")
                raise RateLimitsUnavailable(
                    "The rate limits cannot be checked now; try again later."
                )
            return
        for limit, _, remaining, reset in states:
            context.rate_limit_headers |= limit.make_headers(remaining, reset)
        for limit, is_enough, _, reset in states:
            if not is_enough:
                self._observer.on_rejection(limit.kind)
                raise limit.make_error(reset)

    def on_complete(self, context: RequestContext, seconds: float) -> None:
        """Charge the tokens of the response."""
        tokens, account_id = self._find_limits(context)[1], context.account_id
        if tokens is None or account_id is None:
            return
        cost = compute_cost(context)
        if cost:
            self._call_storage(lambda: tokens.charge(account_id, cost))

    def close(self) -> None:
        """Stop waiting for a storage that is down."""
        self._closed.set()

    def _find_limits(self, context: RequestContext) -> tuple[RateLimit | None, RateLimit | None]:
        """Return the limits of requests and tokens for a client."""
        requests, tokens, grants = self._request_limit, self._token_limit, context.grants
        if grants is not None and grants.requests_per_minute is not None:
            requests = self._find_key_limit("requests", grants.requests_per_minute)
        if grants is not None and grants.tokens_per_minute is not None:
            tokens = self._find_key_limit("tokens", grants.tokens_per_minute)
        return requests, tokens

    def _call_storage(self, ask: Callable[[], T]) -> T | None:
        """Return the result of ``ask``, or None while the storage is down."""
        if type(self._storage) is MemoryStorage:
            return ask()
        try:
            return self._bounded_storage.call(ask)
        except StorageDown:
            return None

    def _check_storage(self) -> None:
        if not self._storage.check():
            raise StorageDown("no answer to PING")

    def _log_storage_state(self, error: str | None) -> None:
        if error is None:
            log.warning(
                "the rate limit storage answers again", extra={"event": "rate_limit_storage_up"}
            )
            return
        policy = {"allow": "pass unlimited", "refuse": "are refused"}[self._settings.rate_when_down]
        log.error(
            "the rate limit storage does not answer (%s): requests %s until it does",
            error,
            policy,
            extra={"event": "rate_limit_storage_down"},
        )


def read_states(
    requests: RateLimit | None, tokens: RateLimit | None, account_id: str
) -> Iterator[LimitState]:
    """Charge a request, and yield the state of each limit."""
    if requests is not None:
        is_enough = requests.charge(account_id, 1)
        yield LimitState(requests, is_enough, *requests.read_remaining(account_id))
    if tokens is not None:
        remaining, reset = tokens.read_remaining(account_id)
        yield LimitState(tokens, remaining > 0, remaining, reset)


def describe_error(error: Exception) -> str:
    """Return the class of an error. Its text may contain the storage URL with a password."""
    return type(error.__cause__ or error).__name__


def make_limit(kind: str, text: str | None, limiter: RateLimiter) -> RateLimit | None:
    return RateLimit(kind, text, limiter) if text else None


def compute_cost(context: RequestContext) -> int:
    """Return input plus output tokens, or the number of events if a response has no usage."""
    counts = [tokens for tokens in context.token_counts if tokens]
    return sum(counts) if counts else context.event_count


def format_duration(seconds: float) -> str:
    """Format seconds as OpenAI does: ``250ms``, ``1s``, ``6m0s``."""
    if seconds < 1:
        return f"{math.ceil(seconds * 1000)}ms" if seconds > 0 else "0s"
    minutes, rest = divmod(math.ceil(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    head = f"{hours}h{minutes}m" if hours else f"{minutes}m" if minutes else ""
    return f"{head}{rest}s"
