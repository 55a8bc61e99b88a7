"""A Redis of the test's own, on a free port of loopback.

``REQUIRE_REDIS=1`` makes its absence a failure instead of a skip.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live.server import free_port

PROGRAM = shutil.which("redis-server")

needs_redis = pytest.mark.skipif(
    PROGRAM is None and os.environ.get("REQUIRE_REDIS") != "1",
    reason="redis-server is not installed",
)


@contextlib.contextmanager
def redis_at(port: int, directory: Path) -> Iterator[str]:
    """Its address; it keeps nothing, and is stopped at the end."""
    with redis_process(port, directory):
        yield f"redis://127.0.0.1:{port}/0"


@contextlib.contextmanager
def redis_process(port: int, directory: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The same; its process, which a test may stop and continue."""
    assert PROGRAM is not None, "redis-server is not installed"
    options = {"bind": "127.0.0.1", "port": str(port), "dir": str(directory), "save": ""}
    words = [word for name, value in options.items() for word in (f"--{name}", value)]
    process = subprocess.Popen([PROGRAM, *words], stdout=subprocess.DEVNULL)
    try:
        _wait(process, port)
        yield process
    finally:
        process.send_signal(signal.SIGCONT)
        process.terminate()
        process.wait(10)


def _wait(process: subprocess.Popen[bytes], port: int, seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.05)
    raise RuntimeError("redis-server did not start")


__all__ = ["free_port", "needs_redis", "redis_at", "redis_process"]
