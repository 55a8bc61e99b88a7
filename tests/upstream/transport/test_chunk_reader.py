"""The threaded reader: chunks, heartbeats, silence limits and errors."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import httpx2
import pytest

from forwarder.upstream.transport.chunk_reader import (
    MAX_BUFFERED_BYTES,
    ThreadedReader,
    open_chunk_reader,
)
from tests.helpers.loopback import Peer, encode_chunk, run_server


def make_reader(pieces: Iterator[bytes], heartbeat: float = 5) -> ThreadedReader:
    return ThreadedReader(httpx2.Response(200, content=pieces), heartbeat)


def test_chunks_arrive_as_they_were_sent() -> None:
    assert list(make_reader(iter([b"one", b"two"]))) == [b"one", b"two"]


def test_silence_is_an_empty_piece() -> None:
    go = threading.Event()

    def pieces() -> Iterator[bytes]:
        yield b"one"
        assert go.wait(5)
        yield b"two"

    received = []
    for piece in make_reader(pieces(), heartbeat=0.02):
        received.append(piece)
        if received.count(b"") == 2:
            go.set()

    assert received[:3] == [b"one", b"", b""]
    assert received[-1] == b"two"


def test_silence_limit_ends_the_iteration() -> None:
    go = threading.Event()

    def pieces() -> Iterator[bytes]:
        yield b"one"
        go.wait(5)

    arrivals = make_reader(pieces())
    received = iter(arrivals)
    assert next(received) == b"one"
    arrivals.silence_limit = 0.02

    assert list(received) == []
    go.set()


def test_a_failure_reaches_the_reader() -> None:
    def pieces() -> Iterator[bytes]:
        yield b"one"
        raise httpx2.ReadError("broke")

    received = iter(make_reader(pieces()))

    assert next(received) == b"one"
    with pytest.raises(httpx2.ReadError, match="broke"):
        next(received)


def test_a_transport_s_own_arrivals_are_preferred_unless_they_are_compressed() -> None:
    own_reader = object()

    def response(**headers: str) -> httpx2.Response:
        return httpx2.Response(200, headers=headers, extensions={"chunk_reader": own_reader})

    assert open_chunk_reader(response(), 1) is own_reader
    assert isinstance(
        open_chunk_reader(response(**{"content-encoding": "gzip"}), 1), ThreadedReader
    )
    assert isinstance(open_chunk_reader(httpx2.Response(200), 1), ThreadedReader)


def test_thread_reads_a_bounded_number_of_chunks_ahead() -> None:
    sent = []

    def pieces() -> Iterator[bytes]:
        for _ in range(100):
            sent.append(1)
            yield bytes(MAX_BUFFERED_BYTES // 4)

    received = iter(make_reader(pieces()))
    for read in range(1, 20):
        next(received)
        assert len(sent) <= read + 5
    assert len(list(received)) == 100 - 19


def test_closing_ends_a_thread_that_waits_for_room() -> None:
    ended = threading.Event()

    def pieces() -> Iterator[bytes]:
        try:
            while True:
                yield bytes(MAX_BUFFERED_BYTES)
        finally:
            ended.set()

    arrivals = make_reader(pieces())
    next(iter(arrivals))
    arrivals.close()

    assert ended.wait(5)


def test_closing_ends_a_read_from_a_silent_server() -> None:
    disconnected = threading.Event()

    def script(peer: Peer) -> None:
        peer.request()
        peer.start_chunked()
        peer.send(encode_chunk(b"one"))
        peer.file.read()  # until the other side hangs up
        disconnected.set()

    with run_server(script) as server, httpx2.Client(trust_env=False) as client:
        response = client.send(client.build_request("GET", server.url), stream=True)
        arrivals = open_chunk_reader(response, 5)
        assert next(iter(arrivals)) == b"one"

        arrivals.close()

        assert disconnected.wait(5)
        response.close()


def test_connection_is_reused_after_a_complete_answer() -> None:
    def script(peer: Peer) -> None:
        while peer.request():
            peer.answer(b"all")

    with run_server(script) as server, httpx2.Client(trust_env=False) as client:
        for _ in range(3):
            response = client.send(client.build_request("GET", server.url), stream=True)
            arrivals = open_chunk_reader(response, 5)
            assert list(arrivals) == [b"all"]
            arrivals.close()
            response.close()

    assert server.connections == 1


def test_nothing_is_read_after_closing() -> None:
    arrivals = make_reader(iter([b"one"]))
    arrivals.close()

    assert list(arrivals) == []
