"""gunicorn's settings; its own command line and ``GUNICORN_CMD_ARGS`` go before them.

Each may be set in the environment or in the forwarder's ``.env`` file; ``.env.example`` documents
them.  gunicorn's master reads this file again on SIGHUP, and so does the ``.env`` file count then:
its values are not put into the master's environment, where the first would stay for ever.  For
the same reason nothing of the forwarder is imported here: a deploy would go on with old code.
"""

import atexit
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from dotenv import dotenv_values

worker_class = "forwarder.network.worker.Worker"  # gevent, and it ends what it has begun
forwarder_headers = ""  # no client's SCRIPT_NAME or PATH_INFO says what is asked for
control_socket_disable = True  # one path for all instances of a user, and nobody asked for it
preload_app = False  # gevent has to replace the sockets before anything is imported

HERE = Path(__file__).resolve().parent
chdir = str(HERE)  # wherever gunicorn is started: wsgi.py, .env and the database are found here


class Setting(NamedTuple):
    """gunicorn's name, our variable, its default as text, and the least number it may be.

    Without a least number it is text.
    """

    name: str
    variable: str
    default: str
    least: int | None = None


SETTINGS = (
    Setting("bind", "GUNICORN_BIND", "127.0.0.1:8000"),
    Setting("workers", "WEB_CONCURRENCY", "1", 1),
    Setting("worker_connections", "GUNICORN_WORKER_CONNECTIONS", "4000", 1),
    Setting("backlog", "GUNICORN_BACKLOG", "2048", 1),
    Setting("timeout", "GUNICORN_TIMEOUT", "30", 0),
    Setting("graceful_timeout", "GUNICORN_GRACEFUL_TIMEOUT", "30", 1),
    Setting("keepalive", "GUNICORN_KEEPALIVE", "75", 0),
    Setting("max_requests", "GUNICORN_MAX_REQUESTS", "0", 0),
    Setting("max_requests_jitter", "GUNICORN_MAX_REQUESTS_JITTER", "100", 0),
    Setting("limit_request_line", "GUNICORN_LIMIT_REQUEST_LINE", "4094", 0),
    Setting("limit_request_fields", "GUNICORN_LIMIT_REQUEST_FIELDS", "100", 1),
    Setting("limit_request_field_size", "GUNICORN_LIMIT_REQUEST_FIELD_SIZE", "8190", 0),
)


def _given() -> dict[str, str | None]:
    """The environment, over the file that ``FORWARDER_DOTENV`` names (``.env`` beside this one).

    A relative path is meant from where gunicorn was started, which workers no longer know.
    """
    named = os.environ.get("FORWARDER_DOTENV")
    if named:
        named = os.environ["FORWARDER_DOTENV"] = os.path.abspath(named)
    path = HERE / ".env" if named is None else Path(named)
    found = dotenv_values(path) if named != "" and path.is_file() else {}
    return {**found, **os.environ}


def read(given: Mapping[str, str | None], fail: Callable[[str], object]) -> dict[str, str | int]:
    """gunicorn's name -> value; ``fail`` is told all mistakes at once, one line each."""
    values: dict[str, str | int] = {}
    mistakes = []
    # The address that gunicorn itself takes where a platform says only the port.
    port = (given.get("PORT") or "").strip()
    implied = {"GUNICORN_BIND": f"0.0.0.0:{port}"} if port else {}
    for row in SETTINGS:
        default = implied.get(row.variable, row.default)
        text = (given.get(row.variable) or "").strip() or default
        if row.least is None:
            values[row.name] = text
        elif text.isdecimal() and int(text) >= row.least:
            values[row.name] = int(text)
        else:
            mistakes.append(f"{row.variable} must be a whole number from {row.least}")
    if mistakes:
        fail("\n".join(mistakes))
    return values


globals().update(read(_given(), sys.exit))


# -- where the workers count together, for GET /metrics ------------------------------------------

_COUNTED_IN = "PROMETHEUS_MULTIPROC_DIR"
_ANY = "forwarder-metrics-"
_PREFIX = f"{_ANY}{os.getpid()}-"


def _make_directory() -> None:
    """A private directory for this master, unless the operator names one.

    The client library looks for it when it is imported, which is later, in the workers.
    """
    given = Path(os.environ.get(_COUNTED_IN, ""))
    # One that another master made is removed with that master: it may be about to be replaced.
    foreign = given.name.startswith(_ANY) and not given.name.startswith(_PREFIX)
    if foreign or not given.name:
        os.environ[_COUNTED_IN] = tempfile.mkdtemp(prefix=_PREFIX)
        atexit.register(_remove, os.environ[_COUNTED_IN], os.getpid())
    else:
        given.mkdir(parents=True, exist_ok=True)


def _remove(directory: str, master: int) -> None:
    if os.getpid() == master:  # workers inherit this and must leave it alone
        shutil.rmtree(directory, ignore_errors=True)


def child_exit(server: object, worker: object) -> None:
    """What a worker that is gone had open is open no more."""
    from prometheus_client.multiprocess import mark_process_dead

    mark_process_dead(worker.pid)


_make_directory()
