"""Runs Redis servers for tests, on free loopback ports.

``REQUIRE_REDIS=1`` makes a missing installation a failure instead of a skip.
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

from tests.live.server import find_free_port

PROGRAM = shutil.which("redis-server")

needs_redis = pytest.mark.skipif(
    PROGRAM is None and os.environ.get("REQUIRE_REDIS") != "1",
    reason="redis-server is not installed",
)


@contextlib.contextmanager
def run_redis(port: int, directory: Path) -> Iterator[str]:
    """Run a Redis without persistence and yield its URL; stop it at the end."""
    with run_redis_process(port, directory):
        yield f"redis://127.0.0.1:{port}/0"


@contextlib.contextmanager
def run_redis_process(port: int, directory: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Like `run_redis`, but yield the process, which a test may stop and continue."""
    assert PROGRAM is not None, "redis-server is not installed"
    options = {"bind": "127.0.0.1", "port": str(port), "dir": str(directory), "save": ""}
    arguments = [argument for name, value in options.items() for argument in (f"--{name}", value)]
    process = subprocess.Popen([PROGRAM, *arguments], stdout=subprocess.DEVNULL)
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


__all__ = ["find_free_port", "needs_redis", "run_redis", "run_redis_process"]
