"""Work that the process repeats in the background, from `start` to `stop`."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial

from forwarder.core.blocking_work import BackgroundRun, spawn

STOP_SECONDS = 2.0
"""Seconds that `PeriodicTask.stop` waits for work that is running."""


class PeriodicTask:
    """Runs ``work`` again and again, ``next_pause()`` seconds after its previous run has ended.

    The first run begins after a pause too, unless ``runs_at_once``. ``work`` handles its own
    exceptions: one that it raises ends the task.
    """

    def __init__(
        self,
        work: Callable[[], object],
        next_pause: Callable[[], float],
        runs_at_once: bool = False,
    ) -> None:
        self._work = work
        self._next_pause = next_pause
        self._runs_at_once = runs_at_once
        self._stopped = threading.Event()
        self._run: BackgroundRun | None = None

    def start(self) -> None:
        """Start the task unless it is running."""
        if self._run is None:
            self._stopped = threading.Event()  # an earlier run may still be ending
            self._run = spawn(partial(self._repeat_work, self._stopped))

    def stop(self) -> None:
        """End the task, and wait briefly for work that is running."""
        run, self._run = self._run, None
        self._stopped.set()
        if run is not None:
            run.join(STOP_SECONDS)

    def _repeat_work(self, stopped: threading.Event) -> None:
        if self._runs_at_once:
            self._work()
        while not stopped.wait(self._next_pause()):
            self._work()
