"""Memory for bodies is reserved as they arrive, limited, and released."""

from __future__ import annotations

import io

import pytest

from forwarder.core.body_memory import BodyMemory, BodyReservation
from forwarder.core.errors import Overloaded, TooLarge


def test_bodies_share_the_memory_limit() -> None:
    memory = BodyMemory(2_000_000)
    one, other = BodyReservation(memory), BodyReservation(memory)
    one.resize(600_000)
    with pytest.raises(
        Overloaded, match="2000000 bytes, limit: FORWARDER_MAX_BODY_MEMORY"
    ) as refused:
        other.resize(100_001)
    assert refused.value.status == 503
    assert "retry-after" in refused.value.headers
    one.resize(400_000)
    other.resize(400_000)
    BodyReservation(memory).resize(1000)  # a small one
    assert memory.used == 2 * 801_000
    one.release()
    one.release()
    assert memory.used == 2 * 401_000


def test_only_the_largest_body_counts_for_the_parser() -> None:
    memory = BodyMemory(2_100_000)
    many = [BodyReservation(memory) for _ in range(10)]
    for each in many:
        each.resize(100_000)
    with pytest.raises(Overloaded):
        BodyReservation(memory).resize(100_000)
    for each in many:
        each.release()
    BodyReservation(memory).resize(700_000)
    with pytest.raises(Overloaded):
        BodyReservation(memory).resize(100_000)


def test_body_reserves_memory_as_it_arrives() -> None:
    memory = BodyMemory(2_000_000)
    room = BodyReservation(memory)
    assert room.read_all(io.BytesIO(b"x" * 300_000).read) == b"x" * 300_000
    assert memory.used == 600_000
    source = io.BytesIO(b"x" * 5_000_000)
    with pytest.raises(Overloaded):
        BodyReservation(memory).read_all(source.read)
    assert source.tell() < 800_000


def test_body_that_is_announced_too_large_for_now_is_not_read() -> None:
    memory = BodyMemory(2_000_000)
    BodyReservation(memory).resize(300_000)
    source = io.BytesIO(b"x" * 500_000)
    with pytest.raises(Overloaded):
        BodyReservation(memory).read_all(source.read, 500_000)
    assert source.tell() == 0
    assert memory.used == 600_000


def test_texts_beyond_ascii_count_too() -> None:
    memory = BodyMemory(2_000_000)
    one, other = BodyReservation(memory), BodyReservation(memory)
    one.resize(100_000)
    one.add_text(100_000, 400_000)
    assert memory.used == 600_000
    other.resize(200_000)
    with pytest.raises(Overloaded):
        other.add_text(200_000, 1_000_000)
    with pytest.raises(TooLarge, match="FORWARDER_MAX_BODY_MEMORY"):
        other.add_text(200_000, 1_500_000)
    one.release()
    other.add_text(200_000, 1_000_000)
    assert memory.used == 1_400_000
    other.release()
    assert memory.used == 0
