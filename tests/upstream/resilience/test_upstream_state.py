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
    PatientContext,
    RecordingObserver,
    make_patient_context,
    make_upstream_settings,
)

BUSY = UpstreamRefused(503, {"message": "busy"})
UNREACHABLE = UpstreamUnreachable("gone")


class ScriptedHandler:
    """A handler that raises these errors in order and then answers."""

    def __init__(self, *failures: ForwarderError) -> None:
        self.failures = list(failures)
        self.call_count = 0

    def __call__(self, request: dict[str, Any]) -> EventStream:
        self.call_count += 1
        if self.failures:
            raise self.failures.pop(0)
        return iter([[{"answer": request}]])


class StateSetup:
    """An upstream state with its clock and observer."""

    def __init__(self, **environment: str) -> None:
        self.clock = Clock()
        self.observer = RecordingObserver()
        self.state = UpstreamState(
            make_upstream_settings(**environment), self.observer, self.clock, chance=lambda: 0
        )

    def send(self, call: ScriptedHandler, context: PatientContext | None = None) -> list[Any]:
        with_retries = self.state.with_retries(call, context or make_patient_context(self.clock))
        return list(with_retries({"a": 1}))


ANSWER = [[{"answer": {"a": 1}}]]


def test_success_is_not_retried() -> None:
    setup, call = StateSetup(MAX_RETRIES="5"), ScriptedHandler()

    assert setup.send(call) == ANSWER
    assert (call.call_count, setup.observer.notifications) == (1, [])


def test_temporary_failure_is_retried() -> None:
    setup, call = StateSetup(MAX_RETRIES="2"), ScriptedHandler(BUSY, UpstreamUnreachable("gone"))
    context = make_patient_context(setup.clock)
    context.reply_headers = {"x-upstream-request-id": "of the first"}

    assert setup.send(call, context) == ANSWER

    assert context.pauses == [0.5, 1.0]
    assert context.retries == 2
    assert context.reply_headers == {}
    assert setup.observer.notifications == [
        ("retried", "up", "503"),
        ("retried", "up", "upstream_unreachable"),
    ]
    assert setup.state.counts["retries"] == 2


@check_each("retries", [0, 1, 3])
def test_last_failure_is_raised_after_the_last_retry(retries: int) -> None:
    setup = StateSetup(MAX_RETRIES=str(retries))
    last = UpstreamRefused(502, {"message": "the last"})
    call = ScriptedHandler(*[BUSY] * retries, last)

    with pytest.raises(UpstreamRefused) as raised:
        setup.send(call)

    assert raised.value is last
    assert call.call_count == retries + 1


@check_each("error", [InvalidRequest("no"), UpstreamTimeout("late")])
def test_permanent_failure_is_not_retried(error: ForwarderError) -> None:
    setup, call = StateSetup(MAX_RETRIES="5"), ScriptedHandler(error)

    with pytest.raises(type(error)):
        setup.send(call)

    assert call.call_count == 1


def test_retry_after_of_the_upstream_is_respected() -> None:
    setup = StateSetup(MAX_RETRIES="1", RETRY_WAIT="10")
    context = make_patient_context(setup.clock)
    limited = UpstreamRefused(429, {"message": "slow"}, {"retry-after": "7"})

    assert setup.send(ScriptedHandler(limited), context) == ANSWER

    assert context.pauses == [7.0]


def test_too_long_retry_after_is_passed_to_the_client() -> None:
    setup = StateSetup(MAX_RETRIES="5", RETRY_WAIT="10")
    context = make_patient_context(setup.clock)
    limited = UpstreamRefused(429, {"message": "slow"}, {"retry-after": "60"})

    with pytest.raises(UpstreamRefused) as raised:
        setup.send(ScriptedHandler(limited), context)

    assert raised.value.headers == {"retry-after": "60"}
    assert context.pauses == []


def test_disconnect_during_the_pause_stops_retries() -> None:
    setup, call = StateSetup(MAX_RETRIES="5"), ScriptedHandler(BUSY, BUSY)
    context = make_patient_context(setup.clock, leaves_after=0.2)

    with pytest.raises(UpstreamRefused):
        setup.send(call, context)

    assert call.call_count == 1


def test_disconnect_does_not_count_as_a_failure() -> None:
    setup = StateSetup(MAX_RETRIES="5", BREAKER_FAILURES="1")
    context = make_patient_context(setup.clock)
    context.cancel()
    call = ScriptedHandler(UpstreamUnreachable("closed"))

    with pytest.raises(UpstreamUnreachable):
        setup.send(call, context)

    assert call.call_count == 1
    assert setup.observer.notifications == []
    assert setup.state.breaker.state == CLOSED


def test_retries_stop_when_the_breaker_opens() -> None:
    setup = StateSetup(MAX_RETRIES="5", BREAKER_FAILURES="2")
    call = ScriptedHandler(*[UNREACHABLE] * 9)

    with pytest.raises(UpstreamUnreachable):
        setup.send(call)

    assert call.call_count == 2
    assert setup.state.breaker.state == OPEN


def test_retries_of_all_requests_together_are_bounded() -> None:
    setup = StateSetup(MAX_RETRIES="5", RETRY_WAIT="100", BREAKER_FAILURES="0", BREAKER_SHARE="0")
    failing = ScriptedHandler(*[BUSY] * 10_000)
    clock = Clock()  # pauses of one request do not refill the shared budget
    for _ in range(100):
        with pytest.raises(UpstreamRefused):
            setup.send(failing, make_patient_context(clock))

    assert failing.call_count <= 100 * 1.2 + 10


def test_any_work_can_be_retried() -> None:
    setup = StateSetup(MAX_RETRIES="1")
    results: list[Callable[[], str]] = [_busy, lambda: "file-1"]

    assert (
        setup.state.run_with_retries(lambda: results.pop(0)(), make_patient_context(setup.clock))
        == "file-1"
    )


def _busy() -> str:
    raise BUSY


# -- admitted requests ----------------------------------------------------------------------------


def test_concurrency_limit_of_an_upstream() -> None:
    setup = StateSetup(MAX_CONCURRENT="1")
    slot = setup.state.admit_request()

    with pytest.raises(Overloaded) as refused:
        setup.state.admit_request()

    assert (refused.value.status, refused.value.code) == (503, "overloaded")
    assert refused.value.headers == {"retry-after": "1"}
    assert setup.observer.notifications == [("refused", "overloaded", "up")]
    slot.close()
    setup.state.admit_request()


def make_open_state(**environment: str) -> StateSetup:
    setup = StateSetup(BREAKER_FAILURES="1", BREAKER_COOLDOWN="4.2", **environment)
    with pytest.raises(UpstreamUnreachable):
        setup.send(ScriptedHandler(UNREACHABLE))
    return setup


def test_open_breaker_refuses_with_retry_after() -> None:
    setup = make_open_state(MAX_CONCURRENT="1")

    for _ in range(3):  # refused requests release their slot
        with pytest.raises(UpstreamUnavailable) as refused:
            setup.state.admit_request()

    assert (refused.value.status, refused.value.code) == (503, "upstream_unavailable")
    assert refused.value.headers == {"retry-after": "5"}
    assert setup.observer.notifications[0] == ("breaker", "up", "open")
    assert setup.state.concurrency_limit.in_use == 0


def test_trial_request_decides_the_breaker() -> None:
    setup = make_open_state()
    setup.clock.advance(5)
    slot = setup.state.admit_request()
    with pytest.raises(UpstreamUnavailable):
        setup.state.admit_request()

    setup.send(ScriptedHandler())
    slot.close()

    assert setup.state.breaker.state == CLOSED


def test_trial_that_ends_without_a_call_permits_another() -> None:
    setup = make_open_state()
    setup.clock.advance(5)

    setup.state.admit_request().close()

    setup.state.admit_request()


def test_refused_trial_request_closes_the_breaker() -> None:
    setup = make_open_state()
    setup.clock.advance(5)
    setup.state.admit_request()

    with pytest.raises(UpstreamRefused):
        setup.send(ScriptedHandler(UpstreamRefused(400, {"message": "no"})))

    assert setup.state.breaker.state == CLOSED


def test_describe_shows_state_and_counters() -> None:
    setup = StateSetup(MAX_RETRIES="1", MAX_CONCURRENT="1")
    setup.send(ScriptedHandler(BUSY))
    setup.state.admit_request()
    with pytest.raises(Overloaded):
        setup.state.admit_request()

    assert setup.state.describe() == {
        "breaker": "closed",
        "concurrent": 1,
        "attempts": 2,
        "failures": 1,
        "refused": 1,
        "retries": 1,
    }


# -- failures that open the breaker ---------------------------------------------------------------


def fail_repeatedly(setup: StateSetup, error: ForwarderError, times: int, key: str = "") -> None:
    """Fail ``times`` requests of one client."""
    for _ in range(times):
        context = make_patient_context(setup.clock)
        context.client_key = key
        with pytest.raises(type(error)):
            setup.send(ScriptedHandler(error), context)


ANSWERED_BADLY = [
    *(UpstreamRefused(status, {"message": "no"}) for status in (500, 502, 503, 529)),
    UpstreamProtocolError("The stream ended before its answer was finished."),
]
every_bad_answer = check_each("error", ANSWERED_BADLY)
every_silence = check_each(
    "error", [UNREACHABLE, UpstreamTimeout("late"), UpstreamConnectTimeout("late")]
)

WITH_FALLBACK = {"FALLBACK": "other"}


@every_bad_answer
def test_without_a_fallback_bad_answers_open_no_breaker(error: ForwarderError) -> None:
    setup = StateSetup(BREAKER_FAILURES="3", BREAKER_SHARE="0.5")

    for key in ("a", "b", "c"):
        fail_repeatedly(setup, error, 30, key)

    assert setup.state.breaker.state == CLOSED
    assert setup.state.counts["failures"] == 90


@every_silence
@check_each("environment", [{}, WITH_FALLBACK], ids=["alone", "fallback"])
def test_connection_failures_and_timeouts_open_the_breaker_for_any_client(
    error: ForwarderError, environment: dict[str, str]
) -> None:
    setup = StateSetup(BREAKER_FAILURES="3", **environment)

    fail_repeatedly(setup, error, 3)

    assert setup.state.breaker.state == OPEN


@every_bad_answer
def test_with_a_fallback_bad_answers_to_one_client_open_no_breaker(error: ForwarderError) -> None:
    setup = StateSetup(BREAKER_FAILURES="3", BREAKER_SHARE="0.5", **WITH_FALLBACK)

    fail_repeatedly(setup, error, 40, "a")
    assert setup.state.breaker.state == CLOSED

    fail_repeatedly(setup, error, 1, "b")
    assert setup.state.breaker.state == OPEN


@every_bad_answer
def test_bad_answer_to_a_trial_closes_the_breaker_without_fallback(error: ForwarderError) -> None:
    """A bad answer shows that the upstream can be reached again."""
    setup = make_open_state()
    setup.clock.advance(5)
    setup.state.admit_request()

    fail_repeatedly(setup, error, 1)

    assert setup.state.breaker.state == CLOSED


def test_endpoint_is_retried_only_after_the_answer_has_begun() -> None:
    setup = StateSetup(MAX_RETRIES="2", API_KEY="k1,k2")
    before, after = make_patient_context(setup.clock), make_patient_context(setup.clock)
    after.first_event_at = 1.0

    with pytest.raises(UpstreamRefused):
        setup.send(ScriptedHandler(BUSY), before)
    assert setup.send(ScriptedHandler(BUSY), after) == ANSWER

    assert (before.pauses, after.pauses) == ([], [0.5])
