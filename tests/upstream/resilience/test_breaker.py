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

WELL, ILL, FAILED, UNKNOWN = (
    Outcome.SUCCESS,
    Outcome.FAILURE,
    Outcome.AMBIGUOUS_FAILURE,
    Outcome.UNKNOWN,
)


class Made:
    """A breaker that opens after three failures, and its state changes."""

    def __init__(self, failures: int = 3, share: float = 0.0) -> None:
        self.clock = Clock()
        self.told: list[str] = []
        self.breaker = CircuitBreaker(
            failures,
            share,
            window=10,
            cooldown=5,
            on_change=self.told.append,
            now=self.clock,
        )

    def note(self, *verdicts: Outcome, client: str = "") -> None:
        for verdict in verdicts:
            self.breaker.record_outcome(self.breaker.term, verdict, client)


@pytest.fixture
def closed_breaker() -> Made:
    return Made()


@pytest.fixture
def open_breaker(closed_breaker: Made) -> Made:
    closed_breaker.note(ILL, ILL, ILL)
    return closed_breaker


def test_breaker_opens_after_failures_in_a_row(closed_breaker: Made) -> None:
    closed_breaker.note(ILL, ILL)
    assert closed_breaker.breaker.state == CLOSED
    assert closed_breaker.breaker.admit_request()

    closed_breaker.note(ILL)

    assert (closed_breaker.breaker.state, closed_breaker.told) == (OPEN, [OPEN])
    assert not closed_breaker.breaker.admit_request()


def test_breaker_success_resets_the_count_of_failures(closed_breaker: Made) -> None:
    closed_breaker.note(ILL, ILL, WELL, ILL, ILL)

    assert closed_breaker.breaker.state == CLOSED


def test_breaker_ignores_unknown_outcomes(closed_breaker: Made) -> None:
    closed_breaker.note(*[UNKNOWN] * 9, ILL, ILL, UNKNOWN)
    assert closed_breaker.breaker.state == CLOSED

    closed_breaker.note(ILL)

    assert closed_breaker.breaker.state == OPEN


def test_breaker_with_zero_failures_never_opens() -> None:
    made = Made(failures=0)

    made.note(*[ILL] * 1000)

    assert made.breaker.state == CLOSED
    assert made.told == []


def test_breaker_opens_at_the_share_of_failures() -> None:
    made = Made(failures=0, share=0.5)

    made.note(*[WELL, ILL] * (MIN_ANSWERS_FOR_SHARE // 2 - 1), WELL)
    assert made.breaker.state == CLOSED

    made.note(ILL)
    assert made.breaker.state == OPEN


def test_breaker_share_restarts_after_closing() -> None:
    made = Made(failures=0, share=0.5)
    made.note(*[ILL] * MIN_ANSWERS_FOR_SHARE)
    made.clock.pass_(5)
    made.breaker.admit_request()

    made.note(WELL, ILL)

    assert made.breaker.state == CLOSED


def test_breaker_share_counts_only_the_window() -> None:
    made = Made(failures=0, share=0.5)
    made.note(*[ILL] * (MIN_ANSWERS_FOR_SHARE - 1))
    made.clock.pass_(11)

    made.note(*[WELL] * MIN_ANSWERS_FOR_SHARE, ILL)

    assert made.breaker.state == CLOSED


def test_open_breaker_refuses_during_the_cooldown(open_breaker: Made) -> None:
    open_breaker.clock.pass_(4.9)

    assert open_breaker.breaker.remaining_cooldown == pytest.approx(0.1)
    assert not open_breaker.breaker.admit_request()


def test_half_open_breaker_allows_one_trial(open_breaker: Made) -> None:
    open_breaker.clock.pass_(5)

    assert open_breaker.breaker.state == HALF_OPEN
    assert [open_breaker.breaker.admit_request() for _ in range(3)] == [True, False, False]
    assert open_breaker.told == [OPEN, HALF_OPEN]


def test_successful_trial_closes_the_breaker(open_breaker: Made) -> None:
    open_breaker.clock.pass_(5)
    open_breaker.breaker.admit_request()

    open_breaker.note(WELL)

    assert open_breaker.told == [OPEN, HALF_OPEN, CLOSED]
    assert all(open_breaker.breaker.admit_request() for _ in range(3))
    open_breaker.note(ILL, ILL)
    assert open_breaker.breaker.state == CLOSED, "the row from before counts no more"


def test_failed_trial_reopens_the_breaker(open_breaker: Made) -> None:
    open_breaker.clock.pass_(5)
    open_breaker.breaker.admit_request()

    open_breaker.note(ILL)

    assert open_breaker.told == [OPEN, HALF_OPEN, OPEN]
    assert open_breaker.breaker.remaining_cooldown == 5
    open_breaker.clock.pass_(5)
    assert open_breaker.breaker.admit_request()


def test_unknown_outcome_of_a_trial_allows_another_trial(open_breaker: Made) -> None:
    open_breaker.clock.pass_(5)
    open_breaker.breaker.admit_request()

    open_breaker.note(UNKNOWN)

    assert [open_breaker.breaker.admit_request() for _ in range(2)] == [True, False]


def test_slow_trial_allows_another_trial_after_the_cooldown(open_breaker: Made) -> None:
    open_breaker.clock.pass_(5)
    open_breaker.breaker.admit_request()
    term = open_breaker.breaker.term

    open_breaker.clock.pass_(5)

    assert [open_breaker.breaker.admit_request() for _ in range(2)] == [True, False]
    open_breaker.breaker.record_outcome(term, WELL)
    assert open_breaker.breaker.state == CLOSED, "the slow one counts as well"


def test_breaker_ignores_outcomes_of_an_earlier_term(closed_breaker: Made) -> None:
    term = closed_breaker.breaker.term
    closed_breaker.note(ILL, ILL, ILL)
    closed_breaker.clock.pass_(5)
    closed_breaker.breaker.admit_request()

    closed_breaker.breaker.record_outcome(term, ILL)
    closed_breaker.breaker.record_outcome(term, WELL)

    assert closed_breaker.breaker.state == HALF_OPEN


def test_failure_window_forgets_old_outcomes() -> None:
    clock = Clock()
    recent = FailureWindow(10, clock)
    for _ in range(MIN_ANSWERS_FOR_SHARE):
        recent.record(ILL)
        recent.record(WELL)
        clock.pass_(0.25)
    assert recent.compute_failure_share() == 0.5

    clock.pass_(8)
    for _ in range(MIN_ANSWERS_FOR_SHARE):
        recent.record(WELL)
    assert 0 < recent.compute_failure_share() < 0.5

    recent.clear()
    assert recent.compute_failure_share() == 0


# -- failures that a request may have caused ------------------------------------------------------


def test_ambiguous_failures_of_one_client_do_not_open_the_breaker(closed_breaker: Made) -> None:
    closed_breaker.note(*[FAILED] * 50, client="a")

    assert closed_breaker.breaker.state == CLOSED


def test_ambiguous_failures_of_two_clients_open_the_breaker(closed_breaker: Made) -> None:
    closed_breaker.note(FAILED, FAILED, client="a")
    closed_breaker.note(FAILED, client="b")

    assert closed_breaker.breaker.state == OPEN


def test_ambiguous_failures_of_one_client_do_not_add_to_other_failures(
    closed_breaker: Made,
) -> None:
    closed_breaker.note(*[FAILED] * 50, client="a")
    closed_breaker.note(ILL, ILL)
    assert closed_breaker.breaker.state == CLOSED

    closed_breaker.note(ILL)
    assert closed_breaker.breaker.state == OPEN


def test_breaker_success_forgets_the_clients_of_ambiguous_failures(closed_breaker: Made) -> None:
    closed_breaker.note(*[FAILED] * 3, client="a")
    closed_breaker.note(WELL, client="a")
    closed_breaker.note(*[FAILED] * 3, client="b")

    assert closed_breaker.breaker.state == CLOSED


def test_share_of_ambiguous_failures_needs_two_clients() -> None:
    made = Made(failures=0, share=0.5)
    made.note(*[WELL] * 10, *[FAILED] * 30, client="a")
    assert made.breaker.state == CLOSED

    made.clock.pass_(2)  # a later slice of the window
    made.note(FAILED, client="b")

    assert made.breaker.state == OPEN
