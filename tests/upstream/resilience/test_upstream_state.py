"""The state of one upstream: retries, counters, admission."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from forwarder.core.errors import (
    ForwarderError,
    InvalidRequest,
    Overloaded,
    UpstreamConnectTimeout,
    UpstreamProtocolError,
    UpstreamRefused,
    UpstreamTimeout,
    UpstreamUnavailable,
    UpstreamUnreachable,
)
from forwarder.core.types import EventStream
from forwarder.upstream.resilience import UpstreamState
from forwarder.upstream.resilience.breaker import CLOSED, OPEN
from tests.helpers.check_cases import check_each
from tests.upstream.resilience.helpers import (
    Clock,
    Patient,
    Witness,
    make_patient_context,
    make_upstream_settings,
)

BUSY = UpstreamRefused(503, {"message": "busy"})
GONE = UpstreamUnreachable("gone")


class Scripted:
    """A handler that raises these errors in order and then answers."""

    def __init__(self, *failures: ForwarderError) -> None:
        self.failures = list(failures)
        self.asked = 0

    def __call__(self, request: dict[str, Any]) -> EventStream:
        self.asked += 1
        if self.failures:
            raise self.failures.pop(0)
        return iter([[{"answer": request}]])


class Stood:
    """An upstream state with its clock and observer."""

    def __init__(self, **environment: str) -> None:
        self.clock = Clock()
        self.witness = Witness()
        self.standing = UpstreamState(
            make_upstream_settings(**environment), self.witness, self.clock, chance=lambda: 0
        )

    def ask(self, call: Scripted, context: Patient | None = None) -> list[Any]:
        steady = self.standing.with_retries(call, context or make_patient_context(self.clock))
        return list(steady({"a": 1}))


ANSWER = [[{"answer": {"a": 1}}]]


def test_success_is_not_retried() -> None:
    stood, call = Stood(MAX_RETRIES="5"), Scripted()

    assert stood.ask(call) == ANSWER
    assert (call.asked, stood.witness.heard) == (1, [])


def test_temporary_failure_is_retried() -> None:
    stood, call = Stood(MAX_RETRIES="2"), Scripted(BUSY, UpstreamUnreachable("gone"))
    context = make_patient_context(stood.clock)
    context.reply_headers = {"x-upstream-request-id": "of the first"}

    assert stood.ask(call, context) == ANSWER

    assert context.pauses == [0.5, 1.0]
    assert context.retries == 2
    assert context.reply_headers == {}
    assert stood.witness.heard == [
        ("retried", "up", "503"),
        ("retried", "up", "upstream_unreachable"),
    ]
    assert stood.standing.counts["retries"] == 2


@check_each("retries", [0, 1, 3])
def test_last_failure_is_raised_after_the_last_retry(retries: int) -> None:
    stood = Stood(MAX_RETRIES=str(retries))
    last = UpstreamRefused(502, {"message": "the last"})
    call = Scripted(*[BUSY] * retries, last)

    with pytest.raises(UpstreamRefused) as raised:
        stood.ask(call)

    assert raised.value is last
    assert call.asked == retries + 1


@check_each("error", [InvalidRequest("no"), UpstreamTimeout("late")])
def test_permanent_failure_is_not_retried(error: ForwarderError) -> None:
    stood, call = Stood(MAX_RETRIES="5"), Scripted(error)

    with pytest.raises(type(error)):
        stood.ask(call)

    assert call.asked == 1


def test_retry_after_of_the_upstream_is_respected() -> None:
    stood = Stood(MAX_RETRIES="1", RETRY_WAIT="10")
    context = make_patient_context(stood.clock)
    limited = UpstreamRefused(429, {"message": "slow"}, {"retry-after": "7"})

    assert stood.ask(Scripted(limited), context) == ANSWER

    assert context.pauses == [7.0]


def test_too_long_retry_after_is_passed_to_the_client() -> None:
    stood = Stood(MAX_RETRIES="5", RETRY_WAIT="10")
    context = make_patient_context(stood.clock)
    limited = UpstreamRefused(429, {"message": "slow"}, {"retry-after": "60"})

    with pytest.raises(UpstreamRefused) as raised:
        stood.ask(Scripted(limited), context)

    assert raised.value.headers == {"retry-after": "60"}
    assert context.pauses == []


def test_disconnect_during_the_pause_stops_retries() -> None:
    stood, call = Stood(MAX_RETRIES="5"), Scripted(BUSY, BUSY)
    context = make_patient_context(stood.clock, leaves_after=0.2)

    with pytest.raises(UpstreamRefused):
        stood.ask(call, context)

    assert call.asked == 1


def test_disconnect_does_not_count_as_a_failure() -> None:
    stood = Stood(MAX_RETRIES="5", BREAKER_FAILURES="1")
    context = make_patient_context(stood.clock)
    context.cancel()
    call = Scripted(UpstreamUnreachable("closed"))

    with pytest.raises(UpstreamUnreachable):
        stood.ask(call, context)

    assert call.asked == 1
    assert stood.witness.heard == []
    assert stood.standing.breaker.state == CLOSED


def test_retries_stop_when_the_breaker_opens() -> None:
    stood = Stood(MAX_RETRIES="5", BREAKER_FAILURES="2")
    call = Scripted(*[GONE] * 9)

    with pytest.raises(UpstreamUnreachable):
        stood.ask(call)

    assert call.asked == 2
    assert stood.standing.breaker.state == OPEN


def test_retries_of_all_requests_together_are_bounded() -> None:
    stood = Stood(MAX_RETRIES="5", RETRY_WAIT="100", BREAKER_FAILURES="0", BREAKER_SHARE="0")
    failing = Scripted(*[BUSY] * 10_000)
    clock = Clock()  # the pauses of one request do not refill the budget of all
    for _ in range(100):
        with pytest.raises(UpstreamRefused):
            stood.ask(failing, make_patient_context(clock))

    assert failing.asked <= 100 * 1.2 + 10


def test_any_work_can_be_retried() -> None:
    stood = Stood(MAX_RETRIES="1")
    results: list[Callable[[], str]] = [_busy, lambda: "file-1"]

    assert (
        stood.standing.run_with_retries(lambda: results.pop(0)(), make_patient_context(stood.clock))
        == "file-1"
    )


def _busy() -> str:
    raise BUSY


# -- admitted requests ----------------------------------------------------------------------------


def test_concurrency_limit_of_an_upstream() -> None:
    stood = Stood(MAX_CONCURRENT="1")
    held = stood.standing.admit_request()

    with pytest.raises(Overloaded) as refused:
        stood.standing.admit_request()

    assert (refused.value.status, refused.value.code) == (503, "overloaded")
    assert refused.value.headers == {"retry-after": "1"}
    assert stood.witness.heard == [("refused", "overloaded", "up")]
    held.close()
    stood.standing.admit_request()


def make_open_state(**environment: str) -> Stood:
    stood = Stood(BREAKER_FAILURES="1", BREAKER_COOLDOWN="4.2", **environment)
    with pytest.raises(UpstreamUnreachable):
        stood.ask(Scripted(GONE))
    return stood


def test_open_breaker_refuses_with_retry_after() -> None:
    stood = make_open_state(MAX_CONCURRENT="1")

    for _ in range(3):  # and no slot is lost over it
        with pytest.raises(UpstreamUnavailable) as refused:
            stood.standing.admit_request()

    assert (refused.value.status, refused.value.code) == (503, "upstream_unavailable")
    assert refused.value.headers == {"retry-after": "5"}
    assert stood.witness.heard[0] == ("breaker", "up", "open")
    assert stood.standing.concurrency_limit.in_use == 0


def test_trial_request_decides_the_breaker() -> None:
    stood = make_open_state()
    stood.clock.pass_(5)
    held = stood.standing.admit_request()
    with pytest.raises(UpstreamUnavailable):
        stood.standing.admit_request()

    stood.ask(Scripted())
    held.close()

    assert stood.standing.breaker.state == CLOSED


def test_trial_that_ends_without_a_call_permits_another() -> None:
    stood = make_open_state()
    stood.clock.pass_(5)

    stood.standing.admit_request().close()

    stood.standing.admit_request()


def test_refused_trial_request_closes_the_breaker() -> None:
    stood = make_open_state()
    stood.clock.pass_(5)
    stood.standing.admit_request()

    with pytest.raises(UpstreamRefused):
        stood.ask(Scripted(UpstreamRefused(400, {"message": "no"})))

    assert stood.standing.breaker.state == CLOSED


def test_describe_shows_state_and_counters() -> None:
    stood = Stood(MAX_RETRIES="1", MAX_CONCURRENT="1")
    stood.ask(Scripted(BUSY))
    stood.standing.admit_request()
    with pytest.raises(Overloaded):
        stood.standing.admit_request()

    assert stood.standing.describe() == {
        "breaker": "closed",
        "concurrent": 1,
        "attempts": 2,
        "failures": 1,
        "refused": 1,
        "retries": 1,
    }


# -- failures that open the breaker ---------------------------------------------------------------


def failing(stood: Stood, error: ForwarderError, times: int, key: str = "") -> None:
    """Fail ``times`` requests of one client."""
    for _ in range(times):
        context = make_patient_context(stood.clock)
        context.client_key = key
        with pytest.raises(type(error)):
            stood.ask(Scripted(error), context)


ANSWERED_BADLY = [
    *(UpstreamRefused(status, {"message": "no"}) for status in (500, 502, 503, 529)),
    UpstreamProtocolError("The stream ended before its answer was finished."),
]
every_bad_answer = check_each("error", ANSWERED_BADLY)
every_silence = check_each("error", [GONE, UpstreamTimeout("late"), UpstreamConnectTimeout("late")])

WITH_FALLBACK = {"FALLBACK": "other"}


@every_bad_answer
def test_without_a_fallback_bad_answers_open_no_breaker(error: ForwarderError) -> None:
    stood = Stood(BREAKER_FAILURES="3", BREAKER_SHARE="0.5")

    for key in ("a", "b", "c"):
        failing(stood, error, 30, key)

    assert stood.standing.breaker.state == CLOSED
    assert stood.standing.counts["failures"] == 90


@every_silence
@check_each("environment", [{}, WITH_FALLBACK], ids=["alone", "fallback"])
def test_connection_failures_and_timeouts_open_the_breaker_for_any_client(
    error: ForwarderError, environment: dict[str, str]
) -> None:
    stood = Stood(BREAKER_FAILURES="3", **environment)

    failing(stood, error, 3)

    assert stood.standing.breaker.state == OPEN


@every_bad_answer
def test_with_a_fallback_bad_answers_to_one_client_open_no_breaker(error: ForwarderError) -> None:
    stood = Stood(BREAKER_FAILURES="3", BREAKER_SHARE="0.5", **WITH_FALLBACK)

    failing(stood, error, 40, "a")
    assert stood.standing.breaker.state == CLOSED

    failing(stood, error, 1, "b")
    assert stood.standing.breaker.state == OPEN


@every_bad_answer
def test_bad_answer_to_a_trial_closes_the_breaker_without_fallback(error: ForwarderError) -> None:
    """It shows that the upstream can be reached again."""
    stood = make_open_state()
    stood.clock.pass_(5)
    stood.standing.admit_request()

    failing(stood, error, 1)

    assert stood.standing.breaker.state == CLOSED


def test_endpoint_is_retried_only_after_the_answer_has_begun() -> None:
    stood = Stood(MAX_RETRIES="2", API_KEY="k1,k2")
    before, after = make_patient_context(stood.clock), make_patient_context(stood.clock)
    after.first_event_at = 1.0

    with pytest.raises(UpstreamRefused):
        stood.ask(Scripted(BUSY), before)
    assert stood.ask(Scripted(BUSY), after) == ANSWER

    assert (before.pauses, after.pauses) == ([], [0.5])
