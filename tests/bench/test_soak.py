"""The soak runs, ends by itself, and finds violations of its laws."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import pytest

from bench import script, soak
from bench.processes import ROOT
from bench.shape import Shape
from tests.helpers.check_cases import check_each

QUIET = {"descriptors": 9, "connections": 2, "greenlets": 4, "threads": 1, "exchanges": 0}


@pytest.mark.live
@pytest.mark.slow
@pytest.mark.exhaustive
def test_short_soak_holds_every_law():
    command = [sys.executable, "-m", "bench.soak", "--minutes", "0.04", "--streams", "4"]

    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100)

    assert done.returncode == 0, done.stdout + done.stderr
    assert "MiB" in done.stdout
    assert "completed" in done.stdout
    assert done.stdout.endswith("all laws held\n")


@check_each(
    ("wrong", "growth", "leaked", "told"),
    [
        ({}, 2**20, [], []),
        ({"no end": 2}, 0, [], ["2 x no end"]),
        ({}, 40 * 2**20, [], ["memory grew by 40.0 MiB"]),
        ({}, 0, ["9 more greenlets than before"], ["9 more greenlets than before"]),
    ],
)
def test_broken_laws_are_reported(wrong, growth, leaked, told):
    assert soak.list_broken_laws(Counter(wrong), growth, leaked) == told


def test_resources_still_held_are_leaks():
    assert soak.list_leaks(QUIET, {**QUIET, "descriptors": 13, "greenlets": 1}) == []
    assert soak.list_leaks(QUIET, {**QUIET, "exchanges": 1}) == ["1 more exchanges than before"]


def test_memory_is_compared_after_it_has_settled():
    watch = soak.Watch(os.getpid())
    watch.memory = [1, 50, 60, 61, 61, 62, 63, 64]

    assert watch.compute_growth() == 63.5 - 60.5
    assert soak.read_memory(os.getpid()) > 2**20


@check_each("answer", [b"", script.build_writes("chat", Shape(text=3), True, True)[0]])
def test_an_answer_that_is_cut_off_breaks_a_law(answer: bytes):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=cut_off, args=(listener, answer), daemon=True).start()
        load = soak.Soak(listener.getsockname()[1])
        asyncio.run(load.run(streams=1, seconds=0.3))
        listener.shutdown(socket.SHUT_RDWR)

    assert load.broken
    assert all("no end" in wrong for wrong in load.broken)


def cut_off(listener: socket.socket, answer: bytes) -> None:
    """Answer every request with this, and close."""
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        with connection:
            connection.recv(65536)
            connection.sendall(answer)


@pytest.mark.live
@pytest.mark.slow
def test_watched_forwarder_reports_its_open_resources():
    program = (
        "from bench.watched import app; "
        "held = app.test_client().get('/_held').json; print(sorted(held)); "
        "assert held['connections'] <= held['descriptors']"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=Path(ROOT),
        env={"FORWARDER_DOTENV": ""},
        capture_output=True,
        text=True,
        timeout=30,
    )

    assert done.stdout.strip() == str(sorted(QUIET)), done.stderr
