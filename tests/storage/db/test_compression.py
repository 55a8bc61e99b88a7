"""Encoding of JSON columns."""

from __future__ import annotations

from typing import Any

from forwarder.storage.db.compression import pack_json, unpack_json
from tests.helpers.check_cases import check_each


@check_each("value", [{}, [], "", None, {"a": ["ü", 1, None]}, ["long " * 500]])
def test_json_round_trip(value: Any) -> None:
    assert unpack_json(pack_json(value)) == value
    assert unpack_json(memoryview(pack_json(value))) == value


def test_large_values_are_compressed() -> None:
    assert len(pack_json("word " * 5000)) < 500
    assert pack_json("word") == b'j"word"'
