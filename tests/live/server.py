"""Runs the forwarder as operators do: gunicorn in a separate process, on a free port."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.helpers.empty_database import read_empty_database
from tests.helpers.waiting import wait_until
from tests.live.processes import ROOT as ROOT
from tests.live.processes import Process, inherit_environment, start_process

GUNICORN = ("gunicorn", "-b", "127.0.0.1:{port}", "wsgi:app")
FLASK = ("flask", "--app", "wsgi", "run", "--port", "{port}")


@dataclass
class Server:
    """A running forwarder; ``log`` is its output so far."""

    url: str
    process: Process
    log_path: Path

    @property
    def v1(self) -> str:
        return f"{self.url}/v1"

    @property
    def log(self) -> str:
        return self.log_path.read_text()


@contextlib.contextmanager
def run_forwarder(
    environment: dict[str, str],
    directory: Path,
    module: tuple[str, ...] = GUNICORN,
    *,
    is_fresh: bool = False,
) -> Iterator[Server]:
    """Run the forwarder with exactly these settings; stop it at the end.

    With ``is_fresh`` it imports its modules itself, as in production (see `tests.live.nursery`).
    """
    port = find_free_port()
    log_path = directory / f"forwarder-{port}.log"
    database = directory / f"forwarder-{port}.db"
    if "FORWARDER_DATABASE_URL" not in environment:
        database.write_bytes(read_empty_database())
    env = {
        **inherit_environment(),
        "FORWARDER_DOTENV": "",
        "FORWARDER_DATABASE_URL": f"sqlite:///{database}",
        "FORWARDER_QUEUE_TIMEOUT": "30",  # a busy machine keeps requests waiting
        **environment,
    }
    command = [argument.format(port=port) for argument in module]
    process = start_process(command, env, log_path, is_fresh=is_fresh)
    server = Server(f"http://127.0.0.1:{port}", process, log_path)
    try:
        await_server(server)
        await_workers(server, read_worker_count(command, env))
        yield server
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def await_server(server: Server, seconds: float = 60) -> None:
    """Wait until the server answers. Raises RuntimeError with its log if it does not."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if server.process.poll() is not None:
            raise RuntimeError(f"the forwarder did not start:\n{server.log}")
        with contextlib.suppress(OSError):
            urllib.request.urlopen(f"{server.url}/health", timeout=1).close()
            return
        time.sleep(0.05)
    raise RuntimeError(f"the forwarder did not answer in time:\n{server.log}")


def read_worker_count(command: list[str], environment: Mapping[str, str]) -> int:
    """Return how many workers gunicorn forks with this command; 0 for other commands."""
    if command[0] != "gunicorn":
        return 0
    if "-w" in command:
        return int(command[command.index("-w") + 1])
    return int(environment.get("WEB_CONCURRENCY", "1"))


def await_workers(server: Server, count: int) -> None:
    """Wait until all workers are there: the first one answers before gunicorn forks the others."""
    wait_until(lambda: len(list_workers(server)) >= count)


def list_workers(server: Server) -> list[int]:
    """Return the process ids of a server's workers."""
    pid = server.process.pid
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return sorted(map(int, children.split()))


def _list_ports() -> list[int]:
    """Return ports outside the system's ephemeral range, distinct for each pytest-xdist worker."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    first = 10_000 + worker % 20 * 1_000
    return random.sample(range(first, first + 1_000), 1_000)


_PORTS = itertools.cycle(_list_ports())


def find_free_port() -> int:
    """Return a free loopback port that no other process gets before it is used.

    The system might assign one of its ephemeral ports to another process in the meantime.
    """
    for port in _PORTS:
        with socket.socket() as sock, contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(("127.0.0.1", port))
            return port
    raise AssertionError("itertools.cycle never ends")
