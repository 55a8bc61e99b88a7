"""Look-ups: total limit, limit per client, and time-out."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from forwarder.middleware.media.dns_lookups import LookupPool

ROOT = Path(__file__).parents[3]


def test_look_up_returns_or_raises_its_result() -> None:
    pool = LookupPool(4)
    assert pool.look_up("a", 5, lambda: ["address"]) == ["address"]
    with pytest.raises(UnicodeError):
        pool.look_up("a", 5, lambda: "ä".encode("ascii"))


def test_client_with_slow_names_leaves_slots_for_others() -> None:
    pool, release = LookupPool(4), threading.Event()
    with pytest.raises(TimeoutError):
        pool.look_up("a", 0.05, release.wait)
    with pytest.raises(TimeoutError):  # the first one still runs
        pool.look_up("a", 0.05, lambda: 1)
    assert pool.look_up("b", 5, lambda: 1) == 1
    release.set()
    assert pool.look_up("a", 5, lambda: 1) == 1


def test_number_of_look_ups_is_limited() -> None:
    pool, release = LookupPool(2), threading.Event()
    for client in "ab":
        with pytest.raises(TimeoutError):
            pool.look_up(client, 0.05, release.wait)
    with pytest.raises(TimeoutError):
        pool.look_up("c", 0.05, lambda: 1)
    release.set()
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
        pool.look_up(client, 0.3, lambda: sleep(2))
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


@pytest.mark.live
def test_slow_names_do_not_block_upstreams() -> None:
    subprocess.run([sys.executable, "-c", UNDER_GEVENT], cwd=ROOT, check=True, timeout=60)
