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
        return name if name in self.path.parts else None


def make_items(module: str, count: int) -> list[Any]:
    return [FakeItem(module, number) for number in range(count)]


def test_workers_get_equal_parts_with_as_many_live_tests_each() -> None:
    live = [make_items(f"live/{count}", count) for count in (1, 2, 3, 4)]
    others = [make_items(f"core/{count}", count) for count in (2, 4, 6, 8)]

    order = distribute_tests([*chain(*live, *others)], 2)

    for part in (order[:15], order[15:]):
        assert [item.path.parent.name for item in part].count("live") == 5
    starts = [str(item.path) for item in order if item.number == 0]
    assert starts == [
        *("live/4", "core/8", "live/1", "core/2"),
        *("live/3", "core/6", "live/2", "core/4"),
    ]


def test_slow_modules_begin_each_part() -> None:
    modules = [make_items(f"live/{name}", 2) for name in ("a", "b", "slow/c", "slow/d")]

    order = distribute_tests([*chain(*modules)], 2)

    starts = [str(item.path) for item in order if item.number == 0]
    assert starts == ["live/slow/c", "live/a", "live/slow/d", "live/b"]


def test_distribution_keeps_all_tests_and_modules_together() -> None:
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
