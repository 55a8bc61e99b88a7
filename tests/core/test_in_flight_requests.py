"""Shutdown interrupts requests that wait for an upstream, but not those that write to a client."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading

import pytest
from greenlet import greenlet

from forwarder.core.errors import ShuttingDown
from forwarder.core.in_flight_requests import InFlightRequest, InFlightRequests
from tests.helpers.check_cases import check_each

PROGRAM = """
from gevent import monkey; monkey.patch_all()
import gevent
from forwarder.core.errors import ShuttingDown
from forwarder.core.in_flight_requests import InFlightRequests, ShutdownInterrupt

running, told = InFlightRequests(), []

def answer(wait, after):
    try:
        yield gevent.sleep(wait)
        yield gevent.sleep(after)
    except ShutdownInterrupt:
        told.append("in the stream")

def serve(opening, wait, writing, after):
    try:
        run = running.add_request()
        gevent.sleep(opening)
        run.stream = answer(wait, after)
        for _ in run.stream:
            gevent.sleep(writing)
    except ShutdownInterrupt:
        told.append("before it")
    finally:
        running.remove_request(run)

{act}
print(told, len(running))
"""


def run_program(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(act=code)],
        capture_output=True,
        text=True,
        timeout=20,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


STOPPED = "gevent.spawn(serve, *({times})); gevent.sleep(0.05); running.stop()"


@check_each(
    ("times", "expected"),
    [
        ("9, 0, 0, 0", "['before it']"),
        ("0, 9, 0, 0", "['in the stream']"),
        ("0, 0, 0.3, 9", "['in the stream']"),
        ("0, 0, 0.15, 0", "[]"),
        ("0.1, 0, 0, 0", "['before it']"),
    ],
    ids=["connecting", "reading", "writing, then reading", "writing to its end", "nearly done"],
)
@pytest.mark.live
def test_request_is_interrupted_while_it_waits_for_the_upstream(times: str, expected: str) -> None:
    assert run_program(STOPPED.format(times=times)) == f"{expected} 0"


@pytest.mark.live
def test_request_that_keeps_waiting_is_interrupted_again() -> None:
    code = """
def stubborn():
    run = running.add_request()
    for _ in range(2):
        try: gevent.sleep(9)
        except ShutdownInterrupt: told.append("again")
    running.remove_request(run)

gevent.spawn(stubborn); gevent.sleep(0.01); running.stop()"""

    assert run_program(code) == "['again', 'again'] 0"


GRACE = """
from time import monotonic
started = monotonic()

def work(grace):
    run = running.add_request(grace)
    try: gevent.sleep(9)
    except ShutdownInterrupt: told.append((grace, round(monotonic() - started)))
    running.remove_request(run)

for grace in (0, None, 2):
    gevent.spawn(work, grace)
gevent.sleep(0)
"""


@pytest.mark.live
def test_request_has_its_own_grace() -> None:
    code = GRACE + "running.announce(); gevent.sleep(3); running.stop()"

    assert run_program(code) == "[(0, 0), (2, 2), (None, 3)] 0"


@pytest.mark.live
def test_own_grace_ends_at_stop() -> None:
    code = GRACE + "running.announce(); gevent.sleep(1); running.stop(); told.sort(key=str)"

    assert run_program(code) == "[(0, 0), (2, 1), (None, 1)] 0"


@pytest.mark.live
def test_request_with_a_dead_greenlet_is_not_waited_for() -> None:
    code = """
gevent.spawn(running.add_request).join()
told.append(len(running))
gevent.spawn(running.add_request).join()
with gevent.Timeout(2): running.stop()"""

    assert run_program(code) == "[0] 0"


def test_no_request_begins_after_stop() -> None:
    running = InFlightRequests()
    running.stop()

    with pytest.raises(ShuttingDown) as refused:
        running.add_request()

    assert (refused.value.status, refused.value.headers) == (503, {"retry-after": "1"})


def test_request_is_counted_until_it_ends() -> None:
    running = InFlightRequests()

    first, second = running.add_request(), running.add_request()
    assert isinstance(first, InFlightRequest)
    assert len(running) == 2

    for run in (first, second, second):
        running.remove_request(run)
    assert len(running) == 0


def test_listener_is_called_when_shutdown_is_announced() -> None:
    running, calls = InFlightRequests(), []
    with running.add_listener(lambda: calls.append("one")):
        running.announce()
    running.announce()
    with running.add_listener(lambda: calls.append("late")):
        pass

    assert calls == ["one", "late"]


def test_greenlet_of_a_thread_is_not_referenced() -> None:
    """The garbage collector crashes on a greenlet whose thread has ended."""
    running, requests = InFlightRequests(), []

    def work() -> None:
        run = running.add_request()
        requests.append(run)
        run.interrupt()  # a request without an upstream

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()

    assert not any(isinstance(referent, greenlet) for referent in gc.get_referents(requests[0]))
    assert any(
        isinstance(referent, greenlet) for referent in gc.get_referents(running.add_request())
    )
