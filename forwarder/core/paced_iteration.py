"""Loops over a client's items that let other requests run in between.

A request may hold hundreds of thousands of items.  Translating them in one go would stall all
other requests of the process for a second.  The translators are pure and know no scheduler, so the
process sets the function that makes the pause.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")

LARGE_BYTES = 2**20
"""Before a step on a text of at least this size, other requests may run."""

ITEMS_PER_SLICE = 2000
"""Items between two pauses: about 10 ms of work."""


def _do_not_pause() -> None:
    """Default under threads, which are preempted anyway."""


_pause: Callable[[], None] = _do_not_pause


def set_pause(pause: Callable[[], None]) -> None:
    """Set the function that every long loop of this process calls between its slices."""
    global _pause
    _pause = pause


def give_way(size: int = LARGE_BYTES) -> None:
    """Let other requests run before a step on ``size`` bytes, if ``size`` is large."""
    if size >= LARGE_BYTES:
        _pause()


def iter_paced(items: Sequence[T], count: int = ITEMS_PER_SLICE) -> Iterable[T]:
    """Iterate over ``items`` with a pause after each ``count`` of them."""
    return items if len(items) <= count else _iter_slices(items, count)


def _iter_slices(items: Sequence[T], count: int) -> Iterator[T]:
    for number, item in enumerate(items):
        if number and number % count == 0:
            give_way()
        yield item
