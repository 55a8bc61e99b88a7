"""Serializes steps on large bodies and lets other requests run between them.

Parsing or writing 60 MB of JSON blocks the event loop for a tenth of a second.  Such steps, of one
request or of several, must not directly follow each other.
"""

from __future__ import annotations

import gevent
from gevent import monkey
from gevent.lock import Semaphore

from forwarder.core.paced_iteration import LARGE_BYTES

_PAUSE_SECONDS = 1e-4
"""Seconds for other requests.  A pause of 0 would end before the loop polls its sockets."""

_get_thread_id = monkey.get_original("_thread", "get_ident")

_LOOP_THREAD_ID = _get_thread_id()
"""The thread that imports this module runs the event loop."""


class Turnstile:
    """Admits one large step at a time."""

    def __init__(self) -> None:
        self._semaphore = Semaphore(1)

    def wait_turn(self, size: int) -> None:
        """Wait for a turn to work on ``size`` bytes; the turn ends when the caller next waits.

        Returns at once for small bodies, and in threads, which are preempted anyway: all threads
        without gevent, and native threads that read the database or parse.  A native thread has no
        running loop, which would end its turn.
        """
        if size < LARGE_BYTES or not monkey.is_module_patched("threading"):
            return
        if _get_thread_id() != _LOOP_THREAD_ID:
            return
        self._semaphore.acquire()
        try:
            gevent.sleep(_PAUSE_SECONDS)
        except BaseException:
            self._semaphore.release()
            raise
        # The loop calls this only after the caller's step.
        gevent.get_hub().loop.run_callback(self._semaphore.release)


take_turn = Turnstile().wait_turn
"""The turnstile of the process."""
