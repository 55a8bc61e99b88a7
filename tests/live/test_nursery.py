"""Servers that the nursery forks are like fresh ones."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path
from typing import Any

from tests.live.server import run_forwarder

PROBE = ("gunicorn", "-b", "127.0.0.1:{port}", "tests.live.process_state:app")


def read_state(directory: Path, *, is_fresh: bool) -> dict[str, Any]:
    with run_forwarder({}, directory, PROBE, is_fresh=is_fresh) as started:
        return dict(json.load(urllib.request.urlopen(started.url, timeout=20)))


def test_forked_process_has_the_state_of_a_fresh_one(tmp_path: Path) -> None:
    fresh, forked = (read_state(tmp_path, is_fresh=each) for each in (True, False))

    for state in (fresh, forked):
        assert "forwarder-metrics-" in state["environment"].pop("PROMETHEUS_MULTIPROC_DIR")
        database = state["environment"].pop("FORWARDER_DATABASE_URL")
        assert str(tmp_path) in database
        state["arguments"] = [each for each in state["arguments"] if "127.0.0.1" not in each]
    nursery = {"gunicorn.__main__", "tests", "tests.live", "tests.live.nursery", "tests.helpers"}
    nursery |= {"tests.helpers.url_rules"}
    assert {*forked.pop("modules")} - nursery == {*fresh.pop("modules")} - nursery
    assert "gevent" in forked["patched"]["socket.socket"]
    assert forked == fresh
