"""Clients that send or read badly on purpose, beside a neighbour with a stream that must go on.

Real processes on loopback; each attack is bounded in bytes and in time.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
import time
from contextlib import ExitStack, suppress
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import pytest

from tests.fake_provider import Answer, ScriptedUpstream, faults
from tests.helpers.waiting import wait_until
from tests.live.conftest import Serve, make_settings
from tests.live.neighbour import Neighbour, connect_to_each_worker
from tests.live.server import Server, list_workers
from tests.live.talk import PATHS, http, make_body

pytestmark = pytest.mark.slow

SECONDS = 2.5
"""How long an attack goes on, unless the server ends it."""

TINY_CHUNKS = b"1\r\na\r\n" * 10_000
CHUNKED = "Transfer-Encoding: chunked"


@pytest.fixture(scope="module")
def server(serve: Serve, upstream: ScriptedUpstream, neighbour: Neighbour) -> Server:
    """Two workers with short limits."""
    return serve(with_short_limits(upstream, neighbour, WEB_CONCURRENCY="2"))


@pytest.fixture(scope="module")
def narrow_server(serve: Serve, upstream: ScriptedUpstream, neighbour: Neighbour) -> Server:
    """Two workers with three places each, of which the neighbour takes one."""
    places = {"FORWARDER_MAX_CONCURRENT": "3", "WEB_CONCURRENCY": "2"}
    places["FORWARDER_MIN_SEND_RATE"] = "20m"
    return serve(with_short_limits(upstream, neighbour, **places))


def with_short_limits(
    upstream: ScriptedUpstream, neighbour: Neighbour, **settings: str
) -> dict[str, str]:
    """Settings with limits that an attack meets soon."""
    times = {f"FORWARDER_{name}_TIMEOUT": "2" for name in ("HEAD", "BODY", "SEND")}
    limits = {"FORWARDER_API_KEYS": "k", "FORWARDER_MAX_BODY": "1m", **times}
    return neighbour.settings | make_settings(upstream, **limits, **settings)


def connect(server: Server) -> socket.socket:
    url = urlsplit(server.url)
    return socket.create_connection((url.hostname, url.port), timeout=10)


def encode_head(path: str, *headers: str, method: str = "POST", key: str = "k") -> bytes:
    lines = [
        f"{method} {path} HTTP/1.1",
        "Host: localhost",
        f"Authorization: Bearer {key}",
        *headers,
    ]
    return "\r\n".join([*lines, "", ""]).encode()


def read_answer(sock: socket.socket) -> tuple[int, bytes]:
    """Status and body of the answer after which the server closes; 0 for none."""
    data = b""
    with suppress(OSError):
        while piece := sock.recv(65536):
            data += piece
    start, _, body = data.partition(b"\r\n\r\n")
    return int(start.split()[1]) if start else 0, body


def read_error(sock: socket.socket) -> tuple[int, dict[str, Any]]:
    status, body = read_answer(sock)
    error: dict[str, Any] = json.loads(body)["error"]
    return status, error


def send_request(server: Server, key: str = "k") -> int:
    headers = {"Authorization": f"Bearer {key}"}
    answer = http.post(f"{server.v1}{PATHS['chat']}", json=make_body("chat"), headers=headers)
    return answer.status_code


def post_on_connection(connection: HTTPConnection) -> int:
    """The status of an answer from the worker that has accepted the connection."""
    headers = {"Authorization": "Bearer k", "Content-Type": "application/json"}
    connection.request("POST", f"/v1{PATHS['chat']}", json.dumps(make_body("chat")), headers)
    answer = connection.getresponse()
    answer.read()
    return answer.status


def get_socket(connection: HTTPConnection) -> socket.socket:
    """The socket of an open connection."""
    sock: socket.socket = connection.sock
    return sock


def flood(sock: socket.socket, data: bytes, seconds: float = SECONDS) -> int:
    """Send it again and again until the server closes or the time is over; the bytes sent."""
    deadline, sent = time.monotonic() + seconds, 0
    sock.settimeout(seconds)
    with suppress(OSError):
        while time.monotonic() < deadline:
            sock.sendall(data)
            sent += len(data)
    return sent


# -- unread bodies ---------------------------------------------------------------------------------


@pytest.mark.serial
@pytest.mark.exhaustive
@pytest.mark.parametrize(
    ("path", "key", "status"),
    [
        ("/v1/chat/completions", "wrong", 401),
        ("/v1/nothing", "k", 404),
        ("/health", "wrong", 200),
        ("/v1/models", "k", 405),
    ],
)
def test_an_endless_unread_body_is_cut(
    path: str, key: str, status: int, server: Server, neighbour: Neighbour
) -> None:
    with neighbour.watch(server), connect(server) as sock:
        method = "GET" if path == "/health" else "POST"
        sock.sendall(encode_head(path, CHUNKED, method=method, key=key))
        sent = flood(sock, TINY_CHUNKS)
        answer, _ = read_answer(sock)

    assert sent < 50_000_000  # only the kernel's buffers
    assert answer == status


def test_the_rest_of_a_short_body_is_skipped_and_its_connection_kept(server: Server) -> None:
    connection = HTTPConnection(urlsplit(server.url).netloc, timeout=10)
    used_sockets = set()
    for _ in range(3):
        connection.request("POST", "/v1/nothing", b"x" * 50_000)
        answer = connection.getresponse()
        assert (answer.status, answer.read()[:9]) == (404, b'{"error":')
        used_sockets.add(connection.sock)
    connection.close()
    assert len(used_sockets) == 1
    assert None not in used_sockets


def test_a_short_body_that_does_not_arrive_is_not_waited_for(server: Server) -> None:
    with connect(server) as sock:
        sock.sendall(encode_head("/v1/nothing", "Content-Length: 5000"))
        started = time.monotonic()

        assert read_answer(sock)[0] == 404
        assert time.monotonic() - started < 5


def test_client_that_sends_too_much_receives_the_error(server: Server) -> None:
    """A client that reads the answer receives it before any connection reset."""
    body = {"messages": [{"role": "user", "content": "x" * 3_000_000}], "model": "m"}

    answer = http.post(
        f"{server.v1}/chat/completions", json=body, headers={"Authorization": "Bearer k"}
    )

    assert answer.status_code == 413
    assert answer.headers["connection"] == "close"


# -- bodies that are read --------------------------------------------------------------------------


@pytest.mark.serial
@pytest.mark.exhaustive
@pytest.mark.parametrize("extension", [b"", b";" + b"e" * 5000])
def test_chunks_with_more_framing_than_data_are_refused(
    extension: bytes, server: Server, neighbour: Neighbour
) -> None:
    chunk = b"1" + extension + b"\r\n \r\n"
    with neighbour.watch(server), connect(server) as sock:
        sock.sendall(encode_head("/v1/chat/completions", CHUNKED))
        flood(sock, chunk * (60_000 // len(chunk)))
        status, error = read_error(sock)

    assert (status, error["code"]) == (413, "request_too_large")
    assert "FORWARDER_MAX_CHUNK_OVERHEAD" in error["message"]


def test_small_chunks_of_an_honest_client_are_read(
    server: Server, upstream: ScriptedUpstream
) -> None:
    data = json.dumps(make_body("chat", "x" * 200_000)).encode()
    chunks = [data[at : at + 10] for at in range(0, len(data), 10)]
    body = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"
    with connect(server) as sock:
        sock.sendall(encode_head("/v1/chat/completions", CHUNKED) + body)
        answer = sock.recv(65536)

    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b"connection: keep-alive" in answer.lower()


@pytest.mark.parametrize(
    "body",
    [b"zz\r\n{}\r\n0\r\n\r\n", b"2\r\n{}XX", b"-2\r\n{}\r\n0\r\n\r\n", b"0\r\nbad trailer\r\n\r\n"],
)
def test_bad_chunks_are_a_400_in_the_client_s_protocol(body: bytes, server: Server) -> None:
    with connect(server) as sock:
        sock.sendall(encode_head("/v1/responses", CHUNKED) + body)
        status, error = read_error(sock)

    assert (status, error["type"]) == (400, "invalid_request_error")
    assert "chunks" in error["message"]


@pytest.mark.parametrize("framing", [CHUNKED, "Content-Length: 1000"])
def test_a_slow_body_ends_in_a_408_and_holds_no_place(
    framing: str, narrow_server: Server, neighbour: Neighbour
) -> None:
    with neighbour.watch(narrow_server), ExitStack() as stack:
        others = connect_to_each_worker(narrow_server)
        # For each worker more than FORWARDER_MAX_CONCURRENT.
        attackers = [each for _ in range(5) for each in connect_to_each_worker(narrow_server)]
        for each in (*attackers, *others):
            stack.callback(each.close)
        socks = [get_socket(attacker) for attacker in attackers]
        for sock in socks:
            sock.sendall(encode_head("/v1/chat/completions", framing) + b"1\r\n{\r\n")
        time.sleep(0.3)

        assert [post_on_connection(other) for other in others] == [200, 200]
        started = time.monotonic()
        for sock in socks:
            status, error = read_error(sock)
            assert (status, error["code"]) == (408, "request_timeout")
            assert "FORWARDER_BODY_TIMEOUT" in error["message"]
        assert time.monotonic() - started < 8


def test_trickling_body_ends_at_the_time_limit(server: Server) -> None:
    with connect(server) as sock:
        sock.sendall(encode_head("/v1/chat/completions", "Content-Length: 1000"))
        started = time.monotonic()
        with suppress(OSError):
            while time.monotonic() - started < 8:
                sock.sendall(b" ")
                time.sleep(0.1)

        assert time.monotonic() - started < 8


# -- heads -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("start", [b"", b"POST /v1/responses HTTP/1.1\r\nHost: localhost\r\n"])
def test_connection_without_a_request_head_is_closed(start: bytes, server: Server) -> None:
    with connect(server) as sock:
        sock.sendall(start)
        started = time.monotonic()

        assert sock.recv(1) == b""
        assert time.monotonic() - started < 6
    assert "Traceback" not in server.log


@pytest.mark.serial
@pytest.mark.exhaustive
def test_a_flood_of_requests_on_one_connection(server: Server, neighbour: Neighbour) -> None:
    request = encode_head("/health", method="GET")
    with neighbour.watch(server), connect(server) as sock:
        threading.Thread(target=lambda: read_answer(sock), daemon=True).start()
        flood(sock, request * 500)


def test_a_header_cannot_change_the_path(server: Server) -> None:
    with connect(server) as sock:
        sock.sendall(encode_head("/health", "SCRIPT_NAME: /v1", "Connection: close", method="GET"))

        assert read_answer(sock)[0] == 200


def test_a_request_that_has_waited_too_long_is_refused(
    serve: Serve, upstream: ScriptedUpstream
) -> None:
    server = serve(make_settings(upstream, FORWARDER_QUEUE_TIMEOUT="1"))
    (worker,) = list_workers(server)
    os.kill(worker, signal.SIGSTOP)
    with connect(server) as delayed, connect(server) as probe:
        delayed.sendall(encode_head("/v1/chat/completions", "Content-Length: 2") + b"{}")
        probe.sendall(encode_head("/health", "Connection: close", method="GET"))
        time.sleep(1.5)
        os.kill(worker, signal.SIGCONT)
        answer = b"".join(iter(lambda: delayed.recv(65536), b""))
        assert read_answer(probe)[0] == 200

    start, _, body = answer.partition(b"\r\n\r\n")
    assert start.startswith(b"HTTP/1.1 503 ")
    assert b"\r\nRetry-After: " in start
    error = json.loads(body)["error"]
    assert error["code"] == "overloaded"
    assert "FORWARDER_QUEUE_TIMEOUT" in error["message"]
    assert upstream.requests == []
    assert send_request(server) == 200


# -- clients that do not read ----------------------------------------------------------------------


def post_without_reading(sock: socket.socket, upstream: ScriptedUpstream) -> None:
    """Request more than the connection can hold, and read nothing of it."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    request_count = len(upstream.requests)
    upstream.script(Answer(text="word " * 4_000_000, pieces=2000))
    body = json.dumps(make_body("chat", stream=True)).encode()
    sock.sendall(encode_head("/v1/chat/completions", f"Content-Length: {len(body)}") + body)
    wait_until(lambda: len(upstream.requests) > request_count)  # it and no other has the script


def await_full_connection(sock: socket.socket) -> None:
    """Wait until the server waits for this client to read: its queue is full and stays so."""
    before = 0

    def is_full() -> bool:
        nonlocal before
        time.sleep(1)
        last, before = before, measure_send_queue(sock)
        return before == last > 100_000

    wait_until(is_full, 40)


def measure_send_queue(sock: socket.socket) -> int:
    """The bytes that the server has written to this connection and that wait to be received."""
    client, server = (f":{name[1]:04X}" for name in (sock.getsockname(), sock.getpeername()))
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, remote, _, queues, *_ = line.split()
        if local.endswith(server) and remote.endswith(client):
            return int(queues.partition(":")[0], 16)
    return 0


def has_served(server: Server) -> bool:
    """Whether a request was served; while workers start, it may fail or take too long."""
    with suppress(httpx2.HTTPError):
        return send_request(server) == 200
    return False


def test_a_client_that_never_reads_does_not_delay_a_deploy(
    serve: Serve, upstream: ScriptedUpstream, neighbour: Neighbour
) -> None:
    settings = {"WEB_CONCURRENCY": "2", "GUNICORN_GRACEFUL_TIMEOUT": "2"}
    server = serve(neighbour.settings | make_settings(upstream, **settings))
    old_workers = list_workers(server)
    with ExitStack() as stack:
        for connection in connect_to_each_worker(server):
            stack.callback(connection.close)
            sock = get_socket(connection)
            post_without_reading(sock, upstream)
            await_full_connection(sock)
        server.process.send_signal(signal.SIGHUP)

        # Without a limit they would wait for the send time-out of a minute.
        wait_until(lambda: not set(old_workers) & set(list_workers(server)), 40)
        wait_until(lambda: server.log.count('"left":true') == 2)

    wait_until(lambda: has_served(server), 40)
    assert len(list_workers(server)) == 2


def test_the_slot_of_a_client_that_never_reads_is_released(
    narrow_server: Server, upstream: ScriptedUpstream, neighbour: Neighbour
) -> None:
    disconnect_count = narrow_server.log.count('"left":true')
    with neighbour.watch(narrow_server), ExitStack() as stack:
        others = connect_to_each_worker(narrow_server)
        attackers = [each for _ in range(2) for each in connect_to_each_worker(narrow_server)]
        for each in (*attackers, *others):
            stack.callback(each.close)
        for attacker in attackers:
            post_without_reading(get_socket(attacker), upstream)
        assert [post_on_connection(other) for other in others] == [503, 503]

        for other in others:
            wait_until(lambda other=other: post_on_connection(other) == 200)  # type: ignore[misc]

    wait_until(lambda: narrow_server.log.count('"left":true') == disconnect_count + 4)
    assert "FORWARDER_SEND_TIMEOUT" in narrow_server.log
    assert "Traceback" not in narrow_server.log


def read_slowly(sock: socket.socket, is_over: threading.Event) -> None:
    """Read about 3 MB a second, so that the server never waits for long."""
    with suppress(OSError):
        while not is_over.is_set() and sock.recv(30_000):
            time.sleep(0.01)


def test_a_client_that_reads_too_slowly_gives_its_place_back(
    narrow_server: Server, upstream: ScriptedUpstream, neighbour: Neighbour
) -> None:
    disconnect_count, is_over = narrow_server.log.count('"left":true'), threading.Event()
    with neighbour.watch(narrow_server), ExitStack() as stack:
        others = connect_to_each_worker(narrow_server)
        attackers = [each for _ in range(2) for each in connect_to_each_worker(narrow_server)]
        for each in (*attackers, *others):
            stack.callback(each.close)
        stack.callback(is_over.set)
        for attacker in attackers:
            sock = get_socket(attacker)
            post_without_reading(sock, upstream)
            threading.Thread(target=read_slowly, args=(sock, is_over), daemon=True).start()
        assert [post_on_connection(other) for other in others] == [503, 503]

        for other in others:
            wait_until(lambda other=other: post_on_connection(other) == 200)  # type: ignore[misc]
        wait_until(lambda: narrow_server.log.count('"left":true') == disconnect_count + 4)
        assert not is_over.is_set()


# -- workers that do not move ----------------------------------------------------------------------


def test_an_aborted_worker_is_replaced(serve: Serve, upstream: ScriptedUpstream) -> None:
    server = serve(make_settings(upstream))
    (before,) = list_workers(server)
    upstream.script(faults.stall(Answer(text="word " * 40), after=2))
    with http.stream(
        "POST", f"{server.v1}/responses", json=make_body("responses", stream=True)
    ) as response:
        next(response.iter_lines())
        os.kill(before, signal.SIGABRT)
        (after,) = wait_until(lambda: [pid for pid in list_workers(server) if pid != before])
    wait_until(lambda: "Worker aborted" in server.log)

    wait_until(lambda: has_served(server), 40)
    assert list_workers(server) == [after]


BUSY = signal.SIGRTMIN + 1
"""The signal that keeps a worker of `BUSY_PROGRAM` busy."""

BUSY_PROGRAM = f"""
import signal, time

def stay_busy(*_):
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        pass

signal.signal({BUSY}, stay_busy)
"""


def test_a_blocked_worker_is_replaced_without_other_failures(
    serve: Serve, upstream: ScriptedUpstream, neighbour: Neighbour, tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(BUSY_PROGRAM)
    settings = {"WEB_CONCURRENCY": "2", "GUNICORN_TIMEOUT": "4", "PYTHONPATH": str(tmp_path)}
    server = serve(neighbour.settings | make_settings(upstream, **settings))
    for connection in connect_to_each_worker(server):  # the time-out begins when a worker serves
        connection.close()
    busy, other = list_workers(server)
    statuses: list[int] = []

    def is_replaced() -> bool:
        statuses.append(send_request(server))
        return busy not in list_workers(server)

    with neighbour.watch(server, workers_to_lose=[busy]):
        os.kill(busy, BUSY)
        wait_until(is_replaced, 40)
        wait_until(lambda: len(list_workers(server)) == 2)
        statuses += [send_request(server) for _ in range(5)]

    assert set(statuses) == {200}
    assert len(statuses) > 10
    assert "Worker aborted" in server.log
    assert other in list_workers(server)


def test_a_worker_may_open_as_many_files_as_the_system_allows(server: Server) -> None:
    pid = list_workers(server)[0]
    limits = Path(f"/proc/{pid}/limits").read_text().splitlines()
    (line,) = [line for line in limits if line.startswith("Max open files")]
    soft, hard = line.split()[3:5]

    assert soft == hard
