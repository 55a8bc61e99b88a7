"""What a failure means: ask again, ask another, and does it speak against the upstream?

Three tables on one page, so that they can be read beside each other.
"""

from __future__ import annotations

from enum import Enum

from forwarder.core.error_kinds import ErrorKind
from forwarder.core.errors import (
    ForwarderError,
    Overloaded,
    UpstreamBroken,
    UpstreamConnectTimeout,
    UpstreamKeyRefused,
    UpstreamMisconfigured,
    UpstreamRefused,
    UpstreamTimeout,
    UpstreamUnavailable,
    UpstreamUnreachable,
)

_AGAIN = frozenset({408, 409, 429})
"""Statuses below 500 that pass, as the SDK has it."""

_ELSEWHERE = frozenset({408, 429})
"""Statuses below 500 for which another upstream may do better."""

_OUT_OF_MONEY = 402


class Verdict(Enum):
    """What a call says about its upstream.

    ``ILL``: there was no connection, or no answer in time.  ``FAILED``: it answered, with a 5xx or
    with something that is no answer, which the request itself may have caused.
    """

    WELL = "well"
    ILL = "ill"
    FAILED = "failed"
    UNKNOWN = "unknown"


def is_worth_retry(error: ForwarderError) -> bool:
    """May the same upstream do better in a moment?

    Not after a first byte that did not come in time: the upstream is at work on it, and a second
    request would be paid for as well.
    """
    if isinstance(error, UpstreamRefused):
        return _is_refusal_worth_retry(error)
    return isinstance(error, UpstreamUnreachable | UpstreamBroken | UpstreamConnectTimeout)


def _is_refusal_worth_retry(error: UpstreamRefused) -> bool:
    told = error.headers.get("x-should-retry")
    if told in ("true", "false"):
        return told == "true"
    passing = error.status >= 500 or error.status in _AGAIN
    return passing and error.kind is not ErrorKind.QUOTA_EXHAUSTED  # which no waiting helps against


def is_worth_fallback(error: ForwarderError, own_key: bool) -> bool:
    """May another upstream do better?

    ``own_key`` says that the upstream was asked with the forwarder's key: then an empty account is
    the operator's matter, and the client's request as good as before.
    """
    if isinstance(error, UpstreamRefused):
        elsewhere = error.status >= 500 or error.status in _ELSEWHERE
        return elsewhere or (own_key and error.status == _OUT_OF_MONEY)
    return isinstance(
        error,
        UpstreamUnreachable
        | UpstreamBroken
        | UpstreamTimeout
        | UpstreamKeyRefused
        | UpstreamMisconfigured
        | UpstreamUnavailable
        | Overloaded,
    )


def verdict(error: ForwarderError) -> Verdict:
    """What a failure says about its upstream.

    One that refuses is well, unless by a 5xx.  A 429 is a matter of one key or model: it opens no
    breaker, and closes none.
    """
    if isinstance(error, UpstreamRefused):
        if error.status >= 500:
            return Verdict.FAILED
        return Verdict.UNKNOWN if error.status == 429 else Verdict.WELL
    if isinstance(error, UpstreamKeyRefused):
        return Verdict.WELL
    if error.code == "upstream_disconnected":  # it had begun to answer
        return Verdict.FAILED
    if isinstance(error, UpstreamBroken):
        return Verdict.FAILED
    ill = isinstance(error, UpstreamUnreachable | UpstreamTimeout)
    return Verdict.ILL if ill else Verdict.UNKNOWN


def reason(error: ForwarderError) -> str:
    """A failure in a word, from a set that providers cannot make large."""
    if isinstance(error, UpstreamRefused):
        return str(error.status)
    return error.code or error.type
