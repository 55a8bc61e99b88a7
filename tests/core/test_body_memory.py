"""Memory for bodies is reserved as they arrive, limited, and released."""

from __future__ import annotations

import io

import pytest

from forwarder.core.body_memory import BodyMemory, BodyReservation
from forwarder.core.errors import Overloaded


def test_bodies_share_the_memory_limit() -> None:
    memory = BodyMemory(2_000_000)
    one, other = BodyReservation(memory), BodyReservation(memory)
    one.resize(600_000)
    with pytest.raises(
        Overloaded, match="2000000 bytes, limit: FORWARDER_MAX_BODY_MEMORY"
    ) as refused:
        other.resize(400_001)
    assert refused.value.status == 503
    assert "retry-after" in refused.value.headers
    one.resize(500_000)
    other.resize(500_000)
    BodyReservation(memory).resize(1000)  # a small one
    one.release()
    one.release()
    assert memory.used == 501_000


def test_body_reserves_memory_as_it_arrives() -> None:
    memory = BodyMemory(2_000_000)
    room = BodyReservation(memory)
    assert room.read_all(io.BytesIO(b"x" * 300_000).read) == b"x" * 300_000
    assert memory.used == 300_000
    source = io.BytesIO(b"x" * 5_000_000)
    with pytest.raises(Overloaded):
        BodyReservation(memory).read_all(source.read)
    assert source.tell() < 800_000
