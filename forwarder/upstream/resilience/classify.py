"""What a failure means: ask again, ask another, and does it speak against the upstream?

Three tables on one page, so that they can be read beside each other.
"""

from __future__ import annotations

from enum import Enum

from forwarder.core.error_kinds import ErrorKind
from forwarder.core.errors import (
    ForwarderError,
    Overloaded,
    UpstreamConnectTimeout,
    UpstreamKeyRefused,
    UpstreamMisconfigured,
    UpstreamProtocolError,
    UpstreamRefused,
    UpstreamTimeout,
    UpstreamUnavailable,
    UpstreamUnreachable,
)

_RETRYABLE_STATUSES = frozenset({408, 409, 429})
"""Statuses below 500 that pass, as the SDK has it."""

_FALLBACK_STATUSES = frozenset({408, 429})
"""Statuses below 500 for which another upstream may do better."""

_PAYMENT_REQUIRED = 402


class Outcome(Enum):
    """What a call says about its upstream.

    ``FAILURE``: there was no connection, or no answer in time.  ``AMBIGUOUS_FAILURE``: it answered, with a 5xx or
    with something that is no answer, which the request itself may have caused.
    """

    SUCCESS = "well"
    FAILURE = "ill"
    AMBIGUOUS_FAILURE = "failed"
    UNKNOWN = "unknown"


def is_worth_retry(error: ForwarderError) -> bool:
    """May the same upstream do better in a moment?

    Not after a first byte that did not come in time: the upstream is at work on it, and a second
    request would be paid for as well.
    """
    if isinstance(error, UpstreamRefused):
        return is_refusal_worth_retry(error)
    return isinstance(error, UpstreamUnreachable | UpstreamProtocolError | UpstreamConnectTimeout)


def is_refusal_worth_retry(error: UpstreamRefused) -> bool:
    told = error.headers.get("x-should-retry")
    if told in ("true", "false"):
        return told == "true"
    passing = error.status >= 500 or error.status in _RETRYABLE_STATUSES
    return passing and error.kind is not ErrorKind.QUOTA_EXHAUSTED  # which no waiting helps against


def is_worth_fallback(error: ForwarderError, own_key: bool) -> bool:
    """May another upstream do better?

    ``own_key`` says that the upstream was asked with the forwarder's key: then an empty account is
    the operator's matter, and the client's request as good as before.
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
    """What a failure says about its upstream.

    One that refuses is well, unless by a 5xx.  A 429 is a matter of one key or model: it opens no
    breaker, and closes none.
    """
    if isinstance(error, UpstreamRefused):
        if error.status >= 500:
            return Outcome.AMBIGUOUS_FAILURE
        return Outcome.UNKNOWN if error.status == 429 else Outcome.SUCCESS
    if isinstance(error, UpstreamKeyRefused):
        return Outcome.SUCCESS
    if error.code == "upstream_disconnected":  # it had begun to answer
        return Outcome.AMBIGUOUS_FAILURE
    if isinstance(error, UpstreamProtocolError):
        return Outcome.AMBIGUOUS_FAILURE
    ill = isinstance(error, UpstreamUnreachable | UpstreamTimeout)
    return Outcome.FAILURE if ill else Outcome.UNKNOWN


def get_failure_label(error: ForwarderError) -> str:
    """A failure in a word, from a set that providers cannot make large."""
    if isinstance(error, UpstreamRefused):
        return str(error.status)
    return error.code or error.type
