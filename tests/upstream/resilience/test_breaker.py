"""The breaker opens, admits trial requests, and closes."""

from __future__ import annotations

import pytest

from forwarder.upstream.resilience.breaker import (
    CLOSED,
    HALF_OPEN,
    MIN_ANSWERS_FOR_SHARE,
    OPEN,
    CircuitBreaker,
    FailureWindow,
)
from forwarder.upstream.resilience.classify import Outcome
from tests.upstream.resilience.helpers import Clock

SUCCESS, FAILURE, AMBIGUOUS, UNKNOWN = (
    Outcome.SUCCESS,
    Outcome.FAILURE,
    Outcome.AMBIGUOUS_FAILURE,
    Outcome.UNKNOWN,
)


class BreakerSetup:
    """A breaker that opens after three failures, and its state changes."""

    def __init__(self, failures: int = 3, share: float = 0.0) -> None:
        self.clock = Clock()
        self.changes: list[str] = []
        self.breaker = CircuitBreaker(
            failures,
            share,
            window=10,
            cooldown=5,
            on_change=self.changes.append,
            now=self.clock,
        )

    def record(self, *verdicts: Outcome, client: str = "") -> None:
        for verdict in verdicts:
            self.breaker.record_outcome(self.breaker.term, verdict, client)


@pytest.fixture
def closed_breaker() -> BreakerSetup:
    return BreakerSetup()


@pytest.fixture
def open_breaker(closed_breaker: BreakerSetup) -> BreakerSetup:
    closed_breaker.record(FAILURE, FAILURE, FAILURE)
    return closed_breaker


def test_breaker_opens_after_failures_in_a_row(closed_breaker: BreakerSetup) -> None:
    closed_breaker.record(FAILURE, FAILURE)
    assert closed_breaker.breaker.state == CLOSED
    assert closed_breaker.breaker.admit_request()

    closed_breaker.record(FAILURE)

    assert (closed_breaker.breaker.state, closed_breaker.changes) == (OPEN, [OPEN])
    assert not closed_breaker.breaker.admit_request()


def test_breaker_success_resets_the_count_of_failures(closed_breaker: BreakerSetup) -> None:
    closed_breaker.record(FAILURE, FAILURE, SUCCESS, FAILURE, FAILURE)

    assert closed_breaker.breaker.state == CLOSED


def test_breaker_ignores_unknown_outcomes(closed_breaker: BreakerSetup) -> None:
    closed_breaker.record(*[UNKNOWN] * 9, FAILURE, FAILURE, UNKNOWN)
    assert closed_breaker.breaker.state == CLOSED

    closed_breaker.record(FAILURE)

    assert closed_breaker.breaker.state == OPEN


def test_breaker_with_zero_failures_never_opens() -> None:
    setup = BreakerSetup(failures=0)

    setup.record(*[FAILURE] * 1000)

    assert setup.breaker.state == CLOSED
    assert setup.changes == []


def test_breaker_opens_at_the_share_of_failures() -> None:
    setup = BreakerSetup(failures=0, share=0.5)

    setup.record(*[SUCCESS, FAILURE] * (MIN_ANSWERS_FOR_SHARE // 2 - 1), SUCCESS)
    assert setup.breaker.state == CLOSED

    setup.record(FAILURE)
    assert setup.breaker.state == OPEN


def test_breaker_share_restarts_after_closing() -> None:
    setup = BreakerSetup(failures=0, share=0.5)
    setup.record(*[FAILURE] * MIN_ANSWERS_FOR_SHARE)
    setup.clock.advance(5)
    setup.breaker.admit_request()

    setup.record(SUCCESS, FAILURE)

    assert setup.breaker.state == CLOSED


def test_breaker_share_counts_only_the_window() -> None:
    setup = BreakerSetup(failures=0, share=0.5)
    setup.record(*[FAILURE] * (MIN_ANSWERS_FOR_SHARE - 1))
    setup.clock.advance(11)

    setup.record(*[SUCCESS] * MIN_ANSWERS_FOR_SHARE, FAILURE)

    assert setup.breaker.state == CLOSED


def test_open_breaker_refuses_during_the_cooldown(open_breaker: BreakerSetup) -> None:
    open_breaker.clock.advance(4.9)

    assert open_breaker.breaker.remaining_cooldown == pytest.approx(0.1)
    assert not open_breaker.breaker.admit_request()


def test_half_open_breaker_allows_one_trial(open_breaker: BreakerSetup) -> None:
    open_breaker.clock.advance(5)

    assert open_breaker.breaker.state == HALF_OPEN
    assert [open_breaker.breaker.admit_request() for _ in range(3)] == [True, False, False]
    assert open_breaker.changes == [OPEN, HALF_OPEN]


def test_successful_trial_closes_the_breaker(open_breaker: BreakerSetup) -> None:
    open_breaker.clock.advance(5)
    open_breaker.breaker.admit_request()

    open_breaker.record(SUCCESS)

    assert open_breaker.changes == [OPEN, HALF_OPEN, CLOSED]
    assert all(open_breaker.breaker.admit_request() for _ in range(3))
    open_breaker.record(FAILURE, FAILURE)
    assert open_breaker.breaker.state == CLOSED, "earlier failures in a row do not count"


def test_failed_trial_reopens_the_breaker(open_breaker: BreakerSetup) -> None:
    open_breaker.clock.advance(5)
    open_breaker.breaker.admit_request()

    open_breaker.record(FAILURE)

    assert open_breaker.changes == [OPEN, HALF_OPEN, OPEN]
    assert open_breaker.breaker.remaining_cooldown == 5
    open_breaker.clock.advance(5)
    assert open_breaker.breaker.admit_request()


def test_unknown_outcome_of_a_trial_allows_another_trial(open_breaker: BreakerSetup) -> None:
    open_breaker.clock.advance(5)
    open_breaker.breaker.admit_request()

    open_breaker.record(UNKNOWN)

    assert [open_breaker.breaker.admit_request() for _ in range(2)] == [True, False]


def test_slow_trial_allows_another_trial_after_the_cooldown(open_breaker: BreakerSetup) -> None:
    open_breaker.clock.advance(5)
    open_breaker.breaker.admit_request()
    term = open_breaker.breaker.term

    open_breaker.clock.advance(5)

    assert [open_breaker.breaker.admit_request() for _ in range(2)] == [True, False]
    open_breaker.breaker.record_outcome(term, SUCCESS)
    assert open_breaker.breaker.state == CLOSED, "the outcome of the slow trial counts as well"


def test_breaker_ignores_outcomes_of_an_earlier_term(closed_breaker: BreakerSetup) -> None:
    term = closed_breaker.breaker.term
    closed_breaker.record(FAILURE, FAILURE, FAILURE)
    closed_breaker.clock.advance(5)
    closed_breaker.breaker.admit_request()

    closed_breaker.breaker.record_outcome(term, FAILURE)
    closed_breaker.breaker.record_outcome(term, SUCCESS)

    assert closed_breaker.breaker.state == HALF_OPEN


def test_failure_window_forgets_old_outcomes() -> None:
    clock = Clock()
    window = FailureWindow(10, clock)
    for _ in range(MIN_ANSWERS_FOR_SHARE):
        window.record(FAILURE)
        window.record(SUCCESS)
        clock.advance(0.25)
    assert window.compute_failure_share() == 0.5

    clock.advance(8)
    for _ in range(MIN_ANSWERS_FOR_SHARE):
        window.record(SUCCESS)
    assert 0 < window.compute_failure_share() < 0.5

    window.clear()
    assert window.compute_failure_share() == 0


# -- failures that a request may have caused ------------------------------------------------------


def test_ambiguous_failures_of_one_client_do_not_open_the_breaker(
    closed_breaker: BreakerSetup,
) -> None:
    closed_breaker.record(*[AMBIGUOUS] * 50, client="a")

    assert closed_breaker.breaker.state == CLOSED


def test_ambiguous_failures_of_two_clients_open_the_breaker(closed_breaker: BreakerSetup) -> None:
    closed_breaker.record(AMBIGUOUS, AMBIGUOUS, client="a")
    closed_breaker.record(AMBIGUOUS, client="b")

    assert closed_breaker.breaker.state == OPEN


def test_ambiguous_failures_of_one_client_do_not_add_to_other_failures(
    closed_breaker: BreakerSetup,
) -> None:
    closed_breaker.record(*[AMBIGUOUS] * 50, client="a")
    closed_breaker.record(FAILURE, FAILURE)
    assert closed_breaker.breaker.state == CLOSED

    closed_breaker.record(FAILURE)
    assert closed_breaker.breaker.state == OPEN


def test_breaker_success_forgets_the_clients_of_ambiguous_failures(
    closed_breaker: BreakerSetup,
) -> None:
    closed_breaker.record(*[AMBIGUOUS] * 3, client="a")
    closed_breaker.record(SUCCESS, client="a")
    closed_breaker.record(*[AMBIGUOUS] * 3, client="b")

    assert closed_breaker.breaker.state == CLOSED


def test_share_of_ambiguous_failures_needs_two_clients() -> None:
    setup = BreakerSetup(failures=0, share=0.5)
    setup.record(*[SUCCESS] * 10, *[AMBIGUOUS] * 30, client="a")
    assert setup.breaker.state == CLOSED

    setup.clock.advance(2)  # a later slice of the window
    setup.record(AMBIGUOUS, client="b")

    assert setup.breaker.state == OPEN
