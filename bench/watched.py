"""The forwarder with one more route, which counts what a process could leak: ``GET /_held``."""

from __future__ import annotations

import gc
import os
import stat
import threading
from typing import Any

from greenlet import greenlet

from wsgi import app


@app.get("/_held")
def held() -> dict[str, Any]:
    """What the process holds at this moment, the request that asks included."""
    gc.collect()
    return {
        "descriptors": len(os.listdir("/proc/self/fd")),
        "connections": sum(map(_is_socket, os.listdir("/proc/self/fd"))),
        "greenlets": sum(isinstance(o, greenlet) and not o.dead for o in gc.get_objects()),
        "threads": threading.active_count(),
        "exchanges": len(app.extensions["forwarder"].running),
    }


def _is_socket(descriptor: str) -> bool:
    try:
        return stat.S_ISSOCK(os.fstat(int(descriptor)).st_mode)
    except OSError:  # the one that listed them
        return False
