"""Retries are earned by requests and by time, and do not pile up."""

from __future__ import annotations

from forwarder.upstream.resilience.retry_budget import FLOOR, MOST, SHARE, Budget
from tests.upstream.resilience.helpers import Clock


def spent(budget: Budget) -> int:
    """How many retries there are."""
    count = 0
    while budget.spend():
        count += 1
    return count


def test_it_begins_full() -> None:
    assert spent(Budget(Clock())) == MOST


def test_requests_earn_their_share() -> None:
    budget = Budget(Clock())
    spent(budget)

    for _ in range(20):
        budget.earn()

    assert spent(budget) == round(20 * SHARE)


def test_time_earns_a_few() -> None:
    clock = Clock()
    budget = Budget(clock)
    spent(budget)

    clock.pass_(4 / FLOOR)

    assert spent(budget) == 4


def test_no_more_is_saved_than_a_burst() -> None:
    clock = Clock()
    budget = Budget(clock)

    clock.pass_(86_400)
    for _ in range(1000):
        budget.earn()

    assert spent(budget) == MOST


def test_in_a_storm_retries_are_a_fifth_of_the_requests() -> None:
    clock = Clock()
    budget = Budget(clock)
    retries = 0
    for _ in range(10_000):
        clock.pass_(0.001)
        budget.earn()
        retries += budget.spend()

    assert retries <= 10_000 * SHARE + 10 * FLOOR + MOST
