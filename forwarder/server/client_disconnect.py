"""Notices that a client has gone while nothing is being written to it.

A closed connection shows itself only when something is read from it or written to it, and while
an upstream thinks neither happens.  Under gevent a watcher on the client's socket is cheap; under
threads there is none, and the next keep-alive finds out.
"""

from __future__ import annotations

import select
import socket
from collections.abc import Callable
from typing import Any

import gevent
from gevent import get_hub, monkey

_READ_EVENT = 1
"""What the loop's watcher waits for."""

_HANG_UP_EVENTS = getattr(select, "POLLRDHUP", 0) | select.POLLHUP | select.POLLERR


def on_client_disconnect(
    client: socket.socket | None, leave: Callable[[], Any]
) -> Callable[[], None]:
    """Call ``leave`` when ``client`` hangs up; gives the function that ends the watch."""
    if client is None or not monkey.is_module_patched("socket"):
        return lambda: None
    descriptor = client.fileno()
    watcher = get_hub().loop.io(descriptor, _READ_EVENT)

    def check_client() -> None:
        watcher.stop()  # once is enough: what else there is to read is the next request
        if has_hung_up(descriptor):
            gevent.spawn(leave)

    def stop_watching() -> None:
        watcher.stop()
        watcher.close()

    watcher.start(check_client)
    return stop_watching


def has_hung_up(descriptor: int) -> bool:
    # The poll of the system, not gevent's: it is asked in the loop itself and must not wait.
    poll = monkey.get_original("select", "poll")()
    poll.register(descriptor, _HANG_UP_EVENTS)
    return bool(poll.poll(0))
