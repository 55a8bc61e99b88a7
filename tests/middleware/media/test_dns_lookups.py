"""Look-ups: bounded together and for each client, and left when they take too long."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from forwarder.middleware.media.dns_lookups import LookupPool

ROOT = Path(__file__).parents[3]


def test_a_look_up_gives_what_it_finds_or_raises() -> None:
    pool = LookupPool(4)
    assert pool.look_up("a", 5, lambda: ["address"]) == ["address"]
    with pytest.raises(UnicodeError):
        pool.look_up("a", 5, lambda: "ä".encode("ascii"))


def test_a_client_that_waits_for_slow_names_leaves_room_for_others() -> None:
    pool, going_on = LookupPool(4), threading.Event()
    with pytest.raises(TimeoutError):
        pool.look_up("a", 0.05, going_on.wait)
    with pytest.raises(TimeoutError):  # the first one still runs
        pool.look_up("a", 0.05, lambda: 1)
    assert pool.look_up("b", 5, lambda: 1) == 1
    going_on.set()
    assert pool.look_up("a", 5, lambda: 1) == 1


def test_all_look_ups_together_are_bounded() -> None:
    pool, going_on = LookupPool(2), threading.Event()
    for client in "ab":
        with pytest.raises(TimeoutError):
            pool.look_up(client, 0.05, going_on.wait)
    with pytest.raises(TimeoutError):
        pool.look_up("c", 0.05, lambda: 1)
    going_on.set()
    assert pool.look_up("c", 5, lambda: 1) == 1


UNDER_GEVENT = """
from gevent import monkey
monkey.patch_all()
import socket, time, gevent
from forwarder.middleware.media.dns_lookups import LookupPool
sleep = monkey.get_original("time", "sleep")
pool = LookupPool(12)
def fetch(client):
    try:
        pool.run(client, 0.3, lambda: sleep(2))
    except TimeoutError:
        pass
slow = [gevent.spawn(fetch, str(i)) for i in range(30)]
gevent.sleep(0.1)
start = time.monotonic()
socket.getaddrinfo("localhost", 80)
assert time.monotonic() - start < 1, "the upstreams' look-ups wait"
gevent.joinall(slow)
assert time.monotonic() - start < 1.5
"""


def test_slow_names_keep_no_upstream_waiting() -> None:
    subprocess.run([sys.executable, "-c", UNDER_GEVENT], cwd=ROOT, check=True, timeout=60)
