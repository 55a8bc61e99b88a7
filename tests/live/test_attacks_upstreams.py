"""Upstreams and name servers that answer badly on purpose, beside a neighbour on each worker."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import brotli
import pytest

from tests.fake_provider import ScriptedUpstream
from tests.helpers.loopback import Peer, Script, encode_chunk, run_server
from tests.helpers.loopback import Server as Loopback
from tests.live.conftest import KEY, Serve, make_settings
from tests.live.neighbour import MAX_STALL, Neighbour
from tests.live.server import Server
from tests.live.talk import ClientAnswer, http, make_body, send_request

pytestmark = [pytest.mark.slow, pytest.mark.serial, pytest.mark.exhaustive]

Json = dict[str, Any]

MB = 2**20
MAX_WORK_STALL = 0.25
"""Seconds that a neighbour may be stalled by work or by multiplied memory."""

OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


class Hostile:
    """An upstream that answers each request with the script of the moment."""

    def __init__(self) -> None:
        self.script: Script = answer_nothing
        self.requests: list[bytes] = []

    def __call__(self, peer: Peer) -> None:
        if request := peer.request():
            self.requests.append(request)
            with suppress(OSError):  # the forwarder leaves
                self.script(peer)


def answer_nothing(peer: Peer) -> None:
    """Close without an answer."""


@pytest.fixture(scope="module")
def hostile() -> Hostile:
    return Hostile()


@pytest.fixture(scope="module")
def upstream_listener(hostile: Hostile) -> Iterator[Loopback]:
    with run_server(hostile) as server:
        yield server


@pytest.fixture(scope="module")
def server(serve: Serve, upstream_listener: Loopback, neighbour: Neighbour) -> Server:
    """Two workers, with the limits that hold unless others are set, and one hostile upstream."""
    hostile = {
        "FORWARDER_UPSTREAMS": "responses,chat,hostile,neighbour",
        "HOSTILE_API": "chat",
        "HOSTILE_BASE_URL": f"{upstream_listener.url}/v1",
        "HOSTILE_API_KEY": "k",
        "HOSTILE_MAX_RETRIES": "0",
        "HOSTILE_BREAKER_FAILURES": "0",
        "HOSTILE_BREAKER_SHARE": "0",
        "HOSTILE_FIRST_BYTE_TIMEOUT": "3",
        "HOSTILE_WHOLE_TIMEOUT": "3",
        "FORWARDER_READY_TTL": "0",  # each list of models asks the upstream
    }
    return serve(neighbour.settings | hostile | {"WEB_CONCURRENCY": "2"})


def answer_without_end(start: bytes, piece: bytes, pieces: int = 300) -> Script:
    """A script that sends ``start``, and then ``piece`` again and again."""

    def script(peer: Peer) -> None:
        peer.send(start)
        for _ in range(pieces):
            peer.send(piece)

    return script


def answer_with(body: bytes, status: bytes = b"200 OK", *headers: bytes) -> Script:
    """A script that sends one whole answer."""

    def script(peer: Peer) -> None:
        lines = [b"HTTP/1.1 " + status, b"Content-Length: %d" % len(body), *headers, b"", b""]
        peer.send(b"\r\n".join(lines), body)

    return script


def make_bomb() -> Script:
    bomb = brotli.compress(b" " * (256 * MB), quality=5)
    return answer_with(bomb, b"200 OK", b"Content-Encoding: br", b"Content-Type: application/json")


def make_small_values() -> Script:
    return answer_with(b'{"choices":[' + b",".join([b"[]"] * 20_000_000) + b"]}")


def make_refusal() -> Script:
    """An error with a text that almost matches every known wording."""
    text = "null valid string unknown parameter 'loc': ['body', model input prompt exceeds "
    body = json.dumps({"error": {"message": text * 12_000}}).encode()
    return answer_with(body, b"400 Bad Request", b"Content-Type: application/json")


def make_trickling_head() -> Script:
    def script(peer: Peer) -> None:
        peer.send(b"HTTP/1.1 200 OK\r\n")
        for _ in range(100):
            peer.send(b"X-Slow: 1\r\n")
            time.sleep(0.1)

    return script


CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n" + encode_chunk(b"{}") + b"0\r\n"

ANSWERS: dict[str, tuple[Callable[[], Script], int, str, float]] = {
    "a Brotli bomb": (make_bomb, 502, "Content-Encoding 'br'", MAX_WORK_STALL),
    "a whole answer without end": (
        lambda: answer_without_end(OK + b"\r\n{", b" " * MB), 502, "FORWARDER_MAX_ANSWER", MAX_STALL,
    ),
    "many small values": (make_small_values, 502, "JSON values", MAX_WORK_STALL),
    "an error without end": (
        lambda: answer_without_end(b"HTTP/1.1 429 Too Many Requests\r\n\r\n", b" " * MB),
        429, "without a JSON body", MAX_STALL,
    ),
    "an error that is slow to read": (make_refusal, 400, "null valid string", MAX_WORK_STALL),
    "a head without end": (
        lambda: answer_without_end(OK, b"X-More: " + b"y" * 65_000 + b"\r\n"), 502, "did not answer in HTTP", MAX_STALL,
    ),
    "a head that trickles": (make_trickling_head, 504, "within 3 seconds", MAX_STALL),
    "trailers without end": (
        lambda: answer_without_end(CHUNKED, b"X-More: " + b"y" * 65_000 + b"\r\n"), 502, "closed before the answer was complete", MAX_STALL,
    ),
    "interim answers without end": (
        lambda: answer_without_end(b"", b"HTTP/1.1 103 Early Hints\r\n\r\n" * 40_000), 502, "did not answer in HTTP", MAX_STALL,
    ),
    "an event without end": (
        lambda: answer_without_end(OK + b"\r\ndata: {", b" " * MB), 502, "event of more than", MAX_STALL,
    ),
}  # fmt: skip
"""The script, the status of the client's answer, what its error says, and the longest stall."""


@pytest.mark.parametrize(("make", "status", "error_text", "stall"), ANSWERS.values(), ids=ANSWERS)
def test_answers_of_an_upstream_are_bounded(
    make: Callable[[], Script],
    status: int,
    error_text: str,
    stall: float,
    server: Server,
    hostile: Hostile,
    neighbour: Neighbour,
) -> None:
    hostile.script = make()
    with neighbour.watch(server, stall):
        answers = request_all_modes(server, 2)
    assert {each.status for each in answers} == {status}, answers[0].text[:500]
    assert {error_text in each.error["message"] for each in answers} == {True}, answers[0].error[
        "message"
    ]


def request_all_modes(server: Server, count: int) -> list[ClientAnswer]:
    """The answers to as many requests at once."""
    with ThreadPoolExecutor(count) as pool:
        return list(
            pool.map(
                lambda _: send_request(server, "chat", make_body("chat", model="hostile/m")),
                range(count),
            )
        )


def make_list_without_end() -> Script:
    return answer_without_end(OK + b"\r\n" + b'{"data":[', b'{"id":"a"},' * 100_000)


def make_list_of_small_values() -> Script:
    entries = b",".join([b'{"id":"m%d"}' % i for i in range(500_000)])
    return answer_with(b'{"data":[' + entries + b"]}")


@pytest.mark.parametrize("make", [make_list_without_end, make_list_of_small_values])
def test_lists_of_models_are_bounded(
    make: Callable[[], Script], server: Server, hostile: Hostile, neighbour: Neighbour
) -> None:
    hostile.script = make()
    hostile.requests.clear()
    with neighbour.watch(server, MAX_WORK_STALL):
        response = http.get(f"{server.v1}/models")
    assert any(request.startswith(b"GET /v1/models ") for request in hostile.requests)
    assert response.status_code in (200, 502)
    assert len(response.content) < 10_000


# -- name servers ---------------------------------------------------------------------------------

SLOW_NAMES = """
import _socket, time

look_up, sleep = _socket.getaddrinfo, time.sleep

def look_up_slowly(host, *arguments, **options):
    if str(host).endswith("slow.test"):
        sleep(6)
    return look_up(host, *arguments, **options)

_socket.getaddrinfo = look_up_slowly
"""
"""Run by each process of the forwarder when it starts; a client can choose such names."""


def test_slow_name_servers_of_clients_delay_no_upstream(
    serve: Serve, upstream: ScriptedUpstream, neighbour: Neighbour, tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(SLOW_NAMES)
    by_name = upstream.url.replace("127.0.0.1", "localhost")  # so that it is looked up, too
    settings = {
        "WEB_CONCURRENCY": "2",
        "PYTHONPATH": str(tmp_path),
        "FORWARDER_API_KEYS": "k",
        "FORWARDER_FETCH_TIMEOUT": "2",
        "FORWARDER_UPSTREAMS": "responses,chat,fetching,neighbour",
        "FETCHING_BASE_URL": upstream.url,
        "FETCHING_API_KEY": KEY,
        "FETCHING_API": "chat",
        "FETCHING_QUIRKS": '{"image_url": "base64"}',
    }
    server = serve(neighbour.settings | make_settings(upstream, **settings, CHAT_BASE_URL=by_name))

    def fetch(number: int) -> ClientAnswer:
        urls = [f"http://{number}-{i}.slow.test/a.png" for i in range(8)]
        parts = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
        message = {"role": "user", "content": parts}
        body = {"model": "fetching/m", "messages": [message]}
        return send_request(server, "chat", body, X_Api_Key="k")

    with neighbour.watch(server), ThreadPoolExecutor(12) as pool:
        fetches = [pool.submit(fetch, i) for i in range(12)]
        time.sleep(0.5)
        waits = []
        for _ in range(10):
            started = time.monotonic()
            response = send_request(
                server, "chat", make_body("chat", model="chat/m"), X_Api_Key="k"
            )
            assert response.status == 200
            waits.append(time.monotonic() - started)
        refusals = [each.result() for each in fetches]

    assert max(waits) < 2
    assert {each.status for each in refusals} == {400}
    assert {each.error["code"] for each in refusals} == {"unfetchable_url"}
