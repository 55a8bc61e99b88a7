"""Slots are limited, and freed exactly once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from forwarder.upstream.resilience.concurrency_limit import ConcurrencyLimit


def test_concurrency_limit_gives_the_configured_number_of_slots() -> None:
    slots = ConcurrencyLimit(2)

    assert [slots.acquire() is not None for _ in range(3)] == [True, True, False]
    assert slots.in_use == 2


def test_concurrency_without_limit_is_only_counted() -> None:
    slots = ConcurrencyLimit(None)

    assert all(slots.acquire() for _ in range(50))
    assert slots.in_use == 50


def test_released_slot_can_be_acquired_again() -> None:
    slots = ConcurrencyLimit(1)
    free = slots.acquire()
    assert free is not None

    free()

    assert slots.in_use == 0
    assert slots.acquire() is not None


def test_slot_is_released_only_once() -> None:
    slots = ConcurrencyLimit(2)
    first, second = slots.acquire(), slots.acquire()
    assert first is not None
    assert second is not None

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: first(), range(64)))

    assert slots.in_use == 1
