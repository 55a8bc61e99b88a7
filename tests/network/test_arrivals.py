"""Arrivals that a thread reads: pieces, silence, patience and failures."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import httpx2
import pytest

from forwarder.network.arrivals import Pumped, arrivals_of


def pumped(pieces: Iterator[bytes], heartbeat: float = 5) -> Pumped:
    return Pumped(httpx2.Response(200, content=pieces), heartbeat)


def test_pieces_come_as_they_were_sent() -> None:
    assert list(pumped(iter([b"one", b"two"]))) == [b"one", b"two"]


def test_silence_is_an_empty_piece() -> None:
    go = threading.Event()

    def pieces() -> Iterator[bytes]:
        yield b"one"
        assert go.wait(5)
        yield b"two"

    heard = []
    for piece in pumped(pieces(), heartbeat=0.02):
        heard.append(piece)
        if heard.count(b"") == 2:
            go.set()

    assert heard[:3] == [b"one", b"", b""]
    assert heard[-1] == b"two"


def test_patience_ends_the_wait() -> None:
    go = threading.Event()

    def pieces() -> Iterator[bytes]:
        yield b"one"
        go.wait(5)

    arrivals = pumped(pieces())
    heard = iter(arrivals)
    assert next(heard) == b"one"
    arrivals.patience = 0.02

    assert list(heard) == []
    go.set()


def test_a_failure_reaches_the_reader() -> None:
    def pieces() -> Iterator[bytes]:
        yield b"one"
        raise httpx2.ReadError("broke")

    heard = iter(pumped(pieces()))

    assert next(heard) == b"one"
    with pytest.raises(httpx2.ReadError, match="broke"):
        next(heard)


def test_a_transport_s_own_arrivals_are_preferred_unless_they_are_compressed() -> None:
    own = object()

    def response(**headers: str) -> httpx2.Response:
        return httpx2.Response(200, headers=headers, extensions={"arrivals": own})

    assert arrivals_of(response(), 1) is own
    assert isinstance(arrivals_of(response(**{"content-encoding": "gzip"}), 1), Pumped)
    assert isinstance(arrivals_of(httpx2.Response(200), 1), Pumped)
