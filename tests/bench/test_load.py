"""The load against the scripted upstream, and through the relay."""

from __future__ import annotations

import io
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from bench import reading, relay, script
from bench.load import Job, run_job
from bench.processes import ServerProcess, run_server
from bench.shape import Shape
from bench.workloads import CLIENTS, WORKLOADS

UNPACED = [workload.name for workload in WORKLOADS if not workload.shape.pause]


@pytest.fixture(scope="module")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder: Path = tmp_path_factory.mktemp("bench")
    with run_server("upstream", ["bench.upstream", "{fd}"], folder) as running:
        yield running


@pytest.mark.live
@pytest.mark.parametrize("workload", UNPACED)
@pytest.mark.parametrize("client", CLIENTS)
def test_every_answer_of_the_upstream_is_right(upstream: ServerProcess, client: str, workload: str):
    outcome = run_job(Job(upstream.port, client, workload, 3))
    assert (outcome.completed, outcome.faults) == (3, [])


def test_a_refused_request_is_a_fault():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = threading.Thread(
            target=answer_once, args=(listener, script.build_refusal("no such"))
        )
        server.start()
        outcome = run_job(Job(listener.getsockname()[1], "chat", "burst", 1))
        server.join()
    assert outcome.completed == 0
    assert [fault[:11] for fault in outcome.faults] == ["status 400:"]


def test_a_connection_that_ends_early_is_a_fault():
    half = script.build_writes("chat", Shape(text=200), True, True)[0]
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = threading.Thread(target=answer_once, args=(listener, half))
        server.start()
        outcome = run_job(Job(listener.getsockname()[1], "chat", "burst", 1))
        server.join()
    assert outcome.completed == 0
    assert "closed after" in outcome.faults[0]


@pytest.mark.live
@pytest.mark.parametrize("streamed", [True, False])
@pytest.mark.parametrize("client", CLIENTS)
def test_relay_forwards_the_bytes_of_the_upstream(
    upstream: ServerProcess, monkeypatch: pytest.MonkeyPatch, client: str, streamed: bool
):
    monkeypatch.setenv("RELAY_PORT", str(upstream.port))
    shape = Shape(reasoning=2, text=300)
    path = {"chat": "/v1/chat/completions", "responses": "/v1/responses"}[client]
    started: list[Any] = []
    for _ in range(2):  # the second time on the connection of the first
        request = orjson.dumps({"model": shape.model, "stream": streamed})
        environ = {"PATH_INFO": path, "CONTENT_LENGTH": str(len(request))}
        environ["wsgi.input"] = io.BytesIO(request)  # type: ignore[assignment]
        copied = b"".join(relay.app(environ, lambda *start: started.append(start)))
        assert reading.find_fault(copied, client, shape, streamed) is None
    assert [status for status, _ in started] == ["200 OK", "200 OK"]
    assert len(relay._idle) == 1
    relay._idle.pop().close()


def answer_once(listener: socket.socket, answer: bytes) -> None:
    connection, _ = listener.accept()
    with connection:
        connection.recv(65536)
        connection.sendall(answer)
