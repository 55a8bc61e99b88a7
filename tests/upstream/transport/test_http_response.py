"""Parsing of responses, and bodies as they arrive."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace

import gevent
import httpx2
import pytest

from forwarder.upstream.transport import http_response
from forwarder.upstream.transport.gevent_transport import GeventTransport
from forwarder.upstream.transport.http_response import GeventChunkReader, HttpResponseParser
from tests.helpers.check_cases import check_each
from tests.helpers.loopback import Peer, Script, Server, encode_chunk, run_server

HEAD = b"HTTP/1.1 200 OK\r\n"


def parse_message(*pieces: bytes, method: str = "GET") -> HttpResponseParser:
    message = HttpResponseParser(method)
    for piece in pieces:
        message.parse(piece)
    return message


# -- messages ---------------------------------------------------------------------------------

COMPLETE_MESSAGES = {
    "length": (HEAD + b"Content-Length: 4\r\n\r\nabcd", b"abcd"),
    "chunks": (
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\n2;x=y\r\ncd\r\n0\r\n\r\n",
        b"abcd",
    ),
    "trailers": (HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nX: y\r\n\r\n", b"a"),
    "no body": (b"HTTP/1.1 204 No Content\r\n\r\n", b""),
    "empty body": (HEAD + b"Content-Length: 0\r\n\r\n", b""),
    "after an interim one": (
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"
        + HEAD
        + b"Content-Length: 1\r\n\r\na",
        b"a",
    ),
}


@check_each("name", COMPLETE_MESSAGES)
def test_message_is_parsed_in_one_piece_and_byte_by_byte(name: str) -> None:
    data, body = COMPLETE_MESSAGES[name]
    for pieces in ([data], [data[at : at + 1] for at in range(len(data))]):
        message = parse_message(*pieces)

        assert message.is_finished
        assert message.take_body() == body
        assert not message.should_close()


def test_body_chunks_are_returned_once() -> None:
    message = parse_message(HEAD + b"Content-Length: 4\r\n\r\nab")

    assert message.take_body() == b"ab"
    message.parse(b"c")
    assert message.take_body() == b"c"
    assert message.body_chunks == []


def test_interim_response_is_skipped() -> None:
    message = parse_message(b"HTTP/1.1 100 Continue\r\nX-A: 1\r\n\r\n")

    assert not message.has_head
    message.parse(HEAD + b"X-B: 2\r\n\r\n")
    assert message.has_head
    assert list(message.headers) == [("X-B", "2")]


def test_headers_keep_their_order_and_repetitions() -> None:
    message = parse_message(
        HEAD + b"X-A: 1\r\nSet-Cookie: a\r\nset-cookie: b\r\nContent-Length: 0\r\n\r\n"
    )

    assert [value for name, value in message.headers if name.lower() == "set-cookie"] == ["a", "b"]


def test_a_body_without_length_ends_with_the_connection() -> None:
    message = parse_message(HEAD + b"\r\nabc")

    assert not message.is_finished
    message.parse(b"")
    assert message.is_finished
    assert message.should_close()


@check_each(
    "headers", [b"Content-Length: 4", b"Transfer-Encoding: chunked"], ids=["length", "chunks"]
)
def test_a_message_that_ends_too_early_is_broken(headers: bytes) -> None:
    message = parse_message(HEAD + headers + b"\r\n\r\n")

    with pytest.raises(httpx2.RemoteProtocolError):
        message.parse(b"")


@check_each("data", [b"SSH-2.0-x\r\n", b"HTTP/1.1 abc\r\n\r\n", b"\x16\x03\x01\x00"])
def test_non_http_answer_is_refused(data: bytes) -> None:
    with pytest.raises(httpx2.RemoteProtocolError):
        parse_message(data)


@check_each("more", [HEAD, HEAD + b"Content-Length: 1\r\n\r\nb", b"garbage"])
@check_each("separately", [True, False])
def test_bytes_after_the_end_only_prevent_reuse_of_the_connection(
    more: bytes, separately: bool
) -> None:
    data = HEAD + b"Content-Length: 1\r\n\r\na"
    message = parse_message(data, more) if separately else parse_message(data + more)

    assert message.is_finished
    assert message.take_body() == b"a"
    assert message.should_close()


def test_answer_to_a_head_request_has_no_body() -> None:
    message = parse_message(HEAD + b"Content-Length: 4\r\n\r\n", method="HEAD")

    assert message.is_finished
    assert message.take_body() == b""
    assert not message.should_close()


def test_body_after_a_head_request_prevents_reuse_of_the_connection() -> None:
    message = parse_message(HEAD + b"Content-Length: 4\r\n\r\nabcd", method="HEAD")

    assert message.is_finished
    assert message.should_close()


# -- arrivals ---------------------------------------------------------------------------------


@dataclass
class OpenResponse:
    """An unread response of a scripted server."""

    server: Server
    client: httpx2.Client
    response: httpx2.Response

    @property
    def arrivals(self) -> GeventChunkReader:
        stream: GeventChunkReader = self.response.extensions["chunk_reader"]
        return stream

    def count_connections_after_another_request(self) -> int:
        self.client.get(self.server.url)
        return self.server.connections


@contextmanager
def open_response(
    script: Script, heartbeat: float | None = None, read: float = 5.0
) -> Iterator[OpenResponse]:
    # With a pool of one connection, a response that does not release it makes the next request fail.
    transport = GeventTransport(heartbeat=heartbeat, proxies={}, max_connections=1)
    with run_server(script) as server, httpx2.Client(transport=transport, timeout=read) as client:
        response = client.send(client.build_request("GET", server.url), stream=True)
        try:
            yield OpenResponse(server, client, response)
        finally:
            response.close()


def answer_first_with(first: Script) -> Script:
    """A script for the first request; later requests get a plain answer."""

    def script(peer: Peer) -> None:
        while peer.request():
            if len(peer.server.requests) == 1:
                first(peer)
            else:
                peer.answer(b"later")

    return script


def send_slowly(*pieces: bytes) -> Script:
    """Send chunks with a pause before each."""

    def script(peer: Peer) -> None:
        peer.start_chunked()
        for piece in pieces:
            time.sleep(0.03)
            peer.send(encode_chunk(piece))
        peer.send(encode_chunk(b""))

    return answer_first_with(script)


def test_separate_chunks_are_returned_separately() -> None:
    with open_response(send_slowly(b"a", b"b", b"c")) as opened:
        assert list(opened.arrivals) == [b"a", b"b", b"c"]


def test_chunks_that_arrived_together_are_one_piece() -> None:
    def script(peer: Peer) -> None:
        peer.start_chunked()
        peer.send(b"".join(encode_chunk(b"%d " % n) for n in range(100)), encode_chunk(b""))
        peer.server.go.set()

    with open_response(answer_first_with(script)) as opened:
        opened.server.wait()
        time.sleep(0.05)

        assert list(opened.arrivals) == [b"".join(b"%d " % n for n in range(100))]


def test_a_character_may_be_split_over_arrivals() -> None:
    with open_response(send_slowly(b"gr\xc3", b"\xbc\xc3\x9fe")) as opened:
        assert b"".join(opened.arrivals).decode() == "grüße"


def test_partial_chunk_is_returned_at_once() -> None:
    def script(peer: Peer) -> None:
        peer.start_chunked()
        peer.send(b"6\r\nabc")
        peer.server.wait()
        peer.send(b"def\r\n", encode_chunk(b""))

    with open_response(answer_first_with(script)) as opened:
        arrivals = iter(opened.arrivals)

        assert next(arrivals) == b"abc"
        opened.server.go.set()
        assert list(arrivals) == [b"def"]


@check_each("size", [0, 1, 3_000_000])
def test_body_of_known_length_is_read_completely(size: int) -> None:
    body = bytes(range(256)) * (size // 256 + 1)
    with open_response(answer_first_with(lambda peer: peer.answer(body[:size]))) as opened:
        assert b"".join(opened.arrivals) == body[:size]
        assert opened.count_connections_after_another_request() == 1


def test_body_without_length_is_read_to_the_end_and_its_connection_is_closed() -> None:
    def script(peer: Peer) -> None:
        if len(peer.server.requests) < 1:
            peer.request()
            peer.send(HEAD + b"\r\n", b"some", b"thing")
        elif peer.request():
            peer.answer(b"later")

    with open_response(script) as opened:
        assert b"".join(opened.arrivals) == b"something"
        assert opened.count_connections_after_another_request() == 2


def test_silence_is_a_heartbeat() -> None:
    def script(peer: Peer) -> None:
        peer.start_chunked()
        peer.server.wait()
        peer.send(encode_chunk(b"a"), encode_chunk(b""))

    with open_response(answer_first_with(script), heartbeat=0.03, read=0.05) as opened:
        arrivals = iter(opened.arrivals)

        assert [next(arrivals) for _ in range(4)] == [b"", b"", b"", b""]
        opened.server.go.set()
        assert b"".join(arrivals) == b"a"
        assert opened.count_connections_after_another_request() == 1


def test_a_heartbeat_may_be_slower_than_the_read_time_out() -> None:
    with open_response(answer_first_with(stall), heartbeat=0.2, read=0.1) as opened:
        arrivals = iter(opened.arrivals)
        assert next(arrivals) == b"a"
        started = time.monotonic()

        assert next(arrivals) == b""
        assert time.monotonic() - started > 0.15


def test_no_heartbeat_is_sent_while_data_arrives() -> None:
    with open_response(send_slowly(b"a", b"b", b"c"), heartbeat=5.0) as opened:
        assert b"" not in list(opened.arrivals)


def stall(peer: Peer) -> None:
    peer.start_chunked()
    peer.send(encode_chunk(b"a"))
    peer.server.wait()


def test_silence_without_heartbeats_is_a_time_out() -> None:
    with open_response(answer_first_with(stall), read=0.1) as opened:
        arrivals = iter(opened.arrivals)

        assert next(arrivals) == b"a"
        with pytest.raises(httpx2.ReadTimeout):
            next(arrivals)
        assert opened.count_connections_after_another_request() == 2


def test_reading_by_httpx_has_the_time_out_and_no_heartbeats() -> None:
    with (
        open_response(answer_first_with(stall), heartbeat=0.02, read=0.1) as opened,
        pytest.raises(httpx2.ReadTimeout),
    ):
        opened.response.read()


def test_silence_limit_ends_the_iteration() -> None:
    with open_response(answer_first_with(stall), heartbeat=5.0) as opened:
        arrivals = iter(opened.arrivals)

        assert next(arrivals) == b"a"
        opened.arrivals.silence_limit = 0.05
        assert list(arrivals) == []
        assert opened.count_connections_after_another_request() == 2


def test_silence_limit_applies_to_each_wait() -> None:
    with open_response(send_slowly(b"a", b"b", b"c", b"d")) as opened:
        opened.arrivals.silence_limit = 0.15

        assert list(opened.arrivals) == [b"a", b"b", b"c", b"d"]
        assert opened.count_connections_after_another_request() == 1


def test_zero_silence_limit_takes_available_data() -> None:
    with open_response(answer_first_with(stall)) as opened:
        arrivals = iter(opened.arrivals)

        assert next(arrivals) == b"a"
        opened.arrivals.silence_limit = 0.0
        assert list(arrivals) == []


def test_connection_is_released_with_the_last_chunk() -> None:
    def script(peer: Peer) -> None:
        peer.start_chunked()
        peer.server.wait()
        peer.send(encode_chunk(b"a") + encode_chunk(b""))

    with open_response(answer_first_with(script)) as opened:
        opened.server.go.set()

        assert next(iter(opened.arrivals)) == b"a"
        assert opened.count_connections_after_another_request() == 1


@check_each("headers", [b"Content-Length: 9", b"Transfer-Encoding: chunked"])
def test_truncated_body_is_an_error_after_the_received_chunks(headers: bytes) -> None:
    def script(peer: Peer) -> None:
        peer.request()
        peer.send(HEAD + headers + b"\r\n\r\n")
        peer.send(encode_chunk(b"abc") if b"chunked" in headers else b"abc")

    with open_response(script) as opened:
        received: list[bytes] = []
        with pytest.raises(httpx2.RemoteProtocolError):
            received.extend(opened.arrivals)

    assert b"".join(received) == b"abc"


def test_a_reset_is_a_read_error() -> None:
    def script(peer: Peer) -> None:
        peer.request()
        peer.start_chunked()
        peer.server.wait()
        peer.reset()

    with open_response(script) as opened:
        opened.server.go.set()
        with pytest.raises(httpx2.ReadError):
            list(opened.arrivals)


def test_closing_before_the_end_closes_the_connection() -> None:
    server_reads: list[bytes] = []

    def script(peer: Peer) -> None:
        stall(peer)
        try:
            server_reads.append(peer.file.read(1))
        except ConnectionResetError:
            server_reads.append(b"")

    with open_response(answer_first_with(script)) as opened:
        opened.arrivals.close()
        opened.arrivals.close()
        opened.server.go.set()

        assert opened.count_connections_after_another_request() == 2
    assert server_reads == [b""]


def test_closing_after_the_end_changes_nothing() -> None:
    with open_response(send_slowly(b"a")) as opened:
        list(opened.arrivals)
        opened.arrivals.close()
        opened.response.close()

        assert opened.count_connections_after_another_request() == 1
        assert opened.count_connections_after_another_request() == 1


def test_abandoned_iteration_closes_the_connection() -> None:
    with open_response(answer_first_with(stall)) as opened:
        for _ in opened.arrivals:
            break

        assert opened.count_connections_after_another_request() == 2


def test_closing_from_another_greenlet_ends_a_blocked_read() -> None:
    with open_response(answer_first_with(stall)) as opened:
        reader = gevent.spawn(list, opened.arrivals)
        gevent.sleep(0.1)
        opened.arrivals.close()

        with pytest.raises(httpx2.ReadError):
            reader.get(timeout=2)
        assert opened.count_connections_after_another_request() == 2


def test_reading_after_closing_is_a_read_error() -> None:
    with open_response(answer_first_with(stall)) as opened:
        opened.arrivals.close()

        with pytest.raises(httpx2.ReadError):
            list(opened.arrivals)


def test_killed_reader_closes_the_connection() -> None:
    with open_response(answer_first_with(stall)) as opened:
        reader = gevent.spawn(list, opened.arrivals)
        gevent.sleep(0.05)
        reader.kill()

        assert opened.count_connections_after_another_request() == 2


def count_turns_of_another_greenlet(
    monkeypatch: pytest.MonkeyPatch, read_seconds: float, use_seconds: float
) -> int:
    """Return how often another greenlet runs during a stream of 50 reads that never switch."""
    now = 0.0
    monkeypatch.setattr(http_response, "perf_counter", lambda: now)

    def receive(_: object) -> bytes:
        nonlocal now
        now += read_seconds
        return next(data)

    def run_beside() -> None:
        nonlocal turns
        while True:
            turns += 1
            gevent.sleep(0)

    turns = 0
    data = iter([encode_chunk(b"x")] * 50 + [encode_chunk(b"")])
    pool = SimpleNamespace(receive=receive, return_socket=lambda _: None)
    sock = SimpleNamespace(settimeout=lambda _: None)
    message = parse_message(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
    arrivals = GeventChunkReader(message, sock, pool, None, None)  # type: ignore[arg-type]
    greenlet = gevent.spawn(run_beside)
    for _ in arrivals:
        now += use_seconds
    counted = turns
    greenlet.kill()
    return counted


def test_a_stream_that_never_waits_yields_to_other_greenlets(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert count_turns_of_another_greenlet(monkeypatch, read_seconds=0, use_seconds=0.002) >= 8


def test_waiting_stream_does_not_sleep(monkeypatch: pytest.MonkeyPatch) -> None:
    assert count_turns_of_another_greenlet(monkeypatch, read_seconds=0.002, use_seconds=0) == 0


def test_large_received_data_is_returned_in_parts_and_other_sockets_are_served() -> None:
    body = bytes(range(256)) * 512
    pool = SimpleNamespace(return_socket=lambda _: None)
    message = parse_message(HEAD + b"Content-Length: %d\r\n\r\n" % len(body), body)
    sock = SimpleNamespace(settimeout=lambda _: None)
    arrivals = GeventChunkReader(message, sock, pool, None, None)  # type: ignore[arg-type]
    near_socket, far_socket = gevent.socket.socketpair()
    served: list[int] = []
    pieces: list[bytes] = []
    other_greenlet = gevent.spawn(lambda: (near_socket.recv(1), served.append(len(pieces))))
    gevent.sleep(0)
    far_socket.send(b"x")

    for piece in arrivals:
        pieces.append(piece)
        time.sleep(0.002)

    other_greenlet.kill()
    for end in (near_socket, far_socket):
        end.close()
    assert b"".join(pieces) == body
    assert served, len(pieces)
    assert served[0] <= 3
