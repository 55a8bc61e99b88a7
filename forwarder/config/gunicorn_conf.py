"""gunicorn's settings.  gunicorn's command line and ``GUNICORN_CMD_ARGS`` override them.

Each one can be set in the environment or in the forwarder's ``.env`` file; ``.env.example``
documents them.  ``forwarder serve`` passes this file to gunicorn; in a checkout the file
``gunicorn.conf.py`` executes it.

gunicorn's master executes it again on SIGHUP, so that changes of the ``.env`` file take effect.
Therefore it puts none of that file's values into the master's environment, where the first ones
would stay.  It imports nothing of the forwarder either: the master would keep the old code and pass
it to the workers that it starts after a deploy.
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

worker_class = (
    "forwarder.server.gunicorn_worker.Worker"  # gevent, and it ends running answers properly
)
forwarder_headers = ""  # clients must not set SCRIPT_NAME or PATH_INFO by headers
control_socket_disable = True  # all instances of a user would share its path
preload_app = False  # gevent must replace the sockets before the application is imported


class GunicornSetting(NamedTuple):
    """gunicorn's name, our variable, its default as text, and the least number it may be.

    Without a least number it is text.
    """

    name: str
    variable: str
    default: str
    least: int | None = None


SETTINGS = (
    GunicornSetting("bind", "GUNICORN_BIND", "127.0.0.1:8000"),
    GunicornSetting("workers", "WEB_CONCURRENCY", "1", 1),
    GunicornSetting("worker_connections", "GUNICORN_WORKER_CONNECTIONS", "4000", 1),
    GunicornSetting("backlog", "GUNICORN_BACKLOG", "2048", 1),
    GunicornSetting("timeout", "GUNICORN_TIMEOUT", "30", 0),
    GunicornSetting("graceful_timeout", "GUNICORN_GRACEFUL_TIMEOUT", "30", 1),
    GunicornSetting("keepalive", "GUNICORN_KEEPALIVE", "75", 0),
    GunicornSetting("max_requests", "GUNICORN_MAX_REQUESTS", "0", 0),
    GunicornSetting("max_requests_jitter", "GUNICORN_MAX_REQUESTS_JITTER", "100", 0),
    GunicornSetting("limit_request_line", "GUNICORN_LIMIT_REQUEST_LINE", "4094", 0),
    GunicornSetting("limit_request_fields", "GUNICORN_LIMIT_REQUEST_FIELDS", "100", 1),
    GunicornSetting("limit_request_field_size", "GUNICORN_LIMIT_REQUEST_FIELD_SIZE", "8190", 0),
)


def read_environment(directory: Path) -> dict[str, str | None]:
    """The environment, over the file that ``FORWARDER_DOTENV`` names (``.env`` in ``directory``).

    A relative path is relative to the directory in which gunicorn was started.  It is made absolute
    in the environment, because the workers run in ``directory``.
    """
    named = os.environ.get("FORWARDER_DOTENV")
    if named:
        named = os.environ["FORWARDER_DOTENV"] = os.path.abspath(named)
    path = directory / ".env" if named is None else Path(named)
    found = dotenv_values(path) if named != "" and path.is_file() else {}
    return {**found, **os.environ}


def read_settings(
    environment: Mapping[str, str | None], fail: Callable[[str], object]
) -> dict[str, str | int]:
    """gunicorn's name -> value; calls ``fail`` once with all mistakes, one line each."""
    values: dict[str, str | int] = {}
    mistakes = []
    # Like gunicorn itself: a platform that sets only the port expects this address.
    port = (environment.get("PORT") or "").strip()
    implied = {"GUNICORN_BIND": f"0.0.0.0:{port}"} if port else {}
    for row in SETTINGS:
        default = implied.get(row.variable, row.default)
        text = (environment.get(row.variable) or "").strip() or default
        if row.least is None:
            values[row.name] = text
        elif text.isdecimal() and int(text) >= row.least:
            values[row.name] = int(text)
        else:
            mistakes.append(f"{row.variable} must be a whole number from {row.least}")
    if mistakes:
        fail("\n".join(mistakes))
    return values


# -- the directory in which the workers count together, for GET /metrics -------------------------

_METRICS_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
_METRICS_PREFIX = "forwarder-metrics-"


def make_metrics_directory() -> None:
    """Make a private directory for this master, unless the operator names one.

    The Prometheus client looks for it when the workers import it.
    """
    prefix = f"{_METRICS_PREFIX}{os.getpid()}-"
    given = Path(os.environ.get(_METRICS_VARIABLE, ""))
    # Another master removes its directory when it ends: it may be about to be replaced by this one.
    is_foreign = given.name.startswith(_METRICS_PREFIX) and not given.name.startswith(prefix)
    if is_foreign or not given.name:
        os.environ[_METRICS_VARIABLE] = tempfile.mkdtemp(prefix=prefix)
        atexit.register(remove_directory, os.environ[_METRICS_VARIABLE], os.getpid())
    else:
        given.mkdir(parents=True, exist_ok=True)


def remove_directory(directory: str, master: int) -> None:
    if os.getpid() == master:  # workers inherit this function and must leave the directory alone
        shutil.rmtree(directory, ignore_errors=True)


def child_exit(server: object, worker: object) -> None:
    """Tell the Prometheus client that a worker has ended: its gauges no longer count."""
    from prometheus_client.multiprocess import mark_process_dead

    mark_process_dead(worker.pid)  # type: ignore[attr-defined,no-untyped-call]


if __name__ == "__config__":  # gunicorn executes it under this name; `forwarder check` imports it
    _directory: Path = globals().get("DIRECTORY", Path.cwd())
    chdir = str(_directory)  # where .env and the database are found, wherever gunicorn is started
    globals().update(read_settings(read_environment(_directory), sys.exit))
    make_metrics_directory()
