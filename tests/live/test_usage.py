"""The usage of two workers, beside the provider's own counts."""

from __future__ import annotations

import json
import random
import re
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest

from forwarder.storage.db.open import open_database
from forwarder.storage.db.usage import UsageQuery
from forwarder.storage.repositories.usage import UsageRepository
from tests.fake_provider import Answer, ScriptedUpstream, faults
from tests.fake_provider.answers import Call, Json, ModelRequest, Protocol, Usage
from tests.fake_provider.faults import Scripted
from tests.fake_provider.wire import Reply, Stream
from tests.helpers.loopback import Peer, run_server
from tests.live.conftest import KEY, make_settings
from tests.live.server import GUNICORN, Server, list_workers, run_forwarder
from tests.live.talk import PATHS, http, make_body
from tests.live.test_balance import suspend_process

TWO = (*GUNICORN, "-w", "2")
SECOND_KEY = "sk-second-upstream-secret"
CLIENTS = {"alice": "sk-alice", "bob": "sk-bob"}
ADMIN = {"Authorization": "Bearer sk-admin"}
KINDS = (
    "answer", "call", "answer", "stalled", "answer", "search", "answer", "refused", "call",
    "answer", "failed", "answer", "background", "answer", "search", "call", "answer",
    "searchandstall", "answer", "stalled",
)  # fmt: skip
"""What the requests of a mixture are: most are completed, with a call of the client's function or
after a search by the forwarder; the client leaves in the middle of an answer that stalls."""
LEFT = ("stalled", "searchandstall")
ANSWERED = ("answer", "call", "searching", "background")
REQUESTS = 1000
COUNTS = (
    "requests", "errors", "cancelled", "input_tokens", "cached_tokens", "output_tokens",
    "reasoning_tokens",
)  # fmt: skip
ENDPOINTS = {**PATHS, "messages": "/messages"}
SEARCH_TOOLS: dict[str, Json] = {
    "chat": {"web_search_options": {}},
    "responses": {"tools": [{"type": "web_search"}]},
    "messages": {"tools": [{"type": "web_search_20250305", "name": "web_search"}]},
}
FUNCTION_TOOLS: dict[str, Json] = {
    "chat": {"tools": [{"type": "function", "function": {"name": "look", "parameters": {}}}]},
    "responses": {"tools": [{"type": "function", "name": "look", "parameters": {}}]},
    "messages": {"tools": [{"name": "look", "input_schema": {"type": "object"}}]},
}

Counts = Counter[str]


class CountingUpstream(ScriptedUpstream):
    """Answers as a request's prompt (``kind serial client``) asks, and counts by client.

    A search is two rounds of one request. ``arrived`` has an event for each request that stalls.
    """

    def __init__(self) -> None:
        super().__init__(keys={KEY, SECOND_KEY}, strict=False)
        self.counts: dict[str, Counts] = {client: Counter() for client in CLIENTS}
        self.arrived = {serial: threading.Event() for serial in range(REQUESTS)}

    def _make_answer(self, protocol: Protocol, body: Json) -> Reply:
        match = re.search(r"(\w+) (\d+) (\w+)!", json.dumps(body))
        assert match is not None, body
        kind, serial, client = match[1], int(match[2]), match[3]
        usage = Usage(100 + serial, 10 + serial % 7, serial % 50, serial % 5)
        answer = Answer(text="one two three four", usage=usage, pieces=4)
        is_first = not has_tool_output(body)
        if kind in ("search", "searchandstall"):
            kind = "searching" if is_first else {"search": "answer"}.get(kind, "stalled")
        answers: dict[str, Callable[[], Scripted]] = {
            "answer": lambda: answer,
            "background": lambda: answer,
            "call": lambda: Answer(calls=[Call("look", {"at": "cats"})], usage=usage),
            "searching": lambda: Answer(calls=[Call("web_search", {"query": "cats"})], usage=usage),
            "stalled": lambda: faults.stall(answer, after=3 if protocol == "chat" else 6),
            "refused": lambda: faults.refuse_with_status(500),
            "failed": lambda: (
                faults.error_event(answer)
                if protocol == "chat"
                else Answer(text="one two", finish="failed", usage=None)
            ),
        }
        with self._lock:
            self._serial += 1
            request = ModelRequest(protocol, body, self._serial)
            counts = self.counts[client]
            counts["requests"] += is_first
            counts["cancelled"] += kind == "stalled"
            counts["errors"] += kind in ("refused", "failed")
            if kind in ANSWERED:
                counts["input_tokens"] += usage.input
                counts["cached_tokens"] += usage.cached
                counts["output_tokens"] += usage.output
                counts["reasoning_tokens"] += usage.reasoning
        if kind == "stalled":
            self.arrived[serial].set()
        scripted_answer = answers[kind]()
        stream = Stream(scripted_answer) if isinstance(scripted_answer, Answer) else scripted_answer
        return stream.reply(request)


def has_tool_output(body: Json) -> bool:
    """Whether a request of either protocol has the result of a call."""
    entries = body.get("messages") or body.get("input")
    return isinstance(entries, list) and any(
        each.get("role") == "tool" or each.get("type") == "function_call_output" for each in entries
    )


@pytest.fixture
def provider() -> Iterator[CountingUpstream]:
    with CountingUpstream() as upstream:
        yield upstream


@pytest.fixture(scope="module")
def searxng() -> Iterator[str]:
    def answer(peer: Peer) -> None:
        peer.request()
        result = {"title": "Cats", "url": "https://example.org/cats", "content": "Cats sleep."}
        peer.answer(json.dumps({"results": [result]}).encode(), b"Connection: close")

    with run_server(answer) as server:
        yield f"http://127.0.0.1:{server.port}"


def start(
    provider: ScriptedUpstream, directory: Path, database: str, interval: str, searxng: str
) -> Any:
    environment = make_settings(
        provider,
        CHAT_API_KEY=f"{KEY},{SECOND_KEY}",
        FORWARDER_API_KEYS=",".join(f"{name}:{key}" for name, key in CLIENTS.items()),
        FORWARDER_ADMIN_KEYS="sk-admin",
        FORWARDER_DATABASE_URL=database,
        FORWARDER_SECRET_KEY="a secret for the test, long enough",
        FORWARDER_USAGE_INTERVAL=interval,
        FORWARDER_PRICES="*=1/0/0",
        RESPONSES_HOSTED_TOOLS="none",
        FORWARDER_WEB_SEARCH="searxng",
        FORWARDER_WEB_SEARCH_URL=searxng,
    )
    return run_forwarder(environment, directory, TWO)


def make_request(kind: str, serial: int) -> tuple[str, Json, dict[str, str]]:
    """Return path, body and headers of one request of a mixture."""
    chance = random.Random(serial)
    client = chance.choice(list(CLIENTS))
    protocol = "responses" if kind == "background" else chance.choice(list(ENDPOINTS))
    upstream_api = chance.choice(list(PATHS))
    prompt, streamed = f"{kind} {serial} {client}!", chance.random() < 0.7
    body = make_body(
        "responses" if protocol == "responses" else "chat", prompt, f"{upstream_api}/m"
    )
    body |= {"stream": streamed}
    if protocol == "messages":
        body["max_tokens"] = 100
    if kind == "call":
        body |= FUNCTION_TOOLS[protocol]
    if kind in ("search", "searchandstall"):
        body |= SEARCH_TOOLS[protocol]
    if kind == "background":
        body |= {"background": True}
    return ENDPOINTS[protocol], body, {"Authorization": f"Bearer {CLIENTS[client]}"}


def send(server: Server, provider: CountingUpstream, kind: str, serial: int) -> None:
    """Send one request, and leave in the middle if its answer stalls.

    The client of a background response leaves too, but the response goes on.
    """
    path, body, headers = make_request(kind, serial)
    url = f"{server.v1}{path}"
    if body["stream"] and (kind in LEFT or kind == "background"):
        marker, received = b"" if kind == "background" else b'"one t', b""
        with http.stream("POST", url, json=body, headers=headers, timeout=30) as response:
            for piece in response.iter_bytes():
                received += piece
                if marker in received:
                    return
    elif kind in LEFT:
        leave_whole_answer(provider.arrived[serial], url, body, headers)
    else:
        http.post(url, json=body, headers=headers, timeout=30)


def leave_whole_answer(
    request_arrived: threading.Event, url: str, body: Json, headers: dict[str, str]
) -> None:
    """Send a request, and leave when the upstream has it."""
    request = httpx2.Request("POST", url, json=body, headers=headers)
    head = "".join(f"{name}: {value}\r\n" for name, value in request.headers.items())
    line = f"POST {request.url.path} HTTP/1.1\r\n"
    with socket.create_connection(("127.0.0.1", request.url.port or 0)) as connection:
        connection.sendall(f"{line}{head}\r\n".encode() + request.read())
        assert request_arrived.wait(30), body


def send_mixture(
    server: Server, provider: CountingUpstream, kinds: tuple[str, ...], count: int
) -> None:
    with ThreadPoolExecutor(12) as threads:
        futures = [
            threads.submit(send, server, provider, kinds[i % len(kinds)], i) for i in range(count)
        ]
        for future in futures:
            future.result()


def read_report(server: Server, query: str, headers: dict[str, str] = ADMIN) -> Json:
    response = httpx2.get(f"{server.url}/forwarder/usage?{query}", headers=headers, trust_env=False)
    assert response.status_code == 200, response.text
    report: Json = response.json()
    return report


def select_counts(line: Json) -> dict[str, int]:
    return {name: line[name] for name in COUNTS}


def wait_for_requests(server: Server, count: int) -> None:
    """Wait until all workers have added their counts."""
    deadline = time.monotonic() + 30
    while read_report(server, "group=")["total"]["requests"] < count:
        assert time.monotonic() < deadline, read_report(server, "group=")
        time.sleep(0.1)


def find_busy(server: Server) -> list[Json]:
    """Upstreams and endpoints of any worker that still count a request in flight."""
    busy_states = []
    for other in list_workers(server):
        with suspend_process(other):
            response = httpx2.get(f"{server.url}/ready?verbose", headers=ADMIN, trust_env=False)
        for upstream in response.json()["upstreams"].values():
            state = upstream["resilience"]
            busy_states += [
                each for each in (state, *state.get("endpoints", ())) if each["concurrent"]
            ]
    return busy_states


@pytest.mark.slow
@pytest.mark.exhaustive
def test_usage_of_two_workers_equals_the_provider_s(
    provider: CountingUpstream, database: str, searxng: str, tmp_path: Path
) -> None:
    with start(provider, tmp_path, database, "0.1", searxng) as server:
        send_mixture(server, provider, KINDS, REQUESTS)
        wait_for_requests(server, REQUESTS)
        time.sleep(0.5)  # nothing counts twice

        report = read_report(server, "group=client")
        assert report["shared"] is True
        assert {line["client"]: select_counts(line) for line in report["data"]} == {
            client: {name: counts[name] for name in COUNTS}
            for client, counts in provider.counts.items()
        }
        assert report["total"]["cost"] == pytest.approx(
            sum(c["input_tokens"] - c["cached_tokens"] for c in provider.counts.values()) / 1e6
        )
        models = read_report(server, "group=model,upstream")["data"]
        assert {(m["model"], m["upstream"]) for m in models} == {
            ("chat/m", "chat"),
            ("responses/m", "responses"),
        }
        own_report = read_report(
            server, "group=client", {"Authorization": f"Bearer {CLIENTS['bob']}"}
        )
        assert [line["client"] for line in own_report["data"]] == ["bob"]
        assert own_report["total"]["requests"] == provider.counts["bob"]["requests"]
        assert find_busy(server) == []


@pytest.mark.slow
def test_stopping_workers_store_their_counts(
    provider: CountingUpstream, searxng: str, tmp_path: Path
) -> None:
    url = f"sqlite:///{tmp_path}/state.db"
    with start(provider, tmp_path, url, "86400", searxng) as server:
        leaving = threading.Thread(target=send, args=(server, provider, "stalled", 41))
        leaving.start()
        send_mixture(server, provider, ("answer",), 40)
        leaving.join()
    database = open_database(url)
    assert database is not None
    [(_, counts)] = UsageRepository(database).sum_counts(UsageQuery(0, 2**40, ()), 9)
    database.close()

    assert (counts.requests, counts.cancelled, counts.errors) == (41, 1, 0)
    assert counts.input_tokens == sum(c["input_tokens"] for c in provider.counts.values())
