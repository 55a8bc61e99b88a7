"""Long loops pause between slices, short loops never pause."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from forwarder.core import json_lenient, paced_iteration
from forwarder.core.paced_iteration import (
    ITEMS_PER_SLICE,
    LARGE_BYTES,
    give_way,
    iter_paced,
    set_pause,
)


@pytest.fixture
def pauses() -> Iterator[list[int]]:
    """A list that grows by one with each pause."""
    counted: list[int] = []
    before = paced_iteration._pause
    set_pause(lambda: counted.append(1))
    yield counted
    set_pause(before)


@pytest.mark.parametrize(
    ("count", "expected"),
    [(0, 0), (ITEMS_PER_SLICE, 0), (ITEMS_PER_SLICE + 1, 1), (ITEMS_PER_SLICE * 3, 2)],
)
def test_a_loop_pauses_between_slices(count: int, expected: int, pauses: list[int]) -> None:
    assert list(iter_paced(range(count))) == list(range(count))
    assert len(pauses) == expected


def test_only_large_steps_yield(pauses: list[int]) -> None:
    give_way(LARGE_BYTES - 1)
    assert pauses == []
    give_way(LARGE_BYTES)
    assert pauses == [1]


def test_large_text_is_repaired_in_steps(pauses: list[int]) -> None:
    text = b'["' + b"x" * LARGE_BYTES + rb'\ud800"]'
    assert json_lenient.parse_strict(text)[0].endswith("x�")
    assert len(pauses) > 3


def test_large_text_with_too_many_escapes_is_refused() -> None:
    with pytest.raises(ValueError, match="too many escapes"):
        json_lenient.parse_strict(b'["' + rb"\ud800" * 600_000 + b'"]')
