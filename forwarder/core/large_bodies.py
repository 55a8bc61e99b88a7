"""Lets one request at a time work on something large, and all others run in between.

Parsing or writing 60 MB of JSON takes a tenth of a second in which the loop stands still.  Such
steps must not follow each other, be they of one request or of several.
"""

from __future__ import annotations

import gevent
from gevent import monkey
from gevent.lock import Semaphore

from forwarder.core.pacing import LARGE

_PAUSE_SECONDS = 1e-4
"""Seconds in which others run.  A pause of 0 would end before the loop looks at its sockets."""


class Turnstile:
    """One place for a step that is large."""

    def __init__(self) -> None:
        self._semaphore = Semaphore(1)

    def wait_turn(self, size: int) -> None:
        """Wait for a turn to work on ``size`` bytes: until the caller waits for something else.

        Under threads nobody has to wait: they take turns by themselves.
        """
        if size < LARGE or not monkey.is_module_patched("threading"):
            return
        self._semaphore.acquire()
        try:
            gevent.sleep(_PAUSE_SECONDS)
        except BaseException:
            self._semaphore.release()
            raise
        # The loop calls this only when the caller's step is over.
        gevent.get_hub().loop.run_callback(self._semaphore.release)


take_turn = Turnstile().wait_turn
"""The turnstile of the process."""
