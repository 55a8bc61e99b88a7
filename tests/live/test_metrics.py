"""The numbers of several workers, beside the requests that were sent."""

from __future__ import annotations

import json
import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.fake_provider import Answer, ScriptedUpstream, faults
from tests.live.conftest import make_settings
from tests.live.server import GUNICORN, Server, list_workers, run_forwarder
from tests.live.talk import PAIRINGS, http, make_body, send_request
from tests.observability.counted import parse_samples

TWO = (*GUNICORN, "-w", "2")
KEY = "sk-client"


@pytest.fixture
def two_workers(upstream: ScriptedUpstream, tmp_path: Path) -> Iterator[Server]:
    """A forwarder of two workers, which keep their files in a directory of the test."""
    settings = make_settings(upstream, TMPDIR=str(tmp_path), FORWARDER_METRICS_KEY=KEY)
    with run_forwarder(settings, tmp_path, TWO) as server:
        yield server


def read_metrics(server: Server) -> dict[str, dict[tuple[str, ...], float]]:
    response = http.get(f"{server.url}/metrics", headers={"Authorization": f"Bearer {KEY}"})
    assert response.status_code == 200, response.text
    return parse_samples(response.text)


def wait_until_counted(
    server: Server, is_so: Callable[[dict[str, dict[tuple[str, ...], float]]], bool]
) -> bool:
    """An exchange is counted just after its answer is out."""
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        if is_so(read_metrics(server)):
            return True
        time.sleep(0.05)
    return False


def test_state_of_two_workers_is_added_up(two_workers: Server) -> None:
    assert wait_until_counted(two_workers, lambda metrics: metrics.get("workers") == {(): 2})

    metrics = read_metrics(two_workers)
    assert 20e6 < metrics["worker_memory_bytes"][()] < 2e9
    assert metrics["store_up"] == {("sqlite",): 1}
    assert metrics["background_jobs"] == {(): 0}


def test_two_workers_count_together(two_workers: Server, upstream: ScriptedUpstream) -> None:
    rounds, sent = 5, 0
    for client, upstream_api in PAIRINGS * rounds:
        upstream.script(Answer(text="one two three", pieces=3))
        response = send_request(
            two_workers, client, make_body(client, model=f"{upstream_api}/m", stream=True)
        )
        assert response.ending == "completed"
        sent += len(response.events) if client == "responses" else 0
    upstream.script(faults.refuse_with_status(429), faults.refuse_with_status(500))
    for status in (429, 500):
        refusal = send_request(two_workers, "chat", make_body("chat", model="chat/m", seed=1))
        assert refusal.status == status, refusal.text
    send_request(two_workers, "responses", make_body("responses", model="chat/m", no_such_thing=1))

    total = len(PAIRINGS) * rounds + 3
    assert wait_until_counted(
        two_workers, lambda metrics: sum(metrics["requests_total"].values()) == total
    )
    metrics = read_metrics(two_workers)
    for client, upstream_api in PAIRINGS:
        extra = (client, upstream_api) == ("responses", "chat")
        assert metrics["requests_total"][("m", client, "200", upstream_api)] == rounds + extra
        assert metrics["input_tokens_total"][("m", client, upstream_api)] == 21 * (rounds + extra)
        assert metrics["output_tokens_total"][("m", client, upstream_api)] == 9 * (rounds + extra)
        assert metrics["stream_seconds_count"][("m", client, upstream_api)] == rounds
    assert metrics["requests_total"][("m", "chat", "429", "chat")] == 1
    assert metrics["upstream_errors_total"] == {
        ("rate_limited", "chat"): 1,
        ("server_error", "chat"): 1,
    }
    assert metrics["dropped_parameters_total"] == {("other",): 1}
    assert metrics["open_streams"] == {("chat",): 0, ("responses",): 0}
    events = metrics["events_total"]
    event_count = (
        events[("m", "responses", "chat")] + events[("m", "responses", "responses")] - sent
    )
    assert 0 < event_count < 40  # the events of the answer that was not streamed


def test_metrics_include_requests_of_both_workers(two_workers: Server, tmp_path: Path) -> None:
    workers = list_workers(two_workers)
    for asleep in workers:
        os.kill(asleep, signal.SIGSTOP)  # so that the other one answers
        for _ in range(3):
            http.post(f"{two_workers.v1}/responses", json=make_body("responses"))
        os.kill(asleep, signal.SIGCONT)
    [directory] = tmp_path.glob("forwarder-metrics-*")

    assert directory.stat().st_mode & 0o077 == 0
    files = {path.name for path in directory.glob("counter_*.db")}
    assert files == {f"counter_{pid}.db" for pid in workers}
    assert wait_until_counted(
        two_workers, lambda metrics: sum(metrics["requests_total"].values()) == 6
    )


def test_gauges_of_a_dead_worker_are_removed(
    two_workers: Server, upstream: ScriptedUpstream
) -> None:
    upstream.script(faults.stall(Answer(text="word " * 9, pieces=9), after=3))
    body = json.dumps(make_body("responses", stream=True))
    started, finished = threading.Event(), threading.Event()

    def listen() -> None:
        try:
            with http.stream("POST", f"{two_workers.v1}/responses", content=body) as stream:
                for _ in stream.iter_raw():
                    started.set()
        except Exception:
            finished.set()

    listener = threading.Thread(target=listen)
    listener.start()
    assert started.wait(5)
    assert read_metrics(two_workers)["open_streams"] == {("responses",): 1}

    for pid in list_workers(two_workers):
        os.kill(pid, signal.SIGKILL)
    listener.join(5)

    assert finished.is_set()
    is_removed = wait_until_counted(
        two_workers, lambda metrics: sum(metrics.get("open_streams", {}).values()) == 0
    )
    assert is_removed, read_metrics(two_workers)


def test_temporary_directory_is_removed_with_the_server(
    upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    with run_forwarder(make_settings(upstream, TMPDIR=str(tmp_path)), tmp_path, TWO) as server:
        http.get(f"{server.url}/health")
        assert [*tmp_path.glob("forwarder-metrics-*")]

    assert not [*tmp_path.glob("forwarder-metrics-*")]


def test_configured_directory_is_used_and_not_removed(upstream: ScriptedUpstream) -> None:
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder) / "mine"
        settings = make_settings(upstream, PROMETHEUS_MULTIPROC_DIR=str(directory))
        with run_forwarder(settings, Path(folder), TWO) as server:
            send_request(server, "chat", make_body("chat"))
            server_says = http.get(f"{server.url}/metrics").text
        assert "forwarder_requests_total" in server_says
        assert [*directory.glob("counter_*.db")]
