"""Starts servers: forked from a nursery, or as fresh processes.

``FRESH_SERVERS=1`` makes all of them fresh.
"""

from __future__ import annotations

import atexit
import functools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

ROOT = Path(__file__).parents[2]

POLL_SECONDS = 0.02

STARTUP_VARIABLES = ("PYTHON", "LANG", "LC_", "TZ", "GEVENT_", "OPENAI_LOG")
"""Prefixes of variables that the interpreter or a library reads when it starts."""


class Process(Protocol):
    """The part of `subprocess.Popen` that tests use."""

    pid: int

    def poll(self) -> int | None: ...
    def wait(self, timeout: float | None = None) -> int: ...
    def send_signal(self, sig: int) -> None: ...
    def terminate(self) -> None: ...
    def kill(self) -> None: ...


def inherit_environment() -> dict[str, str]:
    """Return the variables of this process that servers inherit."""
    names = ("PATH", "HOME", "LANG", "TMPDIR")
    return {name: os.environ[name] for name in names if name in os.environ}


def start_process(
    command: Sequence[str], environment: Mapping[str, str], log_path: Path, *, is_fresh: bool
) -> Process:
    """Run a Python module with its arguments. Its output goes to ``log_path``."""
    module, *arguments = command
    own_variables = environment.keys() - inherit_environment().keys()
    if (
        module != "gunicorn"
        or is_fresh
        or os.environ.get("FRESH_SERVERS") == "1"
        or any(name.startswith(STARTUP_VARIABLES) for name in own_variables)
    ):
        with log_path.open("wb") as log:
            return subprocess.Popen(
                [sys.executable, "-m", *command], cwd=ROOT, env=environment, stdout=log, stderr=log
            )
    log_path.touch()
    return start_nursery().fork(arguments, environment, log_path)


@functools.cache
def start_nursery() -> Nursery:
    return Nursery()


class Nursery:
    """The process of `tests.live.nursery`; it ends with this one."""

    def __init__(self) -> None:
        # The Prometheus client decides at import whether workers share values.
        environment = {**inherit_environment(), "PROMETHEUS_MULTIPROC_DIR": os.devnull}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.live.nursery"],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._lock = threading.Lock()
        atexit.register(self._process.communicate)

    def fork(
        self, arguments: Sequence[str], environment: Mapping[str, str], log_path: Path
    ) -> ForkedProcess:
        """Start gunicorn with these arguments and exactly this environment."""
        log = str(log_path.absolute())
        return ForkedProcess(
            self,
            self.send_command({"arguments": arguments, "environment": environment, "log": log}),
        )

    def send_command(self, request: Any) -> Any:
        with self._lock:
            assert self._process.stdin is not None
            assert self._process.stdout is not None
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
        assert answer, "the nursery has ended"
        return json.loads(answer)


class ForkedProcess:
    """A server that the nursery has forked; works like `subprocess.Popen`."""

    def __init__(self, nursery: Nursery, pid: int) -> None:
        self.pid = pid
        self._nursery = nursery
        self._exit_code: int | None = None

    def poll(self) -> int | None:
        if self._exit_code is None:
            self._exit_code = self._nursery.send_command(self.pid)
        return self._exit_code

    def wait(self, timeout: float | None = None) -> int:
        deadline = None if timeout is None else time.monotonic() + timeout
        while (exit_code := self.poll()) is None:
            if deadline is not None and time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(["gunicorn"], timeout or 0)
            time.sleep(POLL_SECONDS)
        return exit_code

    def send_signal(self, sig: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, sig)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)
