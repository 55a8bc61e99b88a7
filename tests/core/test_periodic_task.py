"""Repeated background work: its beginning, its pauses and its end."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from forwarder.core import periodic_task
from forwarder.core.periodic_task import PeriodicTask
from tests.helpers.check_cases import check_each


def wait_until(is_true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 5
    while not is_true():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def test_the_constructor_starts_nothing() -> None:
    before = threading.active_count()
    PeriodicTask(list, lambda: 0.0)
    assert threading.active_count() == before


@check_each(("runs_at_once", "runs"), [(True, 1), (False, 0)])
def test_first_run_begins_at_once_or_after_a_pause(runs_at_once: bool, runs: int) -> None:
    done: list[float] = []
    pauses: list[float] = []

    def next_pause() -> float:
        pauses.append(len(done))
        return 60.0

    task = PeriodicTask(lambda: done.append(1), next_pause, runs_at_once)
    task.start()
    wait_until(lambda: bool(pauses))
    task.stop()

    assert (len(done), pauses) == (runs, [runs])


def test_work_is_repeated_until_the_task_is_stopped() -> None:
    done: list[int] = []
    task = PeriodicTask(lambda: done.append(1), lambda: 0.001)
    before = threading.active_count()
    task.start()
    task.start()
    assert threading.active_count() == before + 1
    wait_until(lambda: len(done) > 3)
    task.stop()
    task.stop()
    assert threading.active_count() == before
    count = len(done)
    time.sleep(0.02)
    assert len(done) == count


def test_a_stopped_task_can_be_started_again() -> None:
    done: list[int] = []
    task = PeriodicTask(lambda: done.append(1), lambda: 60.0, runs_at_once=True)
    for count in (1, 2):
        task.start()
        wait_until(lambda count=count: len(done) == count)
        task.stop()


def test_stop_waits_only_briefly_for_running_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(periodic_task, "STOP_SECONDS", 0.05)
    go, run_started = threading.Event(), threading.Event()

    def work() -> None:
        run_started.set()
        go.wait(5)

    task = PeriodicTask(work, lambda: 0.0, runs_at_once=True)
    before = threading.active_count()
    task.start()
    run_started.wait(5)
    started = time.monotonic()
    task.stop()
    assert time.monotonic() - started < 2
    go.set()
    wait_until(lambda: threading.active_count() == before)
