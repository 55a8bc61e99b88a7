"""Under pytest-xdist, runs tests that are marked ``serial`` while no other test runs.

They measure times or memory, which tests beside them would disturb.
"""

from __future__ import annotations

import fcntl
import tempfile
from collections.abc import Generator
from pathlib import Path

import pytest


class SerialTests:
    """A plugin for each worker process of a run.

    Workers hold two locks of the system, which a process that dies gives back.  A serial test keeps
    the gate closed, so that no other test starts, and waits until the room is empty.
    """

    def __init__(self, run: str) -> None:
        """``run`` is the id of the test run, the same in all its workers."""
        folder = Path(tempfile.gettempdir())
        self._gate = (folder / f"forwarder-tests-{run}.gate").open("w")
        self._room = (folder / f"forwarder-tests-{run}.room").open("w")
        self._is_alone = False

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(
        self, item: pytest.Item, nextitem: pytest.Item | None
    ) -> Generator[None, object, object]:
        self._enter(_is_serial(item))
        try:
            return (yield)
        finally:
            # The room is kept for a serial test that follows: to empty it again would take a while.
            if not (self._is_alone and _is_serial(nextitem)):
                self._leave()

    def pytest_unconfigure(self) -> None:
        for file in (self._gate, self._room):
            Path(file.name).unlink(missing_ok=True)
            file.close()

    def _enter(self, alone: bool) -> None:
        if self._is_alone:
            return
        fcntl.flock(self._gate, fcntl.LOCK_EX)
        fcntl.flock(self._room, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        if not alone:
            fcntl.flock(self._gate, fcntl.LOCK_UN)
        self._is_alone = alone

    def _leave(self) -> None:
        fcntl.flock(self._room, fcntl.LOCK_UN)
        fcntl.flock(self._gate, fcntl.LOCK_UN)
        self._is_alone = False


def _is_serial(item: pytest.Item | None) -> bool:
    return item is not None and item.get_closest_marker("serial") is not None
