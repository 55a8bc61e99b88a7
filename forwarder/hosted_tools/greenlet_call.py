"""Calls of hosted tools that run in a greenlet of their own."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from forwarder.core.blocking_work import spawn
from forwarder.core.errors import ForwarderError
from forwarder.core.types import Json
from forwarder.hosted_tools.hosted_function import CallOutcome


class ToolFailure(Exception):
    """A call failed; the message is for the model and the client."""


class GreenletCall:
    """A call in the background.

    ``work`` gets the call and returns the output for the model and further fields of the item.
    ``make_outcome`` makes the outcome from the item, its status, the output and these fields. A
    call that takes longer than ``seconds`` is cancelled when its outcome is read. The work of a
    cancelled call runs on until its own limits end it, unless it ends by ``cancel_callbacks``.
    """

    def __init__(
        self,
        work: Callable[[GreenletCall], tuple[str, Json]],
        make_outcome: Callable[..., CallOutcome],
        seconds: float,
    ) -> None:
        self._work = work
        self._make_outcome = make_outcome
        self._ends_at = time.monotonic() + seconds
        self._done = threading.Event()
        self._output: str | None = None
        self._fields: Json = {}
        self._error: str | None = None
        self.is_cancelled = False
        self.cancel_callbacks: set[Callable[[], None]] = set()
        spawn(self._run)

    def wait(self, seconds: float | None) -> bool:
        return self._done.wait(self.limit_wait(seconds)) or time.monotonic() >= self._ends_at

    def limit_wait(self, seconds: float | None) -> float:
        """Return the seconds to wait, at most until the call is abandoned."""
        left = max(0.0, self._ends_at - time.monotonic())
        return left if seconds is None else min(seconds, left)

    def cancel(self) -> None:
        self.is_cancelled = True
        self._done.set()
        for cancel in list(self.cancel_callbacks):
            cancel()

    def read_outcome(self, item: Json) -> CallOutcome:
        if self._output is not None:
            return self._make_outcome(item, "completed", self._output, self._fields)
        if self._error is not None:
            return self._make_outcome(item, "failed", self._error)
        self.cancel()
        return self._make_outcome(item, "failed", "The call took too long.")

    def _run(self) -> None:
        try:
            self._output, self._fields = self._work(self)
        except ToolFailure as failure:
            self._error = str(failure)
        except ForwarderError as failure:
            self._error = failure.message
        except Exception:
            self._error = "The call failed unexpectedly."
            if not self.is_cancelled:
                raise
        finally:
            self._done.set()
            self.on_end()

    def on_end(self) -> None:
        """Called when the work has ended."""
