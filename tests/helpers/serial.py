"""Under pytest-xdist, runs tests that are marked ``serial`` while no other test runs.

They measure times or memory, which concurrent tests would disturb.
"""

from __future__ import annotations

import fcntl
import tempfile
from collections.abc import Generator
from pathlib import Path

import pytest


class SerialTests:
    """A plugin for each worker process of a run.

    Workers use two file locks, which the system releases if a process dies. Each test holds the run
    lock, shared or exclusively if it is serial. To get it, a test needs the start lock, which a
    serial test keeps, so that no other test starts while it waits for running ones.
    """

    def __init__(self, run: str) -> None:
        """``run`` is the id of the test run, the same in all its workers."""
        folder = Path(tempfile.gettempdir())
        self._start_lock = (folder / f"forwarder-tests-{run}.start").open("w")
        self._run_lock = (folder / f"forwarder-tests-{run}.run").open("w")
        self._is_alone = False

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(
        self, item: pytest.Item, nextitem: pytest.Item | None
    ) -> Generator[None, object, object]:
        self._enter(_is_serial(item))
        try:
            return (yield)
        finally:
            # Keep the locks for a serial test that follows, which would wait for other tests again.
            if not (self._is_alone and _is_serial(nextitem)):
                self._leave()

    def pytest_unconfigure(self) -> None:
        for file in (self._start_lock, self._run_lock):
            Path(file.name).unlink(missing_ok=True)
            file.close()

    def _enter(self, alone: bool) -> None:
        if self._is_alone:
            return
        fcntl.flock(self._start_lock, fcntl.LOCK_EX)
        fcntl.flock(self._run_lock, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        if not alone:
            fcntl.flock(self._start_lock, fcntl.LOCK_UN)
        self._is_alone = alone

    def _leave(self) -> None:
        fcntl.flock(self._run_lock, fcntl.LOCK_UN)
        fcntl.flock(self._start_lock, fcntl.LOCK_UN)
        self._is_alone = False


def _is_serial(item: pytest.Item | None) -> bool:
    return item is not None and item.get_closest_marker("serial") is not None
