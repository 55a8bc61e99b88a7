"""A store that is down or hangs does not block requests."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from forwarder.core.storage_breaker import (
    BoundedStorage,
    SharedTask,
    StorageBreaker,
    StorageDown,
    wait_for_event,
)


class Store:
    """A store that answers, refuses, or hangs until it is released."""

    def __init__(self) -> None:
        self.is_down = False
        self.free = threading.Event()
        self.free.set()
        self.calls = self.trials = 0
        self.changes: list[str | None] = []
        self.stop = threading.Event()
        self.breaker = StorageBreaker(self.probe, self.changes.append, str, 0.02, self.stop)
        self.bounded = BoundedStorage(self.breaker, (OSError,), str, 0.05)

    def answer(self) -> str:
        self.calls += 1
        assert self.free.wait(20)
        if self.is_down:
            raise ConnectionRefusedError("refused")
        return "answer"

    def probe(self) -> None:
        self.trials += 1
        self.answer()


@pytest.fixture
def store() -> Iterator[Store]:
    new_store = Store()
    yield new_store
    new_store.stop.set()
    new_store.free.set()


def wait_until(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 10
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return condition()


def test_bounded_call_returns_the_result_or_raises_the_error(store: Store) -> None:
    assert store.bounded.call(store.answer) == "answer"

    with pytest.raises(ZeroDivisionError):
        store.bounded.call(lambda: 1 // 0)
    assert not store.breaker.is_open


def test_breaker_opens_on_a_failure_and_closes_after_a_background_trial(store: Store) -> None:
    store.is_down = True
    with pytest.raises(StorageDown, match="refused"):
        store.bounded.call(store.answer)
    assert wait_until(lambda: store.trials >= 2)
    calls_by_requests = store.calls - store.trials
    with pytest.raises(StorageDown, match="refused"):
        store.bounded.call(store.answer)
    assert store.calls - store.trials == calls_by_requests, "a request called a store that is down"

    store.is_down = False
    assert wait_until(lambda: not store.breaker.is_open)

    assert store.bounded.call(store.answer) == "answer"
    assert store.changes == ["refused", None]


def test_hanging_store_opens_the_breaker_until_it_recovers(store: Store) -> None:
    store.free.clear()
    with pytest.raises(StorageDown, match="no answer within 50 ms"):
        store.bounded.call(store.answer)
    assert store.breaker.is_open

    store.free.set()

    assert wait_until(lambda: not store.breaker.is_open)


@pytest.mark.serial
def test_waiting_for_other_calls_is_not_a_failure(store: Store) -> None:
    """All calls together take ten times the store's timeout."""
    turn = threading.Lock()

    def answer_in_turn() -> str:
        with turn:
            time.sleep(0.02)
            return "answer"

    with ThreadPoolExecutor(25) as pool:
        answers = list(pool.map(lambda _: store.bounded.call(answer_in_turn), range(25)))

    assert answers == ["answer"] * 25
    assert store.changes == []


def test_open_breaker_releases_waiting_calls(store: Store) -> None:
    store.free.clear()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(store.bounded.call, store.answer)
        assert wait_until(lambda: store.calls == 1)
        store.breaker.trip("it hangs")
        with pytest.raises(StorageDown):
            waiting.result(10)


def test_breaker_stops_trials_after_stop(store: Store) -> None:
    store.is_down = True
    store.breaker.trip("refused")
    assert wait_until(lambda: store.trials >= 1)

    store.stop.set()

    time.sleep(0.1)
    trial_count = store.trials
    time.sleep(0.1)
    assert store.trials == trial_count


def test_shared_task_runs_once_for_all_callers() -> None:
    runs: list[int] = []
    free = threading.Event()

    def work() -> None:
        runs.append(1)
        free.wait(20)

    task = SharedTask(work)

    with ThreadPoolExecutor(4) as pool:
        waiting = [pool.submit(task.run, 5.0) for _ in range(4)]
        assert wait_until(lambda: len(runs) == 1)
        time.sleep(0.05)
        free.set()
        assert [each.result(10) for each in waiting] == [True] * 4
    assert runs == [1]
    assert task.run(5.0)
    assert runs == [1, 1]


def test_late_shared_task_is_not_waited_for_again() -> None:
    free = threading.Event()
    task = SharedTask(lambda: free.wait(20))
    assert not task.run(0.02)

    started = time.monotonic()
    for _ in range(100):
        assert not task.run(10.0)

    assert time.monotonic() - started < 10, "a call waited for a task that is known to be late"
    free.set()
    assert wait_until(lambda: task.run(1.0))


def test_wait_for_event_returns_whether_the_event_is_set() -> None:
    event = threading.Event()
    assert not wait_for_event(event, 0.02)
    event.set()
    assert wait_for_event(event, 0.02)
