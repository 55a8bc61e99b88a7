"""Whether gunicorn serves the forwarder as ``gunicorn.conf.py`` wants it.

gunicorn looks for that file in the directory where it is started.  Elsewhere it continues without
it, with a worker that serves one request at a time.  A worker class on the command line overrides
the file.  gunicorn reports neither, so the forwarder checks both.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any, NoReturn

WORKER_CLASS = "forwarder.server.gunicorn_worker.Worker"

EXIT_WILL_NOT_LOAD = 4
"""gunicorn's exit code for an application that does not load; after others it tries for ever."""

MAX_WAIT_SECONDS = 20.0
"""How long a worker waits for the exit of another; less than gunicorn's own time-out."""

_POLL_SECONDS = 0.05


def find_gunicorn_mistake() -> str | None:
    """Why the gunicorn that imports the forwarder just now must not serve it.

    ``None`` if nothing is wrong, or if it is not gunicorn.
    """
    config = next((each.cfg for each in iter_gunicorn_objects()), None)
    if config is None:
        return None
    if config.worker_class_str != WORKER_CLASS:
        return (
            f"gunicorn would serve it with its worker '{config.worker_class_str}' instead of the "
            'forwarder\'s. Start it with "forwarder serve", or start gunicorn in the directory of '
            "wsgi.py or with -c /path/of/gunicorn.conf.py, and without a worker class of your own."
        )
    if config.preload_app:
        return (
            "gunicorn would load it before gevent replaces the sockets. "
            "Start gunicorn without --preload."
        )
    return None


def refuse_to_load(message: str) -> NoReturn:
    """Write ``message`` and exit, so that gunicorn ends too.

    gunicorn ends when a worker exits with ``EXIT_WILL_NOT_LOAD``.  If a second worker does so while it
    ends, gunicorn fails with a traceback.  So one of the workers exits so at once, and the others
    wait until gunicorn tells them to exit.
    """
    sys.stderr.write(f"{message}\n")
    sys.stderr.flush()
    worker = next((each for each in iter_gunicorn_objects() if hasattr(each, "age")), None)
    # Of as many workers as gunicorn starts at once, exactly one has such an age.
    if worker is not None and (worker.age - 1) % worker.cfg.workers:
        deadline = time.monotonic() + MAX_WAIT_SECONDS
        while worker.alive and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)
        if not worker.alive:
            sys.exit(0)
    sys.exit(EXIT_WILL_NOT_LOAD)


def iter_gunicorn_objects() -> Iterator[Any]:
    """gunicorn's objects that are loading the forwarder, innermost first: they are on the stack.

    There is no other way to them that is the same in the master and in a worker.
    """
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        each = frame.f_locals.get("self")
        if type(getattr(each, "cfg", None)).__module__ == "gunicorn.config":
            yield each
        frame = frame.f_back
