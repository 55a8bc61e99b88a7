"""Large steps take turns, and small requests run between them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

UNDER_GEVENT = """
from gevent import monkey
monkey.patch_all()
import gevent
from forwarder.core.large_bodies import Turnstile
from forwarder.core.paced_iteration import LARGE_BYTES
turnstile, steps = Turnstile(), []
def work(name):
    for step in range(3):
        turnstile.wait_turn(LARGE_BYTES)
        steps.append(name)
def tick():
    while True:
        gevent.sleep(1e-5)
        steps.append("tick")
ticking = gevent.spawn(tick)
gevent.joinall([gevent.spawn(work, name) for name in "abc"])
ticking.kill()
large = [i for i, step in enumerate(steps) if step != "tick"]
assert sorted(steps[i] for i in large) == sorted("abc" * 3), steps
assert all(later - earlier > 1 for earlier, later in zip(large, large[1:])), steps
turnstile.wait_turn(1)  # what is small does not wait
killed = gevent.spawn(turnstile.wait_turn, LARGE_BYTES)
gevent.sleep(0)
killed.kill()
turnstile.wait_turn(LARGE_BYTES)  # who is interrupted gives its turn back
"""


@pytest.mark.live
def test_other_requests_run_between_large_steps() -> None:
    subprocess.run([sys.executable, "-c", UNDER_GEVENT], cwd=ROOT, check=True, timeout=60)


IN_NATIVE_THREADS = """
from gevent import monkey
monkey.patch_all()
import gevent
from gevent.threadpool import ThreadPool
from forwarder.core.large_bodies import Turnstile
from forwarder.core.paced_iteration import LARGE_BYTES
turnstile = Turnstile()
def work():
    turnstile.wait_turn(LARGE_BYTES)
    return "done"
pool = ThreadPool(2)
with gevent.Timeout(20):
    assert [pool.apply(work) for _ in range(4)] == ["done"] * 4
    work()  # the turn of a thread that has no loop would never end
"""


@pytest.mark.live
def test_large_steps_take_no_turns_in_native_threads() -> None:
    subprocess.run([sys.executable, "-c", IN_NATIVE_THREADS], cwd=ROOT, check=True, timeout=60)
