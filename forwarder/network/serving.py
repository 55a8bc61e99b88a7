"""Whether gunicorn serves the forwarder as ``gunicorn.conf.py`` wants it.

gunicorn looks for that file in the directory where it is started.  Elsewhere it continues without
it, with a worker that serves one request at a time.  A worker class on the command line overrides
the file.  gunicorn reports neither, so the forwarder checks both.
"""

from __future__ import annotations

import sys
from types import FrameType
from typing import Any

WORKER = "forwarder.network.worker.Worker"


def find_gunicorn_mistake() -> str | None:
    """Why the gunicorn that imports the forwarder just now must not serve it.

    ``None`` if nothing is wrong, or if it is not gunicorn.
    """
    config = _find_config()
    if config is None:
        return None
    if config.worker_class_str != WORKER:
        return (
            f"gunicorn would serve it with its worker '{config.worker_class_str}' instead of the "
            "forwarder's. Start gunicorn in the directory of wsgi.py, or with "
            "-c /path/of/gunicorn.conf.py, and without a worker class of your own."
        )
    if config.preload_app:
        return (
            "gunicorn would load it before gevent replaces the sockets. "
            "Start gunicorn without --preload."
        )
    return None


def _find_config() -> Any:
    """The settings of the gunicorn application that is loading the forwarder: it is on the stack.

    There is no other way to them that is the same in the master and in a worker.
    """
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        config = getattr(frame.f_locals.get("self"), "cfg", None)
        if type(config).__module__ == "gunicorn.config":
            return config
        frame = frame.f_back
    return None
