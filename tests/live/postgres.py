"""A PostgreSQL server of the test's own, where the programs for one are installed.

``REQUIRE_POSTGRES=1`` makes their absence a failure instead of a skip.
"""

from __future__ import annotations

import contextlib
import os
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

from tests.live.server import free_port

_PLACES = ["/usr/local/bin", *map(str, Path("/usr/lib/postgresql").glob("*/bin"))]


def _program(name: str) -> str | None:
    found = shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", ""), *_PLACES]))
    return os.path.realpath(found) if found else None


_SERVER, _INITDB = _program("postgres"), _program("initdb")
_ANYBODY: dict[str, Any] = {"user": "nobody", "group": "nogroup"} if os.geteuid() == 0 else {}
"""The server refuses to be root."""

needs_postgres = pytest.mark.skipif(
    not (_SERVER and _INITDB) and os.environ.get("REQUIRE_POSTGRES") != "1",
    reason="PostgreSQL is not installed",
)


@contextlib.contextmanager
def running_postgres() -> Iterator[str]:
    """The URL of a server with one empty database; stopped and removed at the end."""
    assert _SERVER, "PostgreSQL is not installed"
    assert _INITDB, "PostgreSQL is not installed"
    directory, port = Path(tempfile.mkdtemp(prefix="forwarder-pg-")), free_port()
    data = directory / "data"
    if _ANYBODY:
        shutil.chown(directory, **_ANYBODY)
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    # Whatever locale the machine has: without one it would be an encoding of bytes alone.
    locale = ["--locale=C", "--encoding=UTF8"]
    made = [_INITDB, "-D", str(data), "-A", "trust", "-U", "forwarder", "--no-sync", *locale]
    subprocess.run(made, check=True, cwd=directory, **_ANYBODY, **quiet)
    options = [*("-p", str(port)), *("-h", "127.0.0.1"), *("-k", str(directory)), "-F"]
    server = subprocess.Popen(
        [_SERVER, "-D", str(data), *options], cwd=directory, **_ANYBODY, **quiet
    )
    try:
        url = f"postgresql://forwarder@127.0.0.1:{port}/postgres"
        _wait(url)
        yield url
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(20)
        shutil.rmtree(directory, ignore_errors=True)


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
