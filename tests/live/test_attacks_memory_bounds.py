"""Requests that would take much memory, against a running forwarder."""

from __future__ import annotations

import base64
import contextlib
import json
import socket
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from typing import Any

import httpx2
import pytest
from simple_websocket import Client, ConnectionClosed
from wsproto.utilities import LocalProtocolError

from tests.fake_provider import Answer, ScriptedUpstream
from tests.fake_provider.faults import never_answer
from tests.helpers.waiting import wait_until
from tests.live.conftest import Serve, make_settings
from tests.live.neighbour import Neighbour, connect_to_each_worker, measure_memory
from tests.live.server import Server
from tests.live.talk import ClientAnswer, http, send_request

pytestmark = [
    pytest.mark.slow,
    pytest.mark.serial,  # each measures stalls and memory
    pytest.mark.exhaustive,
]

Json = dict[str, Any]

MB = 2**20
MAX_STALL = 0.25
"""Seconds that a neighbour may be stalled by the worker."""

MAX_BODY = 8 * MB
BODY_MEMORY = 24 * MB


@pytest.fixture(scope="module")
def server(serve: Serve, upstream: ScriptedUpstream, neighbour: Neighbour) -> Server:
    limits = {
        "WEB_CONCURRENCY": "2",
        "FORWARDER_MAX_BODY": str(MAX_BODY),
        "FORWARDER_MAX_BODY_MEMORY": str(BODY_MEMORY),
        "FORWARDER_WEBSOCKET_MEMORY": str(4 * MB),
    }
    return serve(neighbour.settings | make_settings(upstream, **limits))


@pytest.fixture(scope="module")
def server_with_store(serve: Serve, upstream: ScriptedUpstream, neighbour: Neighbour) -> Server:
    """The same limits, and files that are stored here."""
    limits = {
        "WEB_CONCURRENCY": "2",
        "FORWARDER_MAX_BODY": str(MAX_BODY),
        "FORWARDER_MAX_BODY_MEMORY": str(BODY_MEMORY),
        "FORWARDER_FILES": "store",
    }
    return serve(neighbour.settings | make_settings(upstream, **limits))


@pytest.fixture(scope="module")
def server_with_a_body_limit(
    serve: Serve, upstream: ScriptedUpstream, neighbour: Neighbour
) -> Server:
    """The same limit of a body, which is reached long before that of the memory of all bodies."""
    limits = {"WEB_CONCURRENCY": "2", "FORWARDER_MAX_BODY": str(MAX_BODY)}
    return serve(neighbour.settings | make_settings(upstream, **limits))


@pytest.fixture(scope="module")
def server_with_default_limits(
    serve: Serve, upstream: ScriptedUpstream, neighbour: Neighbour
) -> Server:
    """Two workers with the default limits."""
    return serve(neighbour.settings | make_settings(upstream, WEB_CONCURRENCY="2"))


@pytest.fixture(autouse=True)
def _watch_neighbour(request: pytest.FixtureRequest, neighbour: Neighbour) -> Iterator[None]:
    """A neighbour beside each attack on a server of this module."""
    servers = (
        "server",
        "server_with_store",
        "server_with_a_body_limit",
        "server_with_default_limits",
    )
    names = [name for name in servers if name in request.fixturenames]
    with contextlib.ExitStack() as stack:
        for name in names:
            stack.enter_context(neighbour.watch(request.getfixturevalue(name), MAX_STALL))
        yield


def make_message(size: int, **more: Any) -> Json:
    return {"type": "message", "role": "user", "content": "x" * size, **more}


# -- data that a request refers to ----------------------------------------------------------------


def test_many_references_to_one_large_item_are_refused(
    server: Server, upstream: ScriptedUpstream
) -> None:
    item = make_message(MB, id="msg_mine")
    assert send_request(server, "responses", {"model": "chat/m", "input": [item]}).status == 200
    upstream.requests.clear()
    reference = {"type": "item_reference", "id": "msg_mine"}

    refusal = send_request(server, "responses", {"model": "chat/m", "input": [reference] * 200})
    assert refusal.status == 413
    assert "FORWARDER_MAX_BODY" in refusal.error["message"]
    assert not upstream.requests
    assert (
        send_request(server, "responses", {"model": "chat/m", "input": [reference] * 3}).status
        == 200
    )


def test_references_to_items_of_many_large_responses_are_refused(
    server: Server, upstream: ScriptedUpstream
) -> None:
    for i in range(10):
        items = [make_message(4 * MB), make_message(1, id=f"msg_{i}")]
        assert send_request(server, "responses", {"model": "chat/m", "input": items}).status == 200
    references = [{"type": "item_reference", "id": f"msg_{i}"} for i in range(10)]
    upstream.requests.clear()

    refusal = send_request(server, "responses", {"model": "chat/m", "input": references})
    assert refusal.status == 413
    assert "4 times FORWARDER_MAX_BODY" in refusal.error["message"]
    assert not upstream.requests
    assert (
        send_request(server, "responses", {"model": "chat/m", "input": references[:3]}).status
        == 200
    )


def test_a_chain_of_large_turns_is_refused_once_it_is_too_large(server: Server) -> None:
    previous: str | None = None
    statuses = []
    for _ in range(5):
        body = {"model": "chat/m", "input": [make_message(2 * MB)], "store": True}
        answer = send_request(server, "responses", {**body, "previous_response_id": previous})
        statuses.append(answer.status)
        if answer.status == 200:
            previous = answer.json["id"]
    assert statuses == [200, 200, 200, 413, 413]
    assert answer.error["param"] == "previous_response_id"


def test_a_conversation_of_large_items_is_refused_once_it_is_too_large(
    server: Server, upstream: ScriptedUpstream
) -> None:
    conversation = http.post(f"{server.v1}/conversations", json={}).json()["id"]
    body = {"model": "chat/m", "input": "hi", "conversation": conversation}
    statuses = []
    for _ in range(4):
        items = {"items": [make_message(3 * MB)]}
        assert (
            http.post(f"{server.v1}/conversations/{conversation}/items", json=items).status_code
            == 200
        )
        upstream.requests.clear()
        answer = send_request(server, "responses", body)
        statuses.append((answer.status, len(upstream.requests)))
    assert statuses == [(200, 1), (200, 1), (413, 0), (413, 0)]
    assert answer.error["param"] == "conversation"
    assert "FORWARDER_MAX_BODY" in answer.error["message"]


def test_only_one_of_thousands_of_sealed_compaction_items_is_decrypted(
    server: Server, upstream: ScriptedUpstream
) -> None:
    upstream.script(Answer(text="word " * 10_000))
    compaction = http.post(
        f"{server.v1}/responses/compact", json={"model": "chat/m", "input": "hi"}
    ).json()
    [item] = [each for each in compaction["output"] if each["type"] == "compaction"]
    assert len(json.dumps(item)) * 3000 < MAX_BODY
    upstream.requests.clear()

    assert (
        send_request(server, "responses", {"model": "chat/m", "input": [item] * 3000}).status == 200
    )
    [sent] = upstream.requests
    assert json.dumps(sent.body).count("word " * 9_999) == 1
    assert len(json.dumps(sent.body)) < 100_000


# -- bodies ---------------------------------------------------------------------------------------


def test_a_body_of_empty_lists_is_refused_before_it_is_parsed(server: Server) -> None:
    before = measure_memory(server)
    body = b'{"model":"chat/m","input":[' + b",".join([b"[]"] * 2_600_000) + b"]}"
    refusal = send_request(server, "responses", body)
    assert refusal.status == 413
    assert "FORWARDER_MAX_JSON_VALUES" in refusal.error["message"]
    assert measure_memory(server) - before < 100 * MB


SIZE = 60_000_000
LARGE_TEXTS: dict[str, tuple[Callable[[], bytes], set[int]]] = {
    "plain": (lambda: b"x" * SIZE, {200, 503}),
    "escapes": (lambda: rb"\n" * (SIZE // 2), {200, 503}),
    "an emoji": (lambda: b"x" * SIZE + "😀".encode(), {413, 503}),
    "an escaped emoji": (lambda: b"x" * SIZE + rb"\ud83d\ude00", {413, 503}),
    "half an emoji elsewhere": (lambda: rb'\ud83d","b":"' + b"x" * SIZE, {413, 503}),
    "less with an emoji": (lambda: b"x" * (SIZE * 2 // 5) + "😀".encode(), {200, 503}),
}
"""The start of a body's text in JSON, and the possible statuses."""


@pytest.mark.parametrize(("make", "statuses"), LARGE_TEXTS.values(), ids=LARGE_TEXTS)
def test_large_bodies_at_once_take_little_memory(
    make: Callable[[], bytes], statuses: set[int], server_with_default_limits: Server
) -> None:
    data = b'{"model":"responses/m","messages":[{"role":"user","content":"%b"}]}' % make()
    with ThreadPoolExecutor(4) as pool:
        answers = list(
            pool.map(lambda _: post_with_long_timeout(server_with_default_limits, data), range(4))
        )
    assert {status for status, _ in answers} <= statuses
    assert statuses - {503} <= {status for status, _ in answers}
    assert all("FORWARDER_MAX_BODY_MEMORY" in text for status, text in answers if status != 200)


def post_with_long_timeout(server: Server, body: bytes) -> tuple[int, str]:
    """The status and the text of the answer to a large body."""
    headers = {"Content-Type": "application/json"}
    url = f"{server.v1}/chat/completions"
    response = httpx2.post(url, content=body, headers=headers, timeout=60, trust_env=False)
    return response.status_code, response.text


def send_unfinished_body(connection: HTTPConnection, size: int) -> None:
    """Send a request whose body stops arriving after ``size`` bytes."""
    head = f"POST /v1/responses HTTP/1.1\r\nHost: localhost\r\nContent-Length: {size + 9}\r\n\r\n"
    sock: socket.socket = connection.sock
    with contextlib.suppress(OSError):  # refused while it is sent
        sock.sendall(head.encode() + b"x" * size)


def post_on_connection(connection: HTTPConnection, size: int) -> tuple[int, str, str | None]:
    """Status, text and Retry-After of the worker that has accepted the connection."""
    body = json.dumps({"model": "chat/m", "input": "x" * size})
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # refused while it is sent
        connection.request("POST", "/v1/responses", body, {"Content-Type": "application/json"})
    response = connection.getresponse()
    return response.status, response.read().decode(), response.getheader("Retry-After")


def post_to_each_worker(server: Server, size: int) -> list[tuple[int, str, str | None]]:
    """The answer of each worker to a request of this size."""
    answers = []
    for connection in connect_to_each_worker(server):
        with contextlib.closing(connection):
            answers.append(post_on_connection(connection, size))
    return answers


def test_all_bodies_of_a_worker_together_have_a_limit(server: Server) -> None:
    with contextlib.ExitStack() as stack:
        attackers = [each for _ in range(5) for each in connect_to_each_worker(server)]
        for attacker in attackers:
            stack.callback(attacker.close)
            send_unfinished_body(attacker, MAX_BODY * 3 // 4)
        time.sleep(0.5)
        for status, text, retry_after in post_to_each_worker(server, 7 * MB):
            assert status == 503
            assert "FORWARDER_MAX_BODY_MEMORY" in text
            assert retry_after
        assert [status for status, *_ in post_to_each_worker(server, 2)] == [200, 200]
    time.sleep(0.5)
    assert [status for status, *_ in post_to_each_worker(server, 7 * MB)] == [200, 200]


def test_refused_background_requests_leave_no_memory_reserved(server: Server) -> None:
    body = {"model": "chat/m", "input": "x" * (4 * MB), "background": True, "temperature": "hot"}
    for connection in connect_to_each_worker(server):
        with contextlib.closing(connection):
            for _ in range(4):
                headers = {"Content-Type": "application/json"}
                connection.request("POST", "/v1/responses", json.dumps(body), headers)
                response = connection.getresponse()
                assert (response.status, response.read()[:9]) == (400, b'{"error":')
            assert post_on_connection(connection, 7 * MB)[0] == 200


def test_many_uses_of_one_stored_file_are_refused(
    server_with_store: Server, upstream: ScriptedUpstream
) -> None:
    file = ("a.pdf", b"%PDF-" + bytes(3 * MB), "application/pdf")
    form_data = {"purpose": "user_data"}
    stored_file = http.post(
        f"{server_with_store.v1}/files", data=form_data, files={"file": file}
    ).json()
    part = {"type": "input_file", "file_id": stored_file["id"]}

    def send_uses(uses: int) -> ClientAnswer:
        message = {"role": "user", "content": [part] * uses}
        return send_request(server_with_store, "responses", {"model": "chat/m", "input": [message]})

    assert send_uses(1).status == 200
    upstream.requests.clear()
    refusal = send_uses(1000)
    assert refusal.status == 413
    assert "FORWARDER_MAX_BODY" in refusal.error["message"]
    assert refusal.error["param"] == "input[0].content[1].file_id"
    assert not upstream.requests


@pytest.mark.parametrize("field", [False, True])
def test_forms_of_many_small_parts_take_little_memory(
    field: bool, server_with_store: Server
) -> None:
    parts = {
        f"f{i}": (None if field else f"{i}.png", b"x" * 75_000, "image/png") for i in range(90)
    }
    before = measure_memory(server_with_store)
    with ThreadPoolExecutor(8) as pool:
        answers = list(
            pool.map(lambda _: http.post(f"{server_with_store.v1}/files", files=parts), range(16))
        )
    assert {answer.status_code for answer in answers} <= {400, 503}
    assert measure_memory(server_with_store) - before < 60 * MB


# -- WebSockets -----------------------------------------------------------------------------------


def test_a_websocket_agrees_to_no_compression(server: Server) -> None:
    host, port = server.url.removeprefix("http://").split(":")
    before = measure_memory(server)
    with socket.create_connection((host, int(port)), 5) as sock:
        key = base64.b64encode(b"0" * 16).decode()
        sock.sendall(
            f"GET /v1/responses HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\n"
            f"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n"
            "Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n".encode()
        )
        head = sock.recv(65536).lower()
        assert head.startswith(b"http/1.1 101")
        assert b"permessage-deflate" not in head
        bomb = zlib.compress(b" " * (60 * MB), 9)[2:-4]
        frame = bytes([0xC1, 0xFF]) + len(bomb).to_bytes(8, "big") + b"\0\0\0\0" + bomb
        with contextlib.suppress(OSError):
            sock.sendall(frame)
            assert sock.recv(65536)[:1] in (b"\x88", b"")  # it is closed
    assert measure_memory(server) - before < 30 * MB


def connect(server: Server) -> Client:
    return Client.connect(server.url.replace("http", "ws", 1) + "/v1/responses")


def test_waiting_messages_have_a_limit_in_bytes(
    server_with_a_body_limit: Server, upstream: ScriptedUpstream
) -> None:
    ws, before = connect(server_with_a_body_limit), measure_memory(server_with_a_body_limit)
    message = {"type": "response.create", "model": "chat/m", "input": "x" * (3 * MB)}
    upstream.script(never_answer(20))

    def send_all() -> None:
        ws.send(json.dumps(message))
        wait_until(lambda: len(upstream.requests) == 1)
        for _ in range(5):
            ws.send(json.dumps(message))
        while ws.receive(timeout=20) is not None:
            pass

    with pytest.raises(
        (ConnectionClosed, LocalProtocolError, OSError)
    ):  # it is closed while more is sent
        send_all()
    wait_until(lambda: ws.close_message)
    assert "FORWARDER_MAX_BODY)" in ws.close_message
    assert len(upstream.requests) == 1
    assert measure_memory(server_with_a_body_limit) - before < 80 * MB


def test_an_idle_connection_keeps_little(server: Server) -> None:
    ws = connect(server)
    before = measure_memory(server)
    items = [make_message(0) for _ in range(40_000)]
    body = {"type": "response.create", "model": "chat/m", "generate": False, "store": False}
    for _ in range(8):
        ws.send(json.dumps({**body, "input": items}))
        while json.loads(ws.receive(timeout=10))["type"] != "response.completed":
            pass
    time.sleep(0.3)
    assert measure_memory(server) - before < 60 * MB
    ws.close()


def test_idle_connections_together_keep_little(server: Server) -> None:
    before = measure_memory(server)
    body = {"type": "response.create", "model": "chat/m", "generate": False, "store": False}
    connections = [connect(server) for _ in range(40)]
    for ws in connections:
        ws.send(json.dumps({**body, "input": "x" * (4 * MB - 1000)}))
        while json.loads(ws.receive(timeout=10))["type"] != "response.completed":
            pass
    time.sleep(0.3)
    assert measure_memory(server) - before < 2 * BODY_MEMORY + 30 * MB
    assert [status for status, *_ in post_to_each_worker(server, 7 * MB)] == [200, 200]
    for ws in connections:
        ws.close()
