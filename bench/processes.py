"""Processes on loopback: started on a socket that is already theirs, watched, and stopped.

The socket listens before its process runs, so no port is guessed and no start is polled for: the
first request waits until it is answered.
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

_KEPT = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR")
"""Variables that processes inherit; the operator's own settings must not change a measurement."""

_PATIENCE = 10
"""Seconds that a process has to end by itself."""


@dataclass(frozen=True)
class Running:
    """A process that serves on a port of loopback; ``log`` is what it says."""

    name: str
    pid: int
    port: int
    log: Path

    def last_words(self) -> str:
        """The end of its log."""
        return self.log.read_text(errors="replace")[-2000:]

    def cpu(self) -> float:
        """User and system microseconds of the process and its descendants so far."""
        return sum(map(_cpu_of, tree(self.pid)))


@contextmanager
def serving(
    name: str, module: list[str], folder: Path, env: Mapping[str, str] | None = None
) -> Iterator[Running]:
    """Run ``python -m module``, in which ``{fd}`` stands for a listening socket, while in here."""
    log = folder / f"{name}.log"
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
        port = listener.getsockname()[1]
        fd = listener.fileno()
        with log.open("wb") as out:
            process = subprocess.Popen(
                [sys.executable, "-m", *(part.format(fd=fd) for part in module)],
                cwd=ROOT,
                env=environment(env or {}),
                pass_fds=[fd],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
    try:
        yield Running(name, process.pid, port, log)
    finally:
        stop(process)


def environment(more: Mapping[str, str]) -> dict[str, str]:
    """A clean environment with ``more`` in it."""
    return {name: os.environ[name] for name in _KEPT if name in os.environ} | dict(more)


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a process that leads a session, and whatever it started."""
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(_PATIENCE)
    with suppress(ProcessLookupError):  # the rule: nothing of it is left
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def tree(pid: int) -> list[int]:
    """A process and its descendants."""
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            # the name, in brackets, may hold anything
            parent = path.read_text().rpartition(")")[2].split()[1]
            children.setdefault(int(parent), []).append(int(path.parent.name))
    found = [pid]
    for each in found:
        found += children.get(each, [])
    return found


def _cpu_of(pid: int) -> float:
    """Microseconds on a processor, of all threads; finer than the clock ticks of ``stat``."""
    used = 0
    for path in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        with suppress(OSError):
            used += int(path.read_text().split()[0])
    return used / 1000
