"""Runs PostgreSQL servers for tests, if PostgreSQL is installed.

``REQUIRE_POSTGRES=1`` makes a missing installation a failure instead of a skip.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.live.server import find_free_port

_PLACES = ["/usr/local/bin", *map(str, Path("/usr/lib/postgresql").glob("*/bin"))]


def _find_program(name: str) -> str | None:
    path = shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", ""), *_PLACES]))
    return os.path.realpath(path) if path else None


_SERVER, _INITDB = _find_program("postgres"), _find_program("initdb")
_UNPRIVILEGED: dict[str, Any] = {"user": "nobody", "group": "nogroup"} if os.geteuid() == 0 else {}
"""The server refuses to run as root."""

needs_postgres = pytest.mark.skipif(
    not (_SERVER and _INITDB) and os.environ.get("REQUIRE_POSTGRES") != "1",
    reason="PostgreSQL is not installed",
)


_QUIET: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}


class Postgres:
    """A server with one empty database, which a test may stop, start and hang."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._port = find_free_port()
        self.url = f"postgresql://forwarder@127.0.0.1:{self._port}/postgres"
        self._server: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        assert _SERVER, "PostgreSQL is not installed"
        directory = self._directory
        options = [*("-p", str(self._port)), *("-h", "127.0.0.1"), *("-k", str(directory)), "-F"]
        command = [_SERVER, "-D", str(directory / "data"), *options]
        self._server = subprocess.Popen(command, cwd=directory, **_UNPRIVILEGED, **_QUIET)
        _wait(self.url)

    def stop(self) -> None:
        if self._server is not None:
            self._server.send_signal(signal.SIGINT)
            self._server.wait(20)
            self._server = None

    def list_processes(self) -> list[int]:
        """Return the ids of the server process and its children; none if it is stopped."""
        if self._server is None:
            return []
        pid = self._server.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text()
        return [pid, *map(int, children.split())]


@contextlib.contextmanager
def run_postgres_process() -> Iterator[Postgres]:
    """Run a server; stop and remove it at the end."""
    assert _INITDB, "PostgreSQL is not installed"
    directory = Path(tempfile.mkdtemp(prefix="forwarder-pg-"))
    if _UNPRIVILEGED:
        shutil.chown(directory, **_UNPRIVILEGED)
    # On a machine without a locale, the default encoding would be SQL_ASCII.
    locale = ["--locale=C", "--encoding=UTF8"]
    data = ["-D", str(directory / "data")]
    command = [_INITDB, *data, "-A", "trust", "-U", "forwarder", "--no-sync", *locale]
    subprocess.run(command, check=True, cwd=directory, **_UNPRIVILEGED, **_QUIET)
    server = Postgres(directory)
    try:
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(directory, ignore_errors=True)


@contextlib.contextmanager
def run_postgres() -> Iterator[str]:
    """Run a server with one empty database and yield its URL; remove it at the end."""
    with run_postgres_process() as server:
        yield server.url


def create_database(server: str) -> str:
    """Create another empty database on the server of a URL, and return its URL."""
    name = f"forwarder_{secrets.token_hex(4)}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return f"{server.rpartition('/')[0]}/{name}"


def _wait(url: str) -> None:
    deadline = time.monotonic() + 20
    while True:
        try:
            psycopg.connect(url, connect_timeout=2).close()
            return
        except psycopg.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
