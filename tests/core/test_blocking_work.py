"""Blocking work outside of the event loop."""

from __future__ import annotations

import subprocess
import sys
import threading
import time

import pytest

from forwarder.core.blocking_work import BlockingPool, ClientSlots, spawn


def test_under_threads_work_runs_in_the_callers_thread() -> None:
    pool = BlockingPool(2)
    assert pool.run(threading.get_ident) == threading.get_ident()
    with pytest.raises(ZeroDivisionError):
        pool.run(lambda: 1 // 0)


def test_client_gets_a_quarter_of_the_slots() -> None:
    slots = ClientSlots(8)
    assert [slots.acquire("a", 0) for _ in range(3)] == [True, True, False]
    assert [slots.acquire(client, 0) for client in "bbccdde"] == [True] * 6 + [False]
    slots.release("b")
    assert not slots.acquire("a", 0)
    assert slots.acquire("e", 0)


def test_slot_is_waited_for_and_given_back() -> None:
    slots, failure = ClientSlots(1), KeyError()
    with slots.hold("a", 0, failure):
        timer = threading.Timer(0.05, slots.release, ("a",))
        with pytest.raises(KeyError), slots.hold("b", 0, failure):
            pytest.fail("There is no slot.")
        timer.start()
        assert slots.acquire("a", 5)
    assert slots.acquire("b", 0)
    timer.join()


def test_blocking_pool_limits_concurrent_work() -> None:
    pool, now, most_at_once = BlockingPool(2), 0, 0
    lock = threading.Lock()

    def work() -> None:
        nonlocal now, most_at_once
        with lock:
            now += 1
            most_at_once = max(most_at_once, now)
        time.sleep(0.02)
        with lock:
            now -= 1

    threads = [threading.Thread(target=lambda: pool.run(work)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most_at_once == 2


def test_spawned_work_runs_in_the_background() -> None:
    done = threading.Event()
    spawn(done.set)
    assert done.wait(5)


UNDER_GEVENT = """
from gevent import monkey
monkey.patch_all()
import os, threading, time, gevent
from forwarder.core.blocking_work import BlockingPool, native_sleep, spawn

ticks = []
def tick():
    while True:
        ticks.append(1)
        time.sleep(0.01)
spawn(tick)
aside = BlockingPool(1)
assert aside.run(lambda: (native_sleep(0.3), 5)[1]) == 5
assert len(ticks) > 10, ticks
try:
    aside.run(lambda: 1 // 0)
except ZeroDivisionError:
    print("fine")
threads = len(os.listdir("/proc/self/task"))
aside.close()
aside.close()
print(threads - len(os.listdir("/proc/self/task")), aside.run(lambda: 5))
"""


@pytest.mark.live
def test_under_gevent_the_loop_keeps_running() -> None:
    done = subprocess.run(
        [sys.executable, "-c", UNDER_GEVENT], capture_output=True, text=True, timeout=30
    )
    assert done.stdout == "fine\n1 5\n", done.stderr
    assert not done.stderr  # only the waiting caller gets the exception
