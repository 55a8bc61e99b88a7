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
def open_connection(upstream: ScriptedUpstream) -> Iterator[socket.socket]:
    """Open a connection to the upstream."""
    port = int(upstream.url.split(":")[2].split("/")[0])
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


def test_stream_is_chunked_and_the_connection_is_reused(upstream: ScriptedUpstream) -> None:
    with open_connection(upstream) as sock:
        for _ in range(2):
            post(sock)
            received = read_until(sock, b"0\r\n\r\n")

    assert b"content-type: text/event-stream" in received
    assert b"data: [DONE]\n\n" in received
    assert upstream.connections == 1
    assert [request.connection_id for request in upstream.requests] == [1, 1]
    assert not upstream.requests[-1].closed_by_client.is_set()


def test_chunked_requests_are_read(upstream: ScriptedUpstream) -> None:
    with open_connection(upstream) as sock:
        sock.sendall(
            f"POST {PATH} HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n".encode()
        )
        sock.sendall(b"5\r\n" + WHOLE[:5] + b"\r\n")
        sock.sendall(b"%x\r\n" % len(WHOLE[5:]) + WHOLE[5:] + b"\r\n0\r\n\r\n")
        received = sock.recv(65536)

    assert received.startswith(b"HTTP/1.1 200 OK")
    assert upstream.requests[0].body["model"] == "m"


@pytest.mark.parametrize("stalled", [False, True], ids=["slow", "stalled"])
def test_client_disconnect_is_detected_within_a_second(
    upstream: ScriptedUpstream, stalled: bool
) -> None:
    answer = Answer(text="x" * 500, pieces=500)
    upstream.script(faults.stall(answer, after=2) if stalled else faults.slow_down(answer))
    with open_connection(upstream) as sock:
        post(sock)
        read_until(sock, b"\n\n\r\n")

    assert upstream.requests[0].closed_by_client.wait(1)
    assert upstream.requests[0].finished.wait(1)


def test_client_disconnect_before_the_head_is_detected(upstream: ScriptedUpstream) -> None:
    upstream.script(faults.never_answer())
    with open_connection(upstream) as sock:
        post(sock)
        while not upstream.requests:
            time.sleep(0.01)

    assert upstream.requests[0].closed_by_client.wait(1)


def test_closing_after_the_last_event_is_no_disconnect(
    upstream: ScriptedUpstream,
) -> None:
    """The SDK closes like this, without reading the end of the body."""
    with open_connection(upstream) as sock:
        post(sock)
        while b"[DONE]" not in sock.recv(65536):
            continue

    assert upstream.requests[0].finished.wait(1)
    assert not upstream.requests[0].closed_by_client.is_set()


def test_release_ends_a_stall(upstream: ScriptedUpstream) -> None:
    upstream.script(faults.stall(Answer(text="a"), after=1))
    threading.Timer(0.2, upstream.release.set).start()
    with open_connection(upstream) as sock:
        post(sock)
        started_at = time.monotonic()
        received = read_until(sock, b"0\r\n\r\n")

    assert 0.1 < time.monotonic() - started_at < 2
    assert b"[DONE]" in received


def test_a_stall_ends_by_itself(upstream: ScriptedUpstream) -> None:
    upstream.script(faults.stall(Answer(text="a"), seconds=0.1))
    with open_connection(upstream) as sock:
        post(sock)
        assert b"[DONE]" in read_until(sock, b"0\r\n\r\n")


def test_reset_ending_resets_the_connection(upstream: ScriptedUpstream) -> None:
    upstream.script(faults.cut_connection(Answer(text="a")))
    with open_connection(upstream) as sock:
        post(sock)
        with pytest.raises(ConnectionResetError):
            read_to_end(sock)

    assert not upstream.requests[0].closed_by_client.is_set()


def test_close_ending_leaves_the_body_unfinished(upstream: ScriptedUpstream) -> None:
    """A client can detect that the body is incomplete."""
    upstream.script(faults.cut_connection(Answer(text="a"), after=2, reset=False))
    with open_connection(upstream) as sock:
        post(sock)
        received = read_to_end(sock)

    assert received.count(b"data: {") == 2
    assert not received.endswith(b"0\r\n\r\n")


def test_hang_up_closes_before_the_status_line(upstream: ScriptedUpstream) -> None:
    upstream.script(faults.hang_up())
    with open_connection(upstream) as sock:
        post(sock)
        with pytest.raises(ConnectionResetError):
            read_to_end(sock)


def test_headers_can_be_added_and_left_out(upstream: ScriptedUpstream) -> None:
    """A value of None leaves a header out."""
    upstream.script(Raw(events=[{"a": 1}], headers={"content-type": None, "x-more": "yes"}))
    with open_connection(upstream) as sock:
        post(sock)
        received = read_until(sock, b"0\r\n\r\n")

    assert b"content-type" not in received
    assert b"x-more: yes" in received


def test_stopping_ends_stalls_and_idle_connections() -> None:
    upstream = ScriptedUpstream()
    upstream.start()
    upstream.script(faults.never_answer())
    with open_connection(upstream) as stalled_connection, open_connection(upstream):
        post(stalled_connection)
        while not upstream.requests:
            time.sleep(0.01)
        started_at = time.monotonic()
        upstream.stop()

    assert time.monotonic() - started_at < 1
    assert not upstream.requests[0].closed_by_client.is_set()


def test_error_in_a_script_is_raised_when_the_upstream_stops() -> None:
    """Otherwise it would look like an upstream that hangs up."""
    upstream = ScriptedUpstream()
    upstream.start()
    upstream.script(Answer(pieces=0, text="a"))
    with open_connection(upstream) as sock:
        post(sock)
        assert read_to_end(sock) == b""

    with pytest.raises(ZeroDivisionError):
        upstream.stop()


def test_many_connections_are_served_at_once(upstream: ScriptedUpstream) -> None:
    upstream.script(*[faults.stall(Answer(text="a")) for _ in range(30)])

    def talk() -> None:
        with open_connection(upstream) as sock:
            post(sock)
            assert b"[DONE]" in read_until(sock, b"0\r\n\r\n")

    threads = [threading.Thread(target=talk) for _ in range(30)]
    for thread in threads:
        thread.start()
    while len(upstream.requests) < 30:
        time.sleep(0.01)
    upstream.release.set()
    for thread in threads:
        thread.join(5)

    assert {request.connection_id for request in upstream.requests} == set(range(1, 31))
