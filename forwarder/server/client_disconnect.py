"""Detection of clients that disconnect while the upstream has not answered yet.

A closed connection becomes visible only on a read or write, and neither happens while an upstream
is working. Under gevent, a cheap watcher on the client's socket detects the disconnect. Under
threads there is no watcher; the next keep-alive write fails instead. `RequestContext.cancel` ends
the request's work then.
"""

from __future__ import annotations

import select
import socket
from collections.abc import Callable
from typing import Any

import gevent
from gevent import get_hub, monkey

_READ_EVENT = 1
"""The libev flag for readable sockets."""

_HANG_UP_EVENTS = getattr(select, "POLLRDHUP", 0) | select.POLLHUP | select.POLLERR


def on_client_disconnect(
    client: socket.socket | None, on_disconnect: Callable[[], Any]
) -> Callable[[], None]:
    """Call ``on_disconnect`` when ``client`` disconnects. Returns a function that stops this."""
    if client is None or not monkey.is_module_patched("socket"):
        return lambda: None
    descriptor = client.fileno()
    watcher = get_hub().loop.io(descriptor, _READ_EVENT)

    def check_client() -> None:
        watcher.stop()  # fires once: other readable data is the next request
        if has_hung_up(descriptor):
            gevent.spawn(on_disconnect)

    def stop_watching() -> None:
        watcher.stop()
        watcher.close()

    watcher.start(check_client)
    return stop_watching


def has_hung_up(descriptor: int) -> bool:
    # The system's poll, not gevent's: this runs in the event loop itself and must not block.
    poll = monkey.get_original("select", "poll")()
    poll.register(descriptor, _HANG_UP_EVENTS)
    return bool(poll.poll(0))
