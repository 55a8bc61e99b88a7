"""The forwarder with an additional route that counts open resources: ``GET /_held``."""

from __future__ import annotations

import gc
import os
import stat
import threading
from typing import Any

from greenlet import greenlet

from wsgi import app


@app.get("/_held")
def count_open_resources() -> dict[str, Any]:
    """Count the open resources of this process, including those of this request."""
    gc.collect()
    return {
        "descriptors": len(os.listdir("/proc/self/fd")),
        "connections": sum(map(is_socket, os.listdir("/proc/self/fd"))),
        "greenlets": sum(isinstance(o, greenlet) and not o.dead for o in gc.get_objects()),
        "threads": threading.active_count(),
        "exchanges": len(app.extensions["forwarder"].running),
    }


def is_socket(descriptor: str) -> bool:
    try:
        return stat.S_ISSOCK(os.fstat(int(descriptor)).st_mode)
    except OSError:  # the descriptor of the listing itself is already closed
        return False
