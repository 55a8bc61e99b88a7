"""Retry, fallback and outcome of each failure, in one table."""

from __future__ import annotations

from forwarder.core import errors
from forwarder.core.errors import ForwarderError, Overloaded, UpstreamRefused, UpstreamUnavailable
from forwarder.upstream.resilience.classify import (
    Outcome,
    classify_outcome,
    describe_failure,
    get_failure_label,
    is_worth_fallback,
)
from forwarder.upstream.resilience.retry_policy import is_worth_retry
from tests.helpers.check_cases import check_each

SUCCESS, FAILURE, AMBIGUOUS, UNKNOWN = (
    Outcome.SUCCESS,
    Outcome.FAILURE,
    Outcome.AMBIGUOUS_FAILURE,
    Outcome.UNKNOWN,
)


def make_refusal(status: int, code: str | None = None, **headers: str) -> UpstreamRefused:
    renamed = {name.replace("_", "-"): value for name, value in headers.items()}
    return UpstreamRefused(status, {"message": "no", "code": code}, renamed)


TABLE = [
    # failure, is_worth_retry, is_worth_fallback, outcome
    (errors.InvalidRequest("x"), False, False, UNKNOWN),
    (errors.Unsupported("x"), False, False, UNKNOWN),
    (errors.InternalError("x"), False, False, UNKNOWN),
    (errors.UpstreamKeyRefused("x"), False, True, SUCCESS),
    (errors.UpstreamUnreachable("x"), True, True, FAILURE),
    (errors.UpstreamUnreachable("x", code="upstream_disconnected"), True, True, AMBIGUOUS),
    (errors.UpstreamMisconfigured("x"), False, True, UNKNOWN),
    (errors.UpstreamProtocolError("x"), True, True, AMBIGUOUS),
    (errors.UpstreamMalformedEvent("x"), True, True, AMBIGUOUS),
    (errors.UpstreamTimeout("x"), False, True, FAILURE),
    (errors.UpstreamConnectTimeout("x"), True, True, FAILURE),
    (UpstreamUnavailable("x", 5), False, True, UNKNOWN),
    (Overloaded("x"), False, True, UNKNOWN),
    *((make_refusal(status), False, False, SUCCESS) for status in (400, 401, 403, 404, 413, 422)),
    (make_refusal(402), False, True, SUCCESS),
    (make_refusal(408), True, True, SUCCESS),
    (make_refusal(409), True, False, SUCCESS),
    (make_refusal(429), True, True, UNKNOWN),
    (make_refusal(429, code="insufficient_quota"), False, True, UNKNOWN),
    (make_refusal(429, code="usage_limit_reached"), False, True, UNKNOWN),
    (make_refusal(429, code="slow_down"), True, True, UNKNOWN),
    (make_refusal(503, code="server_is_overloaded"), True, True, AMBIGUOUS),
    (make_refusal(500, code="context_length_exceeded"), False, False, SUCCESS),
    (make_refusal(500, code="model_not_found"), False, False, SUCCESS),
    *((make_refusal(status), True, True, AMBIGUOUS) for status in (500, 502, 503, 504, 529)),
    (make_refusal(503, x_should_retry="false"), False, True, AMBIGUOUS),
    (make_refusal(400, x_should_retry="true"), True, False, SUCCESS),
]


@check_each(
    ("error", "retry", "fallback", "outcome"),
    TABLE,
    ids=[f"{type(e).__name__}-{e.status}-{i}" for i, (e, *_) in enumerate(TABLE)],
)
def test_failure_is_classified(
    error: ForwarderError, retry: bool, fallback: bool, outcome: Outcome
) -> None:
    assert is_worth_retry(error) is retry
    assert is_worth_fallback(error, own_key=True) is fallback
    assert classify_outcome(error) is outcome


def test_every_error_class_is_classified() -> None:
    kinds = {kind for kind in vars(errors).values() if isinstance(kind, type)}
    listed = {type(error) for error, *_ in TABLE}
    missing = {k for k in kinds if issubclass(k, errors.UpstreamError)} - listed

    assert missing == {errors.UpstreamError}


def test_payment_required_for_a_client_key_is_not_worth_fallback() -> None:
    assert not is_worth_fallback(make_refusal(402), own_key=False)
    assert is_worth_fallback(make_refusal(503), own_key=False)


@check_each(
    ("error", "word"),
    [
        (make_refusal(503, code="whatever a provider writes here"), "503"),
        (errors.UpstreamTimeout("x"), "upstream_timeout"),
        (Overloaded("x"), "overloaded"),
        (errors.InvalidRequest("x"), "invalid_request_error"),
    ],
)
def test_reasons_come_from_a_small_set(error: ForwarderError, word: str) -> None:
    assert get_failure_label(error) == word
    assert describe_failure(error)["reason"] == word


def test_logged_failure_quotes_no_request() -> None:
    refusal = UpstreamRefused(400, {"message": "'my secret plan' is wrong"})
    assert describe_failure(refusal) == {"reason": "400"}
    assert describe_failure(errors.UpstreamTimeout("No answer in 3 s.")) == {
        "reason": "upstream_timeout",
        "detail": "No answer in 3 s.",
    }
