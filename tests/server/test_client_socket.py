"""Limits of a client connection: request head, body and response."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import pytest
from gunicorn.config import Config
from gunicorn.http.parser import RequestParser

from forwarder.server.client_socket import (
    MAX_SKIPPED_BYTES,
    ClientLimits,
    ClientSocket,
    RequestBody,
    RequestBodyError,
)

LIMITS = ClientLimits(
    head_timeout=1.0,
    body_timeout=0.6,
    send_timeout=0.6,
    min_send_rate=50_000,
    max_chunk_overhead=10_000,
)

SHORT_LIMITS = LIMITS._replace(head_timeout=0.3, body_timeout=0.15, send_timeout=0.15)
"""For tests in which a limit ends a wait."""


class Pair(NamedTuple):
    """Return both ends of a connection."""

    client: socket.socket
    server: ClientSocket

    def read_request(self, *headers: str) -> tuple[Any, RequestBody | None]:
        """Return a parsed request with these headers, and its body."""
        head = "\r\n".join(["POST / HTTP/1.1", "Host: x", *headers, "", ""])
        self.client.sendall(head.encode())
        request = next(RequestParser(Config(), self.server, ("127.0.0.1", 1)))
        return request, self.server.open_body(request)

    def open_body(self, *headers: str) -> tuple[Any, RequestBody]:
        request, body = self.read_request(*headers)
        assert body is not None
        assert request.body is body
        return request, body


@contextmanager
def connect(limits: ClientLimits) -> Iterator[Pair]:
    client_end, server_end = socket.socketpair()
    with client_end, server_end:
        yield Pair(client_end, ClientSocket(server_end, limits))


@pytest.fixture
def pair() -> Iterator[Pair]:
    with connect(LIMITS) as new_pair:
        yield new_pair


@pytest.fixture
def hasty_pair() -> Iterator[Pair]:
    """A connection with short limits."""
    with connect(SHORT_LIMITS) as new_pair:
        yield new_pair


def make_length_header(count: int) -> str:
    return f"Content-Length: {count}"


CHUNKED = "Transfer-Encoding: chunked"


# -- head ------------------------------------------------------------------------------------------


def test_late_head_is_treated_as_disconnect(hasty_pair: Pair) -> None:
    hasty_pair.client.sendall(b"GET / HT")

    assert hasty_pair.server.recv(99) == b"GET / HT"
    assert hasty_pair.server.recv(99) == b""


def test_the_limit_for_the_head_ends_with_the_first_request(hasty_pair: Pair) -> None:
    hasty_pair.read_request()
    time.sleep(SHORT_LIMITS.head_timeout + 0.05)
    hasty_pair.client.sendall(b"GET")

    assert hasty_pair.server.recv(99) == b"GET"


# -- body ------------------------------------------------------------------------------------------


def test_request_without_a_body_gets_no_body_limit(pair: Pair) -> None:
    request, body = pair.read_request()

    assert body is None
    assert request.body.read() == b""


@pytest.mark.parametrize(
    ("header", "sent"),
    [
        (make_length_header(6), b"abcdef"),
        (CHUNKED, b"4\r\nabcd\r\n2;x=y\r\nef\r\n0\r\nT: x\r\n\r\n"),
    ],
)
def test_body_is_read_unchanged(header: str, sent: bytes, pair: Pair) -> None:
    request, body = pair.open_body(header)
    pair.client.sendall(sent)

    assert (body.read(4), body.read(4), body.read(4)) == (b"abcd", b"ef", b"")
    assert body.is_complete
    assert body.skip_rest()
    assert not request.must_close


def test_no_limit_applies_after_the_body(hasty_pair: Pair) -> None:
    _, body = hasty_pair.open_body(make_length_header(2))
    hasty_pair.client.sendall(b"{}")
    body.read()
    time.sleep(SHORT_LIMITS.body_timeout + 0.05)
    hasty_pair.client.sendall(b"next")

    assert hasty_pair.server.recv(99) == b"next"


@pytest.mark.parametrize("header", [make_length_header(6), CHUNKED])
def test_a_body_that_does_not_arrive_in_time_is_a_408(header: str, hasty_pair: Pair) -> None:
    _, body = hasty_pair.open_body(header)
    hasty_pair.client.sendall(b"1\r\n")

    with pytest.raises(RequestBodyError, match="FORWARDER_BODY_TIMEOUT") as raised:
        body.read()

    assert raised.value.code == 408
    assert not body.is_complete
    assert not body.skip_rest()


def test_deadline_is_extended_while_the_body_arrives() -> None:
    limits = LIMITS._replace(body_timeout=0.3)
    count = 4 * 16_000
    with connect(limits) as pair:
        _, body = pair.open_body(make_length_header(count))

        def send() -> None:
            for _ in range(4):
                time.sleep(limits.body_timeout / 3)
                pair.client.sendall(b"x" * 16_000)

        sender = threading.Thread(target=send)
        sender.start()
        assert len(body.read()) == count
        sender.join()


@pytest.mark.parametrize("chunk", [b"1\r\nx\r\n", b"1;" + b"e" * 500 + b"\r\nx\r\n"])
def test_too_small_chunks_are_a_413(chunk: bytes, pair: Pair) -> None:
    _, body = pair.open_body(CHUNKED)
    pair.client.sendall(chunk * (60_000 // len(chunk)))

    with pytest.raises(RequestBodyError, match="FORWARDER_MAX_CHUNK_OVERHEAD") as raised:
        body.read()

    assert raised.value.code == 413


@pytest.mark.parametrize(
    "sent", [b"z\r\n", b"1\r\nxyz", b"1 x\r\n", b"0\r\nNo colon\r\n\r\n", b"z" * 8189 + b"\r\n"]
)
def test_malformed_chunks_are_a_400(sent: bytes, pair: Pair) -> None:
    _, body = pair.open_body(CHUNKED)
    pair.client.sendall(sent)

    with pytest.raises(RequestBodyError, match="malformed") as raised:
        body.read()

    assert raised.value.code == 400
    assert len(raised.value.description) < 300
    assert not body.skip_rest()


# -- unread bodies ---------------------------------------------------------------------------------


def test_short_unread_body_is_skipped(pair: Pair) -> None:
    request, body = pair.open_body(make_length_header(1000))
    pair.client.sendall(b"x" * 1000)
    body.read(10)

    assert not request.must_close
    assert body.skip_rest()


def test_unread_body_that_does_not_arrive_ends_the_connection(hasty_pair: Pair) -> None:
    _, body = hasty_pair.open_body(make_length_header(1000))

    assert not body.skip_rest()


@pytest.mark.parametrize("header", [make_length_header(MAX_SKIPPED_BYTES + 1), CHUNKED])
def test_long_unread_body_closes_the_connection(header: str, pair: Pair) -> None:
    request, body = pair.open_body(header)

    assert request.must_close
    assert not body.skip_rest()


def test_connection_close_of_the_request_is_kept(pair: Pair) -> None:
    request, body = pair.open_body(CHUNKED, "Connection: close")
    pair.client.sendall(b"0\r\n\r\n")

    assert body.read() == b""
    assert request.should_close()


# -- response --------------------------------------------------------------------------------------


def test_slow_client_gets_the_complete_answer() -> None:
    sent, received = b"x" * 3_000_000, 0
    with connect(LIMITS._replace(send_timeout=0.3)) as pair:
        pair.read_request()
        sender = threading.Thread(target=pair.server.sendall, args=(sent,))
        sender.start()
        while received < len(sent):
            received += len(pair.client.recv(500_000))
            time.sleep(0.025)
        sender.join()

    assert received == len(sent)


def test_client_that_does_not_read_is_disconnected(
    hasty_pair: Pair, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "forwarder")
    hasty_pair.read_request()
    with pytest.raises(BrokenPipeError):
        hasty_pair.server.sendall(b"x" * 10_000_000)
    (record,) = caplog.records
    assert (record.name, vars(record)["event"]) == ("forwarder.server", "client_send_timeout")


def test_the_limit_for_an_answer_ends_with_its_request(pair: Pair) -> None:
    pair.open_body(make_length_header(2))
    pair.client.sendall(b"{}")
    pair.server.recv(99)
    assert pair.server.gettimeout() == LIMITS.send_timeout

    pair.server.close_body()

    assert pair.server.gettimeout() is None


def test_a_client_that_reads_too_slowly_is_disconnected() -> None:
    limits = LIMITS._replace(send_timeout=0.3)
    rate, read, is_over = limits.min_send_rate, 0, threading.Event()
    with connect(limits) as pair:
        pair.read_request()
        pair.server.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2**14)

        def read_slowly() -> None:
            nonlocal read
            while not is_over.wait(0.1):  # half of the slowest rate, and shorter than the time-out
                read += len(pair.client.recv(rate // 20))

        reader = threading.Thread(target=read_slowly, daemon=True)
        reader.start()
        started = time.monotonic()
        with pytest.raises(BrokenPipeError):
            pair.server.sendall(b"x" * 100 * rate)
        assert limits.send_timeout < time.monotonic() - started < 10
        is_over.set()
        reader.join(5)
    assert read > 0


def test_client_above_the_minimum_rate_gets_the_complete_answer(pair: Pair) -> None:
    pair.read_request()
    pair.server.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2**14)
    read = 0

    def read_steadily() -> None:
        nonlocal read
        while piece := pair.client.recv(LIMITS.min_send_rate // 5):
            read += len(piece)
            time.sleep(0.05)  # four times the slowest rate

    reader = threading.Thread(target=read_steadily, daemon=True)
    reader.start()
    for _ in range(16):  # longer than the time-out in all
        pair.server.sendall(b"x" * (LIMITS.min_send_rate // 5))
    pair.server.shutdown(socket.SHUT_WR)
    reader.join(10)
    assert read == 16 * (LIMITS.min_send_rate // 5)
