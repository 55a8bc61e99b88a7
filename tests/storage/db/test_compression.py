"""JSON as the store keeps it."""

from __future__ import annotations

from typing import Any

import pytest

from forwarder.storage.db.compression import pack_json, unpack_json


@pytest.mark.parametrize("value", [{}, [], "", None, {"a": ["ü", 1, None]}, ["long " * 500]])
def test_what_is_packed_comes_out_again(value: Any) -> None:
    assert unpack_json(pack_json(value)) == value
    assert unpack_json(memoryview(pack_json(value))) == value


def test_what_is_long_takes_less() -> None:
    assert len(pack_json("word " * 5000)) < 500
    assert pack_json("word") == b'j"word"'
