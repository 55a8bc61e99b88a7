"""Start-up check that gunicorn uses the settings of ``gunicorn.conf.py``.

gunicorn reads that file only from its working directory. Elsewhere it silently uses a worker that
serves one request at a time. A worker class on the command line also overrides the file silently.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any, NoReturn

WORKER_CLASS = "forwarder.server.gunicorn_worker.Worker"

EXIT_WILL_NOT_LOAD = 4
"""gunicorn's exit code for an application that fails to load. gunicorn retries after others."""

MAX_WAIT_SECONDS = 20.0
"""How long a worker waits until another worker exits. Less than gunicorn's own time-out."""

_POLL_SECONDS = 0.05


def find_gunicorn_mistake() -> str | None:
    """Return the reason why the importing gunicorn process must not serve the forwarder.

    Returns None if its settings are right or if the importing process is not gunicorn.
    """
    config = next((each.cfg for each in iter_gunicorn_objects()), None)
    if config is None:
        return None
    if config.worker_class_str != WORKER_CLASS:
        return (
            f"gunicorn uses the worker class '{config.worker_class_str}' instead of the "
            'forwarder\'s. Run "forwarder serve", or start gunicorn in the directory of wsgi.py or '
            "with -c /path/to/gunicorn.conf.py, and do not set another worker class."
        )
    if config.preload_app:
        return (
            "with --preload, gunicorn loads it before gevent replaces the sockets. "
            "Start gunicorn without --preload."
        )
    return None


def refuse_to_load(message: str) -> NoReturn:
    """Write ``message`` to standard error and exit so that gunicorn exits too.

    gunicorn exits when a worker exits with ``EXIT_WILL_NOT_LOAD``, but fails with a traceback if
    a second worker does the same meanwhile. So one worker exits with this code at once, and the
    others wait until gunicorn stops them.
    """
    sys.stderr.write(f"{message}\n")
    sys.stderr.flush()
    worker = find_worker()
    if worker is not None and not is_first_worker():
        deadline = time.monotonic() + MAX_WAIT_SECONDS
        while worker.alive and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)
        if not worker.alive:
            sys.exit(0)
    sys.exit(EXIT_WILL_NOT_LOAD)


def find_worker() -> Any:
    """Return the gunicorn worker that is loading the forwarder, or None."""
    return next((each for each in iter_gunicorn_objects() if hasattr(each, "age")), None)


def is_first_worker() -> bool:
    """Return whether the process is the first of the workers that gunicorn starts together.

    Also true outside of gunicorn's workers.
    """
    worker = find_worker()
    # Exactly one of the workers that gunicorn starts together has such an age.
    return worker is None or not (worker.age - 1) % worker.cfg.workers


def iter_gunicorn_objects() -> Iterator[Any]:
    """Yield the gunicorn objects that are loading the forwarder, innermost first.

    They are on the call stack; no other access works in both the master and a worker.
    """
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        each = frame.f_locals.get("self")
        if type(getattr(each, "cfg", None)).__module__ == "gunicorn.config":
            yield each
        frame = frame.f_back
