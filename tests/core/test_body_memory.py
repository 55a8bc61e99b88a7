"""Memory for bodies is reserved as they arrive, limited, and released."""

from __future__ import annotations

import io
import tracemalloc
from typing import Any

import orjson
import pytest

from forwarder.core.body_memory import BodyMemory, BodyReservation, measure_heap
from forwarder.core.errors import Overloaded, TooLarge
from tests.helpers.check_cases import check_each


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
    BodyReservation(memory).resize(1000)  # a small body
    assert memory.used == 2 * 801_000
    one.release()
    one.release()
    assert memory.used == 2 * 401_000


def test_only_the_largest_body_counts_for_the_parser() -> None:
    memory = BodyMemory(2_100_000)
    reservations = [BodyReservation(memory) for _ in range(10)]
    for each in reservations:
        each.resize(100_000)
    with pytest.raises(Overloaded):
        BodyReservation(memory).resize(100_000)
    for each in reservations:
        each.release()
    BodyReservation(memory).resize(700_000)
    with pytest.raises(Overloaded):
        BodyReservation(memory).resize(100_000)


def test_body_reserves_memory_as_it_arrives() -> None:
    memory = BodyMemory(2_000_000)
    reservation = BodyReservation(memory)
    assert reservation.read_all(io.BytesIO(b"x" * 300_000).read) == b"x" * 300_000
    assert memory.used == 600_000
    source = io.BytesIO(b"x" * 5_000_000)
    with pytest.raises(Overloaded):
        BodyReservation(memory).read_all(source.read)
    assert source.tell() < 800_000


def test_body_larger_than_the_free_memory_is_not_read() -> None:
    memory = BodyMemory(2_000_000)
    BodyReservation(memory).resize(300_000)
    source = io.BytesIO(b"x" * 500_000)
    with pytest.raises(Overloaded):
        BodyReservation(memory).read_all(source.read, 500_000)
    assert source.tell() == 0
    assert memory.used == 600_000


def test_memory_of_non_ascii_texts_is_reserved() -> None:
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


def test_closed_reservation_reserves_nothing() -> None:
    memory = BodyMemory(2_000_000)
    reservation = BodyReservation(memory)
    reservation.resize(300_000)
    reservation.close()
    reservation.grow(300_000)
    reservation.hold(300_000)
    assert (memory.used, reservation.size) == (0, 0)
    BodyReservation(memory).resize(600_000)


def test_held_bytes_are_counted_above_the_limit() -> None:
    memory = BodyMemory(1_000_000)
    answer = BodyReservation(memory)
    answer.hold(900_000)
    assert memory.used == 1_800_000
    with pytest.raises(Overloaded):
        BodyReservation(memory).resize(100_000)
    answer.close()
    BodyReservation(memory).resize(100_000)


DELTA = {
    "type": "response.output_text.delta",
    "item_id": "msg_0123456789abcdef0123456789abcdef",
    "output_index": 0,
    "content_index": 0,
    "logprobs": [],
    "delta": "word ",
    "sequence_number": 1000,
}


@check_each(
    "value",
    [
        [DELTA] * 2000,
        ["a long text " * 50_000],
        [{"n": [i, float(i), None, True]} for i in range(2000)],
        {f"key{i}": {"nested": [{"text": f"ü{i}"}]} for i in range(2000)},
    ],
    ids=["deltas", "text", "numbers", "nested"],
)
def test_the_estimate_is_near_the_allocated_size(value: Any) -> None:
    data = orjson.dumps(value)
    orjson.loads(data)  # the parser caches the keys
    tracemalloc.start()
    parsed = orjson.loads(data)
    allocated_bytes, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert 0.7 < measure_heap(parsed) / allocated_bytes < 1.3


def test_deep_values_can_be_measured() -> None:
    value: Any = []
    for _ in range(5000):
        value = [value]

    assert measure_heap(value) > 5000 * 56
