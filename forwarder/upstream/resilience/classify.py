"""Classifies failures: whether to fall back, and whether to count them against the upstream.

`retry_policy.py` has the rule for retries; tests compare the three rules in one table.
"""

from __future__ import annotations

from enum import Enum

from forwarder.core.errors import (
    ForwarderError,
    Overloaded,
    UpstreamKeyRefused,
    UpstreamMisconfigured,
    UpstreamProtocolError,
    UpstreamRefused,
    UpstreamTimeout,
    UpstreamUnavailable,
    UpstreamUnreachable,
)

_FALLBACK_STATUSES = frozenset({408, 429})
"""Statuses below 500 for which another upstream may succeed."""

_PAYMENT_REQUIRED = 402


class Outcome(Enum):
    """The outcome of a call, as evidence about its upstream.

    ``FAILURE``: no connection, or no answer in time.  ``AMBIGUOUS_FAILURE``: a 5xx or an invalid
    answer, which the request itself may have caused.
    """

    SUCCESS = "success"
    FAILURE = "failure"
    AMBIGUOUS_FAILURE = "ambiguous_failure"
    UNKNOWN = "unknown"


def is_worth_fallback(error: ForwarderError, own_key: bool) -> bool:
    """Return whether another upstream may succeed.

    ``own_key`` means that the request used the forwarder's key.  Then an exhausted account belongs
    to the operator, and the client's request is still valid for other upstreams.
    """
    if isinstance(error, UpstreamRefused):
        elsewhere = error.status >= 500 or error.status in _FALLBACK_STATUSES
        return elsewhere or (own_key and error.status == _PAYMENT_REQUIRED)
    return isinstance(
        error,
        UpstreamUnreachable
        | UpstreamProtocolError
        | UpstreamTimeout
        | UpstreamKeyRefused
        | UpstreamMisconfigured
        | UpstreamUnavailable
        | Overloaded,
    )


def classify_outcome(error: ForwarderError) -> Outcome:
    """Return the outcome that a failure means for the breaker.

    An upstream that refuses a request is available, unless it answers a 5xx.  A 429 concerns one
    key or model, so it neither opens nor closes a breaker.
    """
    if isinstance(error, UpstreamRefused):
        if error.status >= 500:
            return Outcome.AMBIGUOUS_FAILURE
        return Outcome.UNKNOWN if error.status == 429 else Outcome.SUCCESS
    if isinstance(error, UpstreamKeyRefused):
        return Outcome.SUCCESS
    if error.code == "upstream_disconnected":  # after the answer had begun
        return Outcome.AMBIGUOUS_FAILURE
    if isinstance(error, UpstreamProtocolError):
        return Outcome.AMBIGUOUS_FAILURE
    is_failure = isinstance(error, UpstreamUnreachable | UpstreamTimeout)
    return Outcome.FAILURE if is_failure else Outcome.UNKNOWN


def get_failure_label(error: ForwarderError) -> str:
    """Return a short label for a failure, from a bounded set (it becomes a metric label)."""
    if isinstance(error, UpstreamRefused):
        return str(error.status)
    return error.code or error.type


def describe_failure(error: ForwarderError) -> dict[str, str]:
    """Return the log fields of a failure: ``reason``, and ``detail`` if that quotes no request."""
    detail = error.log_detail
    return {"reason": get_failure_label(error)} | ({"detail": detail} if detail else {})
