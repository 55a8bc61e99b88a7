"""Starts processes that inherit a listening loopback socket, reads their CPU time, stops them.

The socket listens before its process starts, so there is no port guessing and no polling: the
first request waits in the backlog until the process accepts it.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

_INHERITED_VARIABLES = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR")
"""Inherited environment variables. The operator's settings must not affect a measurement."""

_TIMEOUT_SECONDS = 10
"""Seconds between SIGTERM and SIGKILL."""


@dataclass(frozen=True)
class ServerProcess:
    """A process that serves on a loopback port; ``log`` is the file with its output."""

    name: str
    pid: int
    port: int
    log: Path

    def read_log_end(self) -> str:
        """Return the end of its log."""
        return self.log.read_text(errors="replace")[-2000:]

    def read_cpu_time(self) -> float:
        """Return the CPU microseconds (user and system) of the process and its descendants."""
        return sum(map(read_process_cpu_time, list_process_tree(self.pid)))


@contextmanager
def run_server(
    name: str,
    module: list[str],
    folder: Path,
    env: Mapping[str, str] | None = None,
    checkout: Path = ROOT,
    port: int = 0,
) -> Iterator[ServerProcess]:
    """Run ``python -m module`` in a checkout, or another directory, during the context.

    ``{fd}`` is replaced by a listening socket on ``port``, 0 for any free one.
    """
    log = folder / f"{name}.log"
    with socket.create_server(("127.0.0.1", port), backlog=1024) as listener:
        port = listener.getsockname()[1]
        fd = listener.fileno()
        with log.open("wb") as out:
            process = subprocess.Popen(
                [sys.executable, "-m", *(part.format(fd=fd) for part in module)],
                cwd=checkout,
                env=make_environment(env or {}),
                pass_fds=[fd],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
    try:
        yield ServerProcess(name, process.pid, port, log)
    finally:
        stop_process(process)


def make_environment(variables: Mapping[str, str]) -> dict[str, str]:
    """Return a clean environment plus ``variables``."""
    inherited = {name: os.environ[name] for name in _INHERITED_VARIABLES if name in os.environ}
    return inherited | dict(variables)


def stop_process(process: subprocess.Popen[bytes]) -> None:
    """Stop a session leader and all processes of its group."""
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(_TIMEOUT_SECONDS)
    with suppress(ProcessLookupError):  # usually all of them have already stopped
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def list_process_tree(pid: int) -> list[int]:
    """Return the pids of a process and its descendants."""
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            # the process name, in parentheses, may contain any character
            parent = path.read_text().rpartition(")")[2].split()[1]
            children.setdefault(int(parent), []).append(int(path.parent.name))
    pids = [pid]
    for process_id in pids:
        pids += children.get(process_id, [])
    return pids


def read_process_cpu_time(pid: int) -> float:
    """Return the CPU microseconds of all threads; ``schedstat`` is more precise than ``stat``."""
    milliseconds = 0
    for path in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        with suppress(OSError):
            milliseconds += int(path.read_text().split()[0])
    return milliseconds / 1000
