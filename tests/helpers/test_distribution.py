"""The distribution of tests to pytest-xdist's workers."""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import Any

from tests.helpers.distribution import distribute_tests


class FakeItem:
    """A test of a module, as far as its order depends on it."""

    def __init__(self, module: str, number: int) -> None:
        self.path = Path(module)
        self.number = number

    def get_closest_marker(self, name: str) -> str | None:
        return name if self.path.is_relative_to("live") else None


def make_items(module: str, count: int) -> list[Any]:
    return [FakeItem(module, number) for number in range(count)]


def test_each_worker_gets_the_same_number_of_live_modules() -> None:
    live = [make_items(f"live/{name}", 2) for name in "abcd"]
    others = [make_items(f"core/{name}", 2) for name in "abcd"]

    order = distribute_tests([*chain(*live, *others)], 2)

    assert [str(item.path) for item in order[::2]] == [
        *("live/a", "core/a", "live/c", "core/c"),
        *("live/b", "core/b", "live/d", "core/d"),
    ]


def test_no_test_is_lost_and_modules_stay_together() -> None:
    modules = [make_items(f"{'live' if n % 3 else 'core'}/{n}", n) for n in range(1, 20)]
    items = [*chain(*modules)]

    for workers in range(1, 9):
        order = distribute_tests(items, workers)
        assert sorted(map(id, order)) == sorted(map(id, items))
        starts = [item for item in order if item.number == 0]
        assert [item for start in starts for item in modules[int(start.path.name) - 1]] == order


def test_tests_without_live_ones_are_distributed_too() -> None:
    items = make_items("core/a", 3)

    assert distribute_tests(items, 4) == items
    assert distribute_tests([], 4) == []
