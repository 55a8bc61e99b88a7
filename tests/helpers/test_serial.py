"""Tests that are marked ``serial`` run alone, also beside other workers."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import suppress
from threading import Thread
from typing import Any

import pytest

from tests.helpers.serial import SerialTests


class Item:
    """The part of a pytest item that the plugin uses."""

    def __init__(self, *markers: str) -> None:
        self._markers = markers

    def get_closest_marker(self, name: str) -> str | None:
        return name if name in self._markers else None


PLAIN, SERIAL = Item(), Item("serial")
SHORT = 0.1


class Worker:
    """A thread in place of a worker process."""

    def __init__(self, run: str) -> None:
        self.plugin = SerialTests(run)

    def start(self, item: Item, following: Item | None = None) -> Worker:
        self._protocol: Any = self.plugin.pytest_runtest_protocol(item, following)  # type: ignore[arg-type]
        self._thread = Thread(target=next, args=[self._protocol], daemon=True)
        self._thread.start()
        return self

    def runs(self, within: float = SHORT) -> bool:
        self._thread.join(within)
        return not self._thread.is_alive()

    def end(self) -> None:
        with suppress(StopIteration):
            self._protocol.send(None)


@pytest.fixture
def workers() -> Iterator[list[Worker]]:
    run = uuid.uuid4().hex
    new_workers = [Worker(run) for _ in range(3)]
    yield new_workers
    for worker in new_workers:
        worker.plugin.pytest_unconfigure()


def test_serial_test_waits_for_running_ones_and_holds_back_new_ones(workers: list[Worker]) -> None:
    first, second, third = workers
    assert first.start(PLAIN).runs(5)
    assert not second.start(SERIAL).runs()
    assert not third.start(PLAIN).runs()

    first.end()
    assert second.runs(5)
    assert not third.runs()

    second.end()
    assert third.runs(5)
    third.end()


def test_plain_tests_run_together(workers: list[Worker]) -> None:
    assert all(worker.start(PLAIN).runs(5) for worker in workers)
    for worker in workers:
        worker.end()


def test_consecutive_serial_tests_run_without_interruption(workers: list[Worker]) -> None:
    first, second, _ = workers
    assert first.start(SERIAL, following=SERIAL).runs(5)
    assert not second.start(PLAIN).runs()
    first.end()
    assert first.start(SERIAL).runs(5)
    assert not second.runs()

    first.end()
    assert second.runs(5)
    second.end()
