"""The deadline timer, against real time."""

from __future__ import annotations

import time
from collections.abc import Iterator

import gevent
import pytest

from forwarder.upstream.transport.deadline_timer import DeadlineTimer


@pytest.fixture
def alarm() -> Iterator[DeadlineTimer]:
    alarm = DeadlineTimer()
    yield alarm
    alarm.close()


def measure_wait(alarm: DeadlineTimer, limit: float, seconds: float) -> float | None:
    """Return the time until the timer ended a wait of ``seconds``, or None if it did not."""
    started = time.monotonic()
    alarm.start_wait(limit)
    try:
        gevent.sleep(seconds)
    except TimeoutError:
        return time.monotonic() - started
    finally:
        alarm.end_wait()
    return None


def test_an_alarm_ends_a_wait_that_takes_too_long(alarm: DeadlineTimer) -> None:
    for _ in range(2):
        assert measure_wait(alarm, 0.05, 2) == pytest.approx(0.05, abs=0.04)


def test_an_alarm_counts_each_wait_by_itself(alarm: DeadlineTimer) -> None:
    assert [measure_wait(alarm, 0.1, 0.03) for _ in range(8)] == [None] * 8
    assert measure_wait(alarm, 0.1, 2) == pytest.approx(0.1, abs=0.05)


def test_an_alarm_does_not_ring_between_waits(alarm: DeadlineTimer) -> None:
    assert measure_wait(alarm, 0.03, 0) is None
    gevent.sleep(0.06)
    assert measure_wait(alarm, 0.03, 2) == pytest.approx(0.03, abs=0.3)


def test_an_alarm_takes_a_shorter_limit_at_once(alarm: DeadlineTimer) -> None:
    assert measure_wait(alarm, 5, 0) is None
    assert measure_wait(alarm, 0.03, 2) == pytest.approx(0.03, abs=0.3)


def test_an_alarm_that_is_closed_does_not_ring(alarm: DeadlineTimer) -> None:
    alarm.start_wait(0.02)
    alarm.close()
    gevent.sleep(0.05)
