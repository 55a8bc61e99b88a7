"""Started processes are stopped, and costs are counted over the whole tree."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from bench import processes
from bench.processes import ServerProcess, make_environment, stop_process

CHILD = "import time; sum(range(3_000_000)); print('up', flush=True); time.sleep(60)"
PARENT = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {CHILD!r}])"


def start_program(program: str) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, start_new_session=True
    )
    assert process.stdout
    assert process.stdout.readline() == b"up\n"
    return process


@pytest.mark.live
def test_children_end_with_their_parent():
    process = start_program(PARENT)
    stop_process(process)
    assert process.stdout
    with process.stdout as out:
        assert out.read() == b""  # the last holder of the pipe is gone


@pytest.mark.live
def test_cpu_time_includes_child_processes(tmp_path):
    process = start_program(PARENT)
    (child,) = processes.list_process_tree(process.pid)[1:]
    whole, part = (
        ServerProcess("", pid, 0, tmp_path).read_cpu_time() for pid in (process.pid, child)
    )
    stop_process(process)
    assert process.stdout
    process.stdout.close()
    assert whole > part > 0


def test_settings_of_the_operator_are_not_inherited(monkeypatch):
    monkeypatch.setenv("CHAT_BASE_URL", "https://example.org")
    inherited = make_environment({"RELAY_PORT": "1"})
    assert "CHAT_BASE_URL" not in inherited
    assert inherited["RELAY_PORT"] == "1"
    assert inherited["PATH"] == os.environ["PATH"]
