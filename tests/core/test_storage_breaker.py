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
        self.asked = self.tried = 0
        self.changes: list[str | None] = []
        self.stop = threading.Event()
        self.breaker = StorageBreaker(self.probe, self.changes.append, str, 0.02, self.stop)
        self.bounded = BoundedStorage(self.breaker, (OSError,), str, 0.05)

    def answer(self) -> str:
        self.asked += 1
        assert self.free.wait(20)
        if self.is_down:
            raise ConnectionRefusedError("refused")
        return "answer"

    def probe(self) -> None:
        self.tried += 1
        self.answer()


@pytest.fixture
def store() -> Iterator[Store]:
    made = Store()
    yield made
    made.stop.set()
    made.free.set()


def wait_until(holds: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 10
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.01)
    return holds()


def test_bounded_call_returns_the_result_or_raises_the_error(store: Store) -> None:
    assert store.bounded.call(store.answer) == "answer"

    with pytest.raises(ZeroDivisionError):
        store.bounded.call(lambda: 1 // 0)
    assert not store.breaker.is_open


def test_breaker_opens_on_a_failure_and_a_trial_beside_requests_closes_it(store: Store) -> None:
    store.is_down = True
    with pytest.raises(StorageDown, match="refused"):
        store.bounded.call(store.answer)
    assert wait_until(lambda: store.tried >= 2)
    asked = store.asked - store.tried
    with pytest.raises(StorageDown, match="refused"):
        store.bounded.call(store.answer)
    assert store.asked - store.tried == asked, "a request asked a store that is down"

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
def test_calls_that_wait_for_each_other_are_no_failure(store: Store) -> None:
    """Together the calls take ten times the permitted silence of the store."""
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
        assert wait_until(lambda: store.asked == 1)
        store.breaker.trip("it hangs")
        with pytest.raises(StorageDown):
            waiting.result(10)


def test_breaker_stops_trials_after_stop(store: Store) -> None:
    store.is_down = True
    store.breaker.trip("refused")
    assert wait_until(lambda: store.tried >= 1)

    store.stop.set()

    time.sleep(0.1)
    tried = store.tried
    time.sleep(0.1)
    assert store.tried == tried


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

    assert time.monotonic() - started < 10, "somebody waited for a task that is known to be late"
    free.set()
    assert wait_until(lambda: task.run(1.0))


def test_wait_for_event_returns_whether_the_event_is_set() -> None:
    event = threading.Event()
    assert not wait_for_event(event, 0.02)
    event.set()
    assert wait_for_event(event, 0.02)
