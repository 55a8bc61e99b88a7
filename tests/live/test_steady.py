"""The service over time: stopped, deployed, recycled and killed under load, and slow clients.

Real processes on loopback; every test ends by itself within seconds.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import pytest

from tests.fake_provider import Answer, ScriptedUpstream, faults
from tests.helpers.waiting import wait_until
from tests.live.conftest import Serve, make_settings
from tests.live.server import FLASK, Server, list_workers, run_forwarder
from tests.live.talk import PAIRINGS, PATHS, ClientAnswer, http, make_body

pytestmark = pytest.mark.slow

STREAMED = pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
LONG = Answer(text="word " * 40, pieces=40)


def post_and_read_stream(server: Server, client: str, **parameters: Any) -> ClientAnswer:
    """Send a request and read any answer, even a broken one; with a longer time limit."""
    body = make_body(client, **parameters)
    with http.stream("POST", f"{server.v1}{PATHS[client]}", json=body, timeout=20) as response:
        text = "".join(response.iter_text())
    return ClientAnswer(client, response.status_code, response.headers, text)


# -- SIGTERM --------------------------------------------------------------------------------------


@STREAMED
def test_a_stop_ends_every_answer_in_its_protocol(
    stream: bool, serve: Serve, upstream: ScriptedUpstream
) -> None:
    """A short answer ends normally; a long one fails shortly before the grace period ends."""
    server = serve(make_settings(upstream, GUNICORN_GRACEFUL_TIMEOUT="5"))
    jobs = [
        (client, upstream_api, is_long)
        for client, upstream_api in PAIRINGS
        for is_long in (False, True)
    ]
    with ThreadPoolExecutor(len(jobs)) as pool:
        answers = []
        for client, upstream_api, is_long in jobs:
            upstream.script(
                _make_long_answer(is_long, is_whole=client == upstream_api and not stream)
            )
            count = len(upstream.requests)
            answers.append(
                pool.submit(
                    post_and_read_stream, server, client, model=f"{upstream_api}/m", stream=stream
                )
            )
            wait_until(lambda count=count: len(upstream.requests) > count)
        stopped_at = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(10) == 0
        seconds = time.monotonic() - stopped_at

    assert 2.4 < seconds < 6.0
    for (client, _over, is_long), response in zip(jobs, [a.result() for a in answers], strict=True):
        assert response.ending == ("failed" if is_long else "completed")
        if is_long and stream:
            assert response.status == 200
            assert "being restarted" in response.text
            assert len(response.events) > 3
        elif is_long:
            assert (response.status, response.headers["retry-after"]) == (503, "1")
            assert response.error["code"] == "shutting_down"
        assert client == response.client
    assert "Traceback" not in server.log


def _make_long_answer(is_long: bool, is_whole: bool) -> faults.Scripted:
    """An answer that goes on for longer than the grace, or not; a whole one has no middle."""
    if not is_long:
        return faults.slow_down(LONG, delay=0.04)
    return faults.never_answer() if is_whole else faults.stall(LONG, after=9)


@pytest.mark.parametrize(("client", "upstream_api"), PAIRINGS)
def test_stop_ends_requests_still_waiting_for_the_upstream(
    client: str, upstream_api: str, serve: Serve, upstream: ScriptedUpstream
) -> None:
    retries = {f"{name.upper()}_MAX_RETRIES": "2" for name in PATHS}
    server = serve(make_settings(upstream, GUNICORN_GRACEFUL_TIMEOUT="3", **retries))
    upstream.script(faults.never_answer())
    n = {"n": 2} if (client, upstream_api) == ("chat", "responses") else {}
    upstream.script(*[faults.never_answer() for _ in n])
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(
            post_and_read_stream, server, client, model=f"{upstream_api}/m", stream=True, **n
        )
        wait_until(lambda: len(upstream.requests) > len(n))
        server.process.send_signal(signal.SIGTERM)

        assert answer.result().status == 503
        assert answer.result().error["code"] == "shutting_down"
    assert server.process.wait(10) == 0
    assert len(upstream.requests) == 1 + len(n)  # no retries


def test_sigint_ends_running_streams_with_an_error(
    serve: Serve, upstream: ScriptedUpstream
) -> None:
    server = serve(make_settings(upstream))
    upstream.script(faults.stall(LONG, after=9))
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(post_and_read_stream, server, "responses", stream=True)
        wait_until(lambda: upstream.requests)
        time.sleep(0.2)
        server.process.send_signal(signal.SIGINT)

        assert answer.result().events[-1]["type"] == "response.failed"
    server.process.wait(10)


def test_flask_s_own_server_ends_at_once(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    upstream.script(faults.stall(LONG, after=9))
    with (
        run_forwarder(make_settings(upstream), tmp_path, FLASK) as server,
        ThreadPoolExecutor(1) as pool,
    ):
        outcome = pool.submit(
            _get_outcome,
            http,
            f"{server.v1}/responses",
            "responses",
            make_body("responses", stream=True),
        )
        wait_until(lambda: upstream.requests)
        server.process.send_signal(signal.SIGINT)

        server.process.wait(5)
        assert "Error" in outcome.result()


# -- under load -----------------------------------------------------------------------------------


class Hammer:
    """Clients that ask without a pause, each on a connection that it keeps."""

    def __init__(self, server: Server, clients: int = 4) -> None:
        self.answers: Counter[str] = Counter()
        self._server = server
        self._over = threading.Event()
        self._threads = [
            threading.Thread(target=self._send_requests, args=[i]) for i in range(clients)
        ]

    @contextmanager
    def __call__(self) -> Iterator[None]:
        for thread in self._threads:
            thread.start()
        try:
            yield
        finally:
            self._over.set()
            for thread in self._threads:
                thread.join()

    def _send_requests(self, number: int) -> None:
        client, upstream_api = PAIRINGS[number % len(PAIRINGS)]
        with httpx2.Client(timeout=30, trust_env=False) as session:
            url = f"{self._server.v1}{PATHS[client]}"
            while not self._over.is_set():
                for stream in (True, False):
                    body = make_body(client, model=f"{upstream_api}/m", stream=stream)
                    self.answers[_get_outcome(session, url, client, body)] += 1


def _get_outcome(session: httpx2.Client, url: str, client: str, body: Any) -> str:
    try:
        response = session.post(url, json=body)
        return ClientAnswer(client, response.status_code, response.headers, response.text).ending
    except (httpx2.HTTPError, AssertionError) as error:
        return repr(error)


@pytest.mark.exhaustive
def test_a_deploy_loses_no_request(serve: Serve, upstream: ScriptedUpstream) -> None:
    server = serve(make_settings(upstream, WEB_CONCURRENCY="2"), is_fresh=True)
    upstream.script(faults.slow_down(LONG, delay=0.05))
    hammer = Hammer(server)
    with ThreadPoolExecutor(1) as pool:
        running_request = pool.submit(post_and_read_stream, server, "responses", stream=True)
        wait_until(lambda: upstream.requests)
        with hammer():
            _deploy_twice(server)

    assert running_request.result().ending == "completed"
    assert set(hammer.answers) == {"completed"}, hammer.answers
    assert sum(hammer.answers.values()) > 10  # a slow machine asks less often
    assert "Traceback" not in server.log


def test_a_reload_applies_new_settings(
    serve: Serve, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    """Those of gunicorn and those of the forwarder, from the same file."""
    dotenv = tmp_path / "settings"
    dotenv.write_text("WEB_CONCURRENCY=1\n")
    server = serve(make_settings(upstream, FORWARDER_DOTENV=str(dotenv)), is_fresh=True)
    old_workers = list_workers(server)
    assert post_and_read_stream(server, "chat").status == 200

    dotenv.write_text("WEB_CONCURRENCY=2\nFORWARDER_API_KEYS=another\n")
    server.process.send_signal(signal.SIGHUP)

    wait_until(lambda: len({*list_workers(server)} - {*old_workers}) == 2)
    wait_until(lambda: not {*old_workers} & {*list_workers(server)})
    assert {post_and_read_stream(server, "chat").status for _ in range(10)} == {401}


def _deploy_twice(server: Server) -> None:
    for _ in range(2):
        workers = wait_until(lambda: len(list_workers(server)) == 2 and {*list_workers(server)})
        server.process.send_signal(signal.SIGHUP)
        wait_until(
            lambda old_workers=workers: not old_workers & {*list_workers(server)}, seconds=20
        )


@pytest.mark.exhaustive
def test_workers_that_retire_lose_no_request(serve: Serve, upstream: ScriptedUpstream) -> None:
    retiring = {"GUNICORN_MAX_REQUESTS": "40", "GUNICORN_MAX_REQUESTS_JITTER": "20"}
    server = serve(make_settings(upstream, WEB_CONCURRENCY="2", **retiring), is_fresh=True)
    pids: set[int] = set()
    hammer = Hammer(server)
    with hammer():
        wait_until(lambda: pids.update(list_workers(server)) or len(pids) > 3, seconds=20)

    assert set(hammer.answers) == {"completed"}, hammer.answers
    assert "Traceback" not in server.log


def test_a_killed_worker_is_replaced_and_the_others_serve(
    serve: Serve, upstream: ScriptedUpstream
) -> None:
    server = serve(make_settings(upstream, WEB_CONCURRENCY="2"))
    before = wait_until(lambda: len(list_workers(server)) == 2 and list_workers(server))
    upstream.script(faults.stall(LONG, after=9))
    with ThreadPoolExecutor(1) as pool:
        lost_request = pool.submit(
            _get_outcome,
            http,
            f"{server.v1}/responses",
            "responses",
            make_body("responses", stream=True),
        )
        wait_until(lambda: upstream.requests)
        connected_workers = [pid for pid in before if _count_connections(pid, upstream)]
        os.kill(connected_workers[0], signal.SIGKILL)

        answers = Counter(
            post_and_read_stream(server, client, stream=True).ending for client in [*PATHS] * 10
        )

        assert lost_request.result().startswith(
            "RemoteProtocolError"
        )  # of this one nothing is left
    assert answers == {"completed": 20}
    after = wait_until(lambda: len(list_workers(server)) == 2 and list_workers(server))
    assert set(before) - set(after) == {connected_workers[0]}


def _count_connections(pid: int, upstream: ScriptedUpstream) -> int:
    """How many connections to the upstream a process has."""
    port = urlsplit(upstream.url).port or 0
    sockets = {
        fields[9]
        for line in Path("/proc/net/tcp").read_text().splitlines()[1:]
        if (fields := line.split())[2] == f"0100007F:{port:04X}" and fields[3] == "01"
    }
    links = [os.readlink(link) for link in Path(f"/proc/{pid}/fd").iterdir() if link.is_symlink()]
    return sum(link.removeprefix("socket:[").rstrip("]") in sockets for link in links)


# -- a slow reader --------------------------------------------------------------------------------


def measure_memory(pid: int) -> int:
    """The resident bytes of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Fountain:
    """An upstream that sends each client ``size`` bytes of a chat stream, as fast as it reads."""

    def __init__(self, size: int) -> None:
        self.sent = 0
        self._size = size
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/v1"

    @contextmanager
    def run(self) -> Iterator[None]:
        thread = threading.Thread(target=self._accept)
        thread.start()
        try:
            yield
        finally:
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes accept()
            self._listener.close()
            thread.join()

    def _accept(self) -> None:
        clients = []
        with suppress(OSError):  # closed at the end of the test
            while True:
                client, _ = self._listener.accept()
                clients.append(threading.Thread(target=self._serve, args=(client,)))
                clients[-1].start()
        for client_thread in clients:
            client_thread.join()

    def _serve(self, client: socket.socket) -> None:
        with client:
            client.settimeout(30)
            client.recv(65536)
            client.sendall(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n")
            event = b"data: %b\n\n" % json.dumps(_make_chunk("x" * 900)).encode()
            block = event * 64
            try:
                for _ in range(0, self._size, len(block)):
                    client.sendall(block)
                    self.sent += len(block)
                client.sendall(
                    b"data: %b\n\ndata: [DONE]\n\n" % json.dumps(_make_chunk("", "stop")).encode()
                )
            except OSError:  # the forwarder has left
                return


def _make_chunk(text: str, finish: str | None = None) -> dict[str, Any]:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": finish}
    return {
        "id": "c",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "m",
        "choices": [choice],
    }


@pytest.mark.parametrize("client", PATHS)
def test_a_slow_reader_holds_the_upstream_back(client: str, serve: Serve) -> None:
    """Unread answers do not accumulate in the forwarder's memory."""
    fountain = Fountain(200 * 2**20)
    server = serve({"CHAT_BASE_URL": fountain.url})
    [worker] = list_workers(server)
    with fountain.run(), _open_request(server, client, make_body(client, stream=True)) as sock:
        assert sock.recv(4096).startswith(b"HTTP/1.1 200 OK")
        memory_before = measure_memory(worker)
        wait_until(lambda: fountain.sent > 2**20)
        read = 0
        for _ in range(10):
            read += len(sock.recv(65536))
            time.sleep(0.1)
        growth = measure_memory(worker) - memory_before

        assert fountain.sent - read < 24 * 2**20
        assert growth < 16 * 2**20
        assert httpx2.get(f"{server.url}/health", trust_env=False).status_code == 200


@pytest.mark.exhaustive
@pytest.mark.parametrize("client", PATHS)
def test_memory_stays_flat_when_slow_readers_leave(client: str, serve: Serve) -> None:
    """An answer that a client left unread is freed when it leaves."""
    fountain = Fountain(5 * 2**20)
    server = serve({"CHAT_BASE_URL": fountain.url})
    [worker] = list_workers(server)

    def read_a_little(_: int) -> None:
        with _open_request(server, client, make_body(client, stream=True)) as sock:
            sock.settimeout(30)
            for _ in range(10):
                assert sock.recv(4096)
                time.sleep(0.05)

    readers, memory_after = 40, list[int]()
    with fountain.run(), ThreadPoolExecutor(readers) as pool:
        for _ in range(3):
            list(pool.map(read_a_little, range(readers)))
            disconnect_count = readers * (len(memory_after) + 1)
            wait_until(
                lambda disconnect_count=disconnect_count: (
                    server.log.count("client_left") >= disconnect_count
                ),
                30,
            )
            memory_after.append(measure_memory(worker))

    # The first round sets the peak. Without release, each further round adds some 100 MB.
    assert memory_after[2] - memory_after[0] < 130 * 2**20


@contextmanager
def _open_request(server: Server, client: str, body: Any) -> Iterator[socket.socket]:
    """A request that has been sent; its connection is reset in the end."""
    url, data = urlsplit(server.v1 + PATHS[client]), json.dumps(body).encode()
    head = f"POST {url.path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(data)}\r\n\r\n"
    with socket.create_connection((str(url.hostname), url.port or 80), timeout=10) as sock:
        sock.sendall(head.encode() + data)
        yield sock
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


# -- connections and time-outs --------------------------------------------------------------------


@pytest.mark.parametrize(("client", "upstream_api"), PAIRINGS)
def test_streams_one_after_the_other_share_a_connection(
    client: str, upstream_api: str, serve: Serve
) -> None:
    with ScriptedUpstream() as upstream:
        server = serve(make_settings(upstream))
        upstream.keys = None
        for _ in range(50):
            assert (
                post_and_read_stream(server, client, model=f"{upstream_api}/m", stream=True).ending
                == "completed"
            )

        assert upstream.connections == 1


@pytest.mark.parametrize(("client", "upstream_api"), PAIRINGS)
@pytest.mark.parametrize(
    ("setting", "upstream_answer"),
    [
        ("FIRST_BYTE_TIMEOUT", faults.never_answer()),
        ("IDLE_TIMEOUT", faults.stall(LONG, after=9)),
        ("TOTAL_TIMEOUT", faults.slow_down(LONG, delay=0.1)),
    ],
)
def test_time_outs_end_an_answer_and_leave_the_upstream(
    setting: str, upstream_answer: Any, client: str, upstream_api: str, short_timeout_servers: dict[str, Server],
    upstream: ScriptedUpstream,
) -> None:  # fmt: skip
    upstream.script(upstream_answer)
    started_at = time.monotonic()

    response = post_and_read_stream(
        short_timeout_servers[setting], client, model=f"{upstream_api}/m", stream=True
    )

    assert 0.9 < time.monotonic() - started_at < 3.0
    assert response.ending == "failed"
    assert response.status == (504 if setting == "FIRST_BYTE_TIMEOUT" else 200)
    [request] = upstream.requests
    assert request.closed_by_client.wait(3)


@pytest.fixture(scope="module")
def short_timeout_servers(serve: Serve, upstream: ScriptedUpstream) -> dict[str, Server]:
    """For each time-out a forwarder in which it is one second."""
    names = ("FIRST_BYTE_TIMEOUT", "IDLE_TIMEOUT", "TOTAL_TIMEOUT")
    settings = {
        name: {f"{upstream}_{name}": "1" for upstream in ("CHAT", "RESPONSES")} for name in names
    }
    return {name: serve(make_settings(upstream, **settings[name])) for name in names}
