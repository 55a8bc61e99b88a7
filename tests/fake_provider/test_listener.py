"""The bytes on the wire, read from a plain socket."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.fake_provider import Answer, Raw, ScriptedUpstream, faults

BODY = b'{"model": "m", "stream": true, "messages": [{"role": "user", "content": "hi"}]}'
WHOLE = BODY.replace(b"true", b"false")
PATH = "/v1/chat/completions"


@contextmanager
def open_connection(up: ScriptedUpstream) -> Iterator[socket.socket]:
    """Open a connection to the upstream."""
    port = int(up.url.split(":")[2].split("/")[0])
    with socket.create_connection(("127.0.0.1", port), timeout=5) as sock:
        yield sock


def post(sock: socket.socket, body: bytes = BODY, headers: str = "", path: str = PATH) -> None:
    """Send a request."""
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n{headers}\r\n"
    sock.sendall(head.encode() + body)


def read_to_end(sock: socket.socket) -> bytes:
    """Return all bytes until the server closes the connection."""
    received = b""
    while data := sock.recv(65536):
        received += data
    return received


def read_until(sock: socket.socket, end: bytes) -> bytes:
    """Return all bytes up to ``end``."""
    received = b""
    while not received.endswith(end):
        data = sock.recv(65536)
        assert data, f"closed after {received!r}"
        received += data
    return received


def test_a_stream_is_chunked_and_the_connection_goes_on(up: ScriptedUpstream) -> None:
    with open_connection(up) as sock:
        for _ in range(2):
            post(sock)
            received = read_until(sock, b"0\r\n\r\n")

    assert b"content-type: text/event-stream" in received
    assert b"data: [DONE]\n\n" in received
    assert up.connections == 1
    assert [request.connection_id for request in up.requests] == [1, 1]
    assert not up.requests[-1].closed_by_client.is_set()


def test_chunked_requests_are_read(up: ScriptedUpstream) -> None:
    with open_connection(up) as sock:
        sock.sendall(
            f"POST {PATH} HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n".encode()
        )
        sock.sendall(b"5\r\n" + WHOLE[:5] + b"\r\n")
        sock.sendall(b"%x\r\n" % len(WHOLE[5:]) + WHOLE[5:] + b"\r\n0\r\n\r\n")
        received = sock.recv(65536)

    assert received.startswith(b"HTTP/1.1 200 OK")
    assert up.requests[0].body["model"] == "m"


@pytest.mark.parametrize("stalled", [False, True], ids=["slow", "stalled"])
def test_a_client_that_leaves_is_noticed_within_a_second(
    up: ScriptedUpstream, stalled: bool
) -> None:
    answer = Answer(text="x" * 500, pieces=500)
    up.script(faults.stall(answer, after=2) if stalled else faults.slow_down(answer))
    with open_connection(up) as sock:
        post(sock)
        read_until(sock, b"\n\n\r\n")

    assert up.requests[0].closed_by_client.wait(1)
    assert up.requests[0].finished.wait(1)


def test_a_client_that_leaves_before_the_head_is_noticed(up: ScriptedUpstream) -> None:
    up.script(faults.never_answer())
    with open_connection(up) as sock:
        post(sock)
        while not up.requests:
            time.sleep(0.01)

    assert up.requests[0].closed_by_client.wait(1)


def test_a_client_that_closes_after_the_last_event_did_not_leave(up: ScriptedUpstream) -> None:
    """The SDK closes like this, without reading the end of the body."""
    with open_connection(up) as sock:
        post(sock)
        while b"[DONE]" not in sock.recv(65536):
            continue

    assert up.requests[0].finished.wait(1)
    assert not up.requests[0].closed_by_client.is_set()


def test_release_ends_a_stall(up: ScriptedUpstream) -> None:
    up.script(faults.stall(Answer(text="a"), after=1))
    threading.Timer(0.2, up.release.set).start()
    with open_connection(up) as sock:
        post(sock)
        began = time.monotonic()
        received = read_until(sock, b"0\r\n\r\n")

    assert 0.1 < time.monotonic() - began < 2
    assert b"[DONE]" in received


def test_a_stall_ends_by_itself(up: ScriptedUpstream) -> None:
    up.script(faults.stall(Answer(text="a"), seconds=0.1))
    with open_connection(up) as sock:
        post(sock)
        assert b"[DONE]" in read_until(sock, b"0\r\n\r\n")


def test_a_reset_is_a_reset(up: ScriptedUpstream) -> None:
    up.script(faults.cut_connection(Answer(text="a")))
    with open_connection(up) as sock:
        post(sock)
        with pytest.raises(ConnectionResetError):
            read_to_end(sock)

    assert not up.requests[0].closed_by_client.is_set()


def test_a_close_comes_without_the_end_of_the_body(up: ScriptedUpstream) -> None:
    """A client can detect that the body is incomplete."""
    up.script(faults.cut_connection(Answer(text="a"), after=2, reset=False))
    with open_connection(up) as sock:
        post(sock)
        received = read_to_end(sock)

    assert received.count(b"data: {") == 2
    assert not received.endswith(b"0\r\n\r\n")


def test_a_hang_up_comes_before_the_status_line(up: ScriptedUpstream) -> None:
    up.script(faults.hang_up())
    with open_connection(up) as sock:
        post(sock)
        with pytest.raises(ConnectionResetError):
            read_to_end(sock)


def test_headers_can_be_added_and_left_out(up: ScriptedUpstream) -> None:
    """A value of None leaves a header out."""
    up.script(Raw(events=[{"a": 1}], headers={"content-type": None, "x-more": "yes"}))
    with open_connection(up) as sock:
        post(sock)
        received = read_until(sock, b"0\r\n\r\n")

    assert b"content-type" not in received
    assert b"x-more: yes" in received


def test_stopping_ends_stalls_and_idle_connections() -> None:
    up = ScriptedUpstream()
    up.start()
    up.script(faults.never_answer())
    with open_connection(up) as waiting, open_connection(up):
        post(waiting)
        while not up.requests:
            time.sleep(0.01)
        began = time.monotonic()
        up.stop()

    assert time.monotonic() - began < 1
    assert not up.requests[0].closed_by_client.is_set()


def test_a_mistake_in_a_script_is_raised_at_the_end() -> None:
    """Otherwise it would look like an upstream that hangs up."""
    up = ScriptedUpstream()
    up.start()
    up.script(Answer(pieces=0, text="a"))
    with open_connection(up) as sock:
        post(sock)
        assert read_to_end(sock) == b""

    with pytest.raises(ZeroDivisionError):
        up.stop()


def test_many_connections_are_served_at_once(up: ScriptedUpstream) -> None:
    up.script(*[faults.stall(Answer(text="a")) for _ in range(30)])

    def talk() -> None:
        with open_connection(up) as sock:
            post(sock)
            assert b"[DONE]" in read_until(sock, b"0\r\n\r\n")

    threads = [threading.Thread(target=talk) for _ in range(30)]
    for thread in threads:
        thread.start()
    while len(up.requests) < 30:
        time.sleep(0.01)
    up.release.set()
    for thread in threads:
        thread.join(5)

    assert {request.connection_id for request in up.requests} == set(range(1, 31))
