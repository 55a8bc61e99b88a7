"""Tests without the marker ``live`` cannot start processes."""

from __future__ import annotations

import multiprocessing
import subprocess
import sys

import pytest

COMMAND = [sys.executable, "-c", "print('up')"]


def test_unmarked_test_cannot_start_a_process() -> None:
    with pytest.raises(PermissionError, match="needs the marker 'live'"):
        subprocess.run(COMMAND)
    with pytest.raises(PermissionError, match="needs the marker 'live'"):
        multiprocessing.get_context("spawn").Process().start()


@pytest.mark.live
def test_live_test_can_start_a_process() -> None:
    assert subprocess.check_output(COMMAND) == b"up\n"
