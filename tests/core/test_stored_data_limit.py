"""Limits of stored bytes and values that a request refers to; each reference counts."""

from __future__ import annotations

import orjson
import pytest

from forwarder.core.body_memory import BodyMemory, BodyReservation
from forwarder.core.errors import Overloaded, TooLarge
from forwarder.core.stored_data_limit import RequestLimits, StoredDataLimit, spend_references


def test_bytes_are_counted_for_each_use() -> None:
    limit = StoredDataLimit(RequestLimits(100, 1000), "input")
    limit.spend(b"x" * 50)
    limit.spend(b"x" * 25, times=2)
    with pytest.raises(TooLarge) as refused:
        limit.spend(b"x")
    assert refused.value.status == 413
    assert refused.value.param == "input"
    assert "100 bytes (limit: FORWARDER_MAX_BODY)" in refused.value.message


def test_values_are_counted_without_commas_in_strings() -> None:
    limit = StoredDataLimit(RequestLimits(10_000, 100))
    limit.spend_value("," * 5000)
    limit.spend_value([0] * 90)
    with pytest.raises(TooLarge, match="100 JSON values .limit: FORWARDER_MAX_JSON_VALUES"):
        limit.spend_value([0] * 90)


def test_an_item_counts_for_each_reference_to_it() -> None:
    limit = StoredDataLimit(RequestLimits(1000, 1000))
    items = {"a": {"text": "x" * 100}, "b": {}}
    spend_references(limit, ["a", "b", "c", *["a"] * 5], items)
    with pytest.raises(TooLarge):
        spend_references(limit, ["a"] * 6, items)


def test_referenced_data_reserves_memory_but_the_request_does_not() -> None:
    memory = BodyMemory(6_000_000)
    reservation = BodyReservation(memory)
    limit = StoredDataLimit(memory=reservation)
    limit.spend_request({"text": "x" * 100_000})
    assert memory.used == 0
    limit.spend(b"x" * 100_000, times=3)
    limit.spend_bytes(100_000)
    assert memory.used == 800_000
    with pytest.raises(Overloaded, match="FORWARDER_MAX_BODY_MEMORY"):
        limit.spend(b"x" * 1_900_000)
    with pytest.raises(TooLarge, match="not plain ASCII"):
        limit.spend(orjson.dumps("x" * 1_500_000 + "\U0001f600"))
    reservation.close()
    assert memory.used == 0


def test_searched_text_reserves_memory_only_during_the_search() -> None:
    memory = BodyMemory(4_000_000)
    limit = StoredDataLimit(RequestLimits(600_000, 1000), "input", memory=BodyReservation(memory))
    text = orjson.dumps("x" * 500_000)
    for _ in range(4):
        with limit.reserve_search(text):
            assert memory.used > 1_000_000
            limit.spend(b"x" * 1000)
    assert memory.used == 2 * 4000
    with limit.reserve_search(b"x" * 399_000):
        pass
    with (
        pytest.raises(TooLarge, match=r"2400000 bytes .limit: 4 times FORWARDER_MAX_BODY"),
        limit.reserve_search(b"x" * 2000),
    ):
        pass
