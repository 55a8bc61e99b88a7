"""Another client during an attack: it reads a paced stream through each worker and measures stalls.

The neighbour and its upstream run in a separate process (``python -m tests.live.neighbour``),
because a test that sends megabytes and an upstream that parses them would stall its readings.

The measured stalls exclude delays that a busy machine causes: the time for which the worker waited
for a processor, and the stall of a control stream through a forwarder without an attack. The limits
are scaled with the time that this processor needs for parsing.
"""

from __future__ import annotations

import functools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPResponse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import orjson

from tests.live.server import ROOT, Server, list_workers

Json = dict[str, Any]

PACE = 0.02
"""Seconds between two chunks of a stream."""

MAX_STALL = 0.5
"""Seconds that a neighbour may wait for its next chunk, in addition to the control's stall."""

MAX_MEMORY_GROWTH = 400 * 10**6
"""Bytes of resident memory that an attack may cost all processes of a server together."""

TIMEOUT = 30.0

PARSE_SECONDS, ENCODE_SECONDS = 0.05, 0.075
"""Durations of the work in `measure_slowness` on the processor that the limits assume."""


# -- in the test's process ------------------------------------------------------------------------


@dataclass
class Readings:
    """The cost of an attack: seconds of the longest stalls, bytes of memory."""

    stall: float = 0.0
    control_stall: float = 0.0
    memory_growth: int = 0


class Neighbour:
    """The neighbour's process.

    ``settings`` are those of the forwarders that it uses. A test may override them, except those of
    the upstream ``neighbour``.
    """

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        url = f"http://127.0.0.1:{self._read_line()}/v1"
        self.settings = {
            "FORWARDER_UPSTREAMS": "responses,chat,neighbour",
            "NEIGHBOUR_API": "chat",
            **{f"{name}_BASE_URL": url for name in ("RESPONSES", "CHAT", "NEIGHBOUR")},
            **{f"{name}_API_KEY": "n" for name in ("RESPONSES", "CHAT", "NEIGHBOUR")},
        }
        self.control: Server | None = None

    def _read_line(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the neighbour's process has ended"
        return json.loads(line)

    def _send_command(self, value: Any) -> Any:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(value) + "\n")
        self._process.stdin.flush()
        return self._read_line()

    @contextmanager
    def watch(
        self,
        server: Server,
        max_stall: float = MAX_STALL,
        key: str = "k",
        workers_to_lose: Collection[int] = (),
    ) -> Iterator[Readings]:
        """Run an attack on ``server`` during a paced stream through each of its workers.

        Then check that the streams completed, that each worker answers one more request, that no
        worker was lost, and that stalls and memory are within their limits. ``workers_to_lose`` are workers
        that the attack is meant to end: no stream uses them, and others must have replaced them.
        """
        assert self.control is not None
        workers = list_workers(server)
        remaining_workers = [worker for worker in workers if worker not in workers_to_lose]
        control = list_workers(self.control)
        servers = [[self.control.url, control, control], [server.url, workers, remaining_workers]]
        assert self._send_command({"servers": servers, "key": key}) == "started"
        readings = Readings()
        before = measure_memory(server)
        reset_peaks(server)
        try:
            yield readings
        finally:
            result = self._send_command("stop")
        readings.memory_growth = measure_peak(server) - before
        readings.stall, readings.control_stall = result["stall"], result["control_stall"]
        if report := os.environ.get("ATTACK_READINGS"):
            with Path(report).open("a") as file:
                print(os.environ.get("PYTEST_CURRENT_TEST"), readings, file=file)
        assert result["faults"] == []
        after = list_workers(server)
        assert len(after) == len(workers)
        assert set(after) & set(workers) == set(remaining_workers)
        limit = max_stall * measure_slowness() + readings.control_stall
        assert readings.stall <= limit, readings
        assert readings.memory_growth <= MAX_MEMORY_GROWTH, readings


@functools.cache
def measure_slowness() -> float:
    """Return how much slower this processor handles JSON than the limits assume; from 1 to 2."""
    text = "\n" * 10_000_000
    body = orjson.dumps(text)
    parsing = measure_shortest(lambda: orjson.loads(body)) / PARSE_SECONDS
    encoding = measure_shortest(lambda: orjson.dumps(text)) / ENCODE_SECONDS
    return min(2.0, max(1.0, parsing, encoding))


def measure_shortest(work: Callable[[], object]) -> float:
    """Return the shortest CPU time of five runs in seconds."""
    times = []
    for _ in range(5):
        started = time.thread_time()
        work()
        times.append(time.thread_time() - started)
    return min(times)


@contextmanager
def run_neighbour() -> Iterator[Neighbour]:
    """Run a neighbour. The caller starts its ``control``."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.live.neighbour"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield Neighbour(process)
    finally:
        process.kill()
        process.communicate()


def connect_to_worker(url: str, pid: int, workers: Collection[int]) -> HTTPConnection:
    """Return an open connection to worker ``pid``. The other workers are stopped meanwhile."""
    connection = HTTPConnection(urlsplit(url).netloc, timeout=TIMEOUT)
    others = [worker for worker in workers if worker != pid]
    for other in others:
        os.kill(other, signal.SIGSTOP)
    try:
        connection.request("GET", "/health")
        connection.getresponse().read()
    finally:
        for other in others:
            os.kill(other, signal.SIGCONT)
    return connection


def connect_to_each_worker(server: Server) -> list[HTTPConnection]:
    """Return an open connection to each worker of a server."""
    workers = list_workers(server)
    return [connect_to_worker(server.url, pid, workers) for pid in workers]


def measure_memory(server: Server) -> int:
    """Return the resident memory of all processes of a server, in bytes."""
    return _sum_status(server, "VmRSS")


def measure_peak(server: Server) -> int:
    """Return the sum of the peaks of all processes since `reset_peaks`, in bytes."""
    return _sum_status(server, "VmHWM")


def reset_peaks(server: Server) -> None:
    """Start the kernel's measurement of the peaks again."""
    for pid in (server.process.pid, *list_workers(server)):
        Path(f"/proc/{pid}/clear_refs").write_text("5")


def _sum_status(server: Server, field: str) -> int:
    total = 0
    for pid in (server.process.pid, *list_workers(server)):
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        [line] = [line for line in lines if line.startswith(field)]
        total += int(line.split()[1]) * 1024
    return total


# -- in the neighbour's process -------------------------------------------------------------------


class Upstream(BaseHTTPRequestHandler):
    """A Chat Completions upstream whose streams last until the attack is over."""

    protocol_version = "HTTP/1.1"
    is_over = threading.Event()

    def do_POST(self) -> None:
        """Answer with a stream or a whole completion."""
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(200)
        if not request.get("stream"):
            message = {"role": "assistant", "content": "word"}
            body = json.dumps(_make_answer("chat.completion", message=message)).encode()
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
            return
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        chunk = _make_answer("chat.completion.chunk", delta={"content": "word "})
        chunk["choices"][0]["finish_reason"] = None
        with suppress(OSError):  # a connection that was not needed is closed
            while not self.is_over.wait(PACE):
                self._send(json.dumps(chunk))
            self._send(json.dumps(_make_answer("chat.completion.chunk", delta={})))
            self._send("[DONE]")

    def _send(self, data: str) -> None:
        self.wfile.write(f"data: {data}\n\n".encode())

    def log_message(self, *_: Any) -> None:
        """Log nothing."""


def _make_answer(kind: str, **choice: Any) -> Json:
    choices = [{"index": 0, "finish_reason": "stop", **choice}]
    return {"id": "c", "object": kind, "created": 1, "model": "m", "choices": choices}


class Reader:
    """A stream through one worker of a forwarder, read as it arrives."""

    def __init__(self, url: str, pid: int, workers: list[int], key: str) -> None:
        self._headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
        self.faults: list[str] = []
        self.stall = 0.0
        self._schedule = Path(f"/proc/{pid}/schedstat")
        self._connection = connect_to_worker(url, pid, workers)
        self._answer = self._post(stream=True)
        self._answer.readline()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _post(self, **parameters: Any) -> HTTPResponse:
        message = {"role": "user", "content": "hi"}
        body = json.dumps({"model": "neighbour/m", "messages": [message], **parameters})
        self._connection.request("POST", "/v1/chat/completions", body, self._headers)
        return self._connection.getresponse()

    def _read(self) -> None:
        last, line = self._read_clock(), b""
        try:
            while (data := self._answer.readline()) != b"":
                now = self._read_clock()
                self.stall = max(self.stall, now - last)
                last, line = now, data.strip() or line
        except OSError as error:
            self.faults.append(f"the stream broke: {error!r}")
        if line != b"data: [DONE]":
            self.faults.append(f"the stream ended with {line!r}")

    def _read_clock(self) -> float:
        """Return a time in seconds that excludes the worker's waits for a processor."""
        waited = int(self._schedule.read_text().split()[1]) / 1e9
        return time.monotonic() - waited

    def finish(self) -> None:
        """Read to the end, and send the same worker one more request."""
        self._thread.join(TIMEOUT)
        if self._thread.is_alive():
            self.faults.append("the stream does not end")
        if self.faults:
            return
        try:
            answer = self._post()
            if answer.status != 200:
                self.faults.append(f"the next request: {answer.status} {answer.read()!r}")
        except OSError as error:
            self.faults.append(f"the next request: {error!r}")
        self._connection.close()


def main() -> None:
    """Serve as the upstream, and measure one attack after the other."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Upstream)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(server.server_port, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        Upstream.is_over.clear()
        control, *readers = (
            Reader(url, pid, workers, request["key"])
            for url, workers, watched in request["servers"]
            for pid in watched
        )
        print('"started"', flush=True)
        sys.stdin.readline()
        Upstream.is_over.set()
        for reader in (control, *readers):
            reader.finish()
        readings = {
            "stall": max(reader.stall for reader in readers),
            "control_stall": control.stall,
            "faults": [fault for reader in (control, *readers) for fault in reader.faults],
        }
        print(json.dumps(readings), flush=True)


if __name__ == "__main__":
    main()
