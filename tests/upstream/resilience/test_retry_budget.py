"""Retries are earned by requests and by time, and do not pile up."""

from __future__ import annotations

from forwarder.upstream.resilience.retry_budget import (
    MAX_SAVED_RETRIES,
    RETRIES_PER_REQUEST,
    RETRIES_PER_SECOND,
    RetryBudget,
)
from tests.upstream.resilience.helpers import Clock


def count_retries(budget: RetryBudget) -> int:
    """Return the number of available retries."""
    count = 0
    while budget.spend():
        count += 1
    return count


def test_retry_budget_starts_full() -> None:
    assert count_retries(RetryBudget(Clock())) == MAX_SAVED_RETRIES


def test_retry_budget_grows_with_requests() -> None:
    budget = RetryBudget(Clock())
    count_retries(budget)

    for _ in range(20):
        budget.earn()

    assert count_retries(budget) == round(20 * RETRIES_PER_REQUEST)


def test_retry_budget_grows_with_time() -> None:
    clock = Clock()
    budget = RetryBudget(clock)
    count_retries(budget)

    clock.advance(4 / RETRIES_PER_SECOND)

    assert count_retries(budget) == 4


def test_retry_budget_has_a_maximum() -> None:
    clock = Clock()
    budget = RetryBudget(clock)

    clock.advance(86_400)
    for _ in range(1000):
        budget.earn()

    assert count_retries(budget) == MAX_SAVED_RETRIES


def test_retry_budget_limits_retries_to_a_share_of_requests() -> None:
    clock = Clock()
    budget = RetryBudget(clock)
    retries = 0
    for _ in range(10_000):
        clock.advance(0.001)
        budget.earn()
        retries += budget.spend()

    assert retries <= 10_000 * RETRIES_PER_REQUEST + 10 * RETRIES_PER_SECOND + MAX_SAVED_RETRIES
