"""gunicorn's settings. gunicorn's command line and ``GUNICORN_CMD_ARGS`` override them.

Each setting can be set in the environment or in the forwarder's ``.env`` file; ``.env.example``
documents them. ``forwarder serve`` passes this file to gunicorn; in a checkout the file
``gunicorn.conf.py`` executes it.

gunicorn's master executes this file again on SIGHUP, so that changes of the ``.env`` file take
effect. The file therefore copies no ``.env`` value into the master's environment, where the first
value would persist. It imports no forwarder module either, because the master would keep the old
code and pass it to workers that start after a deploy.
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
    "forwarder.server.gunicorn_worker.Worker"  # gevent with a graceful end of running answers
)
forwarder_headers = ""  # clients must not set SCRIPT_NAME or PATH_INFO by headers
control_socket_disable = True  # its path would be shared by all instances of a user
preload_app = False  # gevent must replace the sockets before the application is imported


class GunicornSetting(NamedTuple):
    """A gunicorn setting, its environment variable, its default as text, and its minimum.

    Without a minimum the value is text instead of an integer.
    """

    name: str
    variable: str
    default: str
    minimum: int | None = None


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
    """Return the environment merged over the file in ``FORWARDER_DOTENV``.

    Without that variable the file is ``.env`` in ``directory``. A relative path is relative to the
    directory in which gunicorn was started. This function makes it absolute in ``os.environ``,
    because the workers run in ``directory``.
    """
    dotenv = os.environ.get("FORWARDER_DOTENV")
    if dotenv:
        dotenv = os.environ["FORWARDER_DOTENV"] = os.path.abspath(dotenv)
    path = directory / ".env" if dotenv is None else Path(dotenv)
    values = dotenv_values(path) if dotenv != "" and path.is_file() else {}
    return {**values, **os.environ}


def read_settings(
    environment: Mapping[str, str | None], fail: Callable[[str], object]
) -> dict[str, str | int]:
    """Return gunicorn's settings by name; call ``fail`` once with all mistakes, one line each."""
    values: dict[str, str | int] = {}
    mistakes = []
    # As in gunicorn itself: platforms that set only PORT expect the server on this address.
    port = (environment.get("PORT") or "").strip()
    implied = {"GUNICORN_BIND": f"0.0.0.0:{port}"} if port else {}
    for row in SETTINGS:
        default = implied.get(row.variable, row.default)
        text = (environment.get(row.variable) or "").strip() or default
        if row.minimum is None:
            values[row.name] = text
        elif text.isdecimal() and int(text) >= row.minimum:
            values[row.name] = int(text)
        else:
            mistakes.append(f"{row.variable} must be a whole number from {row.minimum}")
    if mistakes:
        fail("\n".join(mistakes))
    return values


# -- the directory in which the workers' metrics are combined, for GET /metrics ------------------

_METRICS_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
_METRICS_PREFIX = "forwarder-metrics-"


def make_metrics_directory() -> None:
    """Create a private directory for this master, unless the operator configures one.

    The Prometheus client reads the variable when the workers import it.
    """
    prefix = f"{_METRICS_PREFIX}{os.getpid()}-"
    configured = Path(os.environ.get(_METRICS_VARIABLE, ""))
    # During an upgrade the variable may name the old master's directory, which that master removes.
    is_foreign = configured.name.startswith(_METRICS_PREFIX) and not configured.name.startswith(
        prefix
    )
    if is_foreign or not configured.name:
        os.environ[_METRICS_VARIABLE] = tempfile.mkdtemp(prefix=prefix)
        atexit.register(remove_directory, os.environ[_METRICS_VARIABLE], os.getpid())
    else:
        configured.mkdir(parents=True, exist_ok=True)


def remove_directory(directory: str, master: int) -> None:
    if os.getpid() == master:  # workers inherit this exit function and must keep the directory
        shutil.rmtree(directory, ignore_errors=True)


def child_exit(server: object, worker: object) -> None:
    """Remove the gauges of a worker that has ended from the metrics."""
    from prometheus_client.multiprocess import mark_process_dead

    mark_process_dead(worker.pid)  # type: ignore[attr-defined,no-untyped-call]


if __name__ == "__config__":  # gunicorn executes it under this name; `forwarder check` imports it
    _directory: Path = globals().get("DIRECTORY", Path.cwd())
    chdir = str(_directory)  # the directory of .env and the database
    globals().update(read_settings(read_environment(_directory), sys.exit))
    make_metrics_directory()
