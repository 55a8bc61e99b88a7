"""JSON as the store keeps it."""

from __future__ import annotations

from typing import Any

import pytest

from forwarder.storage.db.compression import packed, unpacked


@pytest.mark.parametrize("value", [{}, [], "", None, {"a": ["ü", 1, None]}, ["long " * 500]])
def test_what_is_packed_comes_out_again(value: Any) -> None:
    assert unpacked(packed(value)) == value
    assert unpacked(memoryview(packed(value))) == value


def test_what_is_long_takes_less() -> None:
    assert len(packed("word " * 5000)) < 500
    assert packed("word") == b'j"word"'
