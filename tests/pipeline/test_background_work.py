"""Background work that another worker takes over, and its cancellation at an upstream."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import httpx2
import pytest
import sqlalchemy as sa

from forwarder.config.settings import Settings
from forwarder.context.request_context import RequestContext
from forwarder.core.body_memory import BodyReservation
from forwarder.core.translation_context import LossReport
from forwarder.pipeline.background_work import BackgroundWork
from forwarder.pipeline.gateway import Gateway
from forwarder.pipeline.upstream_calls import UpstreamCalls
from forwarder.services import Services
from forwarder.storage.background.stored_request import StoredRequest
from forwarder.storage.db.background_leases import ResponseOrigin
from forwarder.upstream.resilience.cooldowns import Cooldown

Json = dict[str, Any]

CHUNKS = [
    {"choices": [{"index": 0, "delta": {"content": "Hi"}, "finish_reason": "stop"}]},
    {"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}},
]


def make_services(**environment: str) -> Services:
    url = "http://up.test/v1"
    return Services.build(
        Settings.from_env({"CHAT_BASE_URL": url, "RESPONSES_BASE_URL": url, **environment})
    )


class HangingUpstream:
    """An upstream that hangs at the first request, and answers the others."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.requests: list[httpx2.Request] = []
        self.proceed = threading.Event()
        transport = httpx2.MockTransport(self._answer)
        monkeypatch.setattr(
            "forwarder.services.select_transport", lambda settings, heartbeat: transport
        )
        monkeypatch.setattr("forwarder.storage.background.takeover.TAKEOVER_POLL_SECONDS", 0.02)
        monkeypatch.setattr("forwarder.storage.background.progress.WRITE_SECONDS", 0.02)
        monkeypatch.setattr("forwarder.storage.db.lease_expiry.MIN_STABLE_SECONDS", 0.02)
        monkeypatch.setattr("forwarder.storage.db.lease_expiry.PROBE_SECONDS", 0.0)

    def _answer(self, request: httpx2.Request) -> httpx2.Response:
        request.read()
        self.requests.append(request)
        if len(self.requests) == 1:
            self.proceed.wait(10)
        text = "".join(f"data: {json.dumps(event)}\n\n" for event in CHUNKS)
        return httpx2.Response(200, text=text + "data: [DONE]\n\n")


def start_abandoned_work(
    tmp_path: Path, upstream: HangingUpstream, text: str = "hi", **environment: str
) -> tuple[str, Services]:
    """Return a background response of a worker that renews no lease, and another worker."""
    url = f"sqlite:///{tmp_path}/state.db"
    variables = {"FORWARDER_DATABASE_URL": url, "CHAT_API_KEY": "passthrough", **environment}
    first = make_services(**{**variables, "FORWARDER_SECRET_KEY": "one"})
    exchange = RequestContext("r", "responses", LossReport(), client_key="k")
    work = RequestContext(
        "w", "background", LossReport(), client_key="k", client_headers={"X-Title": "Mine"},
        get_base_url=lambda: "http://here", account_id="payer",
    )  # fmt: skip
    body = {"model": "chat/m", "input": text, "background": True}
    name = Gateway(first).start_background(body, None, exchange, work)["id"]
    deadline = time.monotonic() + 10
    while not upstream.requests:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    first.running.announce()  # it resumes no work
    first.require_store().background._jobs.clear()
    time.sleep(0.15)  # wait for its last write
    database = first.require_store()._database
    database.write(lambda c: c.execute(sa.text("UPDATE responses SET lease = lease - 60")))
    return name, make_services(**variables)


def wait_for_end(services: Services, name: str) -> Json:
    deadline = time.monotonic() + 10
    store = services.require_store()
    owner = store._database.read(lambda c: c.scalar(sa.text("SELECT owner FROM responses")))
    while (stored := store.background.read_response(owner, name)).is_running:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return stored.body


def test_resumed_work_sends_the_request_of_its_client(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    upstream = HangingUpstream(monkeypatch)
    name, other = start_abandoned_work(
        tmp_path,
        upstream,
        FORWARDER_SECRET_KEY="two,one",
        FORWARDER_CAPTURE="memory",
        FORWARDER_API_KEYS="alice:k",
    )
    Gateway(other).resume_background_work()
    body = wait_for_end(other, name)
    upstream.proceed.set()

    assert (body["status"], body["metadata"]) == ("completed", {"forwarder.attempt": "2"})
    first, second = upstream.requests
    assert first.content == second.content
    assert (second.headers["authorization"], second.headers["x-title"]) == ("Bearer k", "Mine")
    assert other.capture is not None
    deadline = time.monotonic() + 10
    while not (records := other.capture.store.list_newest(9)):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert [record["client"] for record in records] == ["alice"]


def test_work_with_an_acting_tool_for_all_requests_is_not_repeated(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    upstream = HangingUpstream(monkeypatch)
    servers = tmp_path / "mcp.json"
    servers.write_text('{"mcpServers": {"box": {"url": "http://127.0.0.1:9/mcp"}}}')
    tools = {"FORWARDER_MCP_SERVERS": str(servers), "FORWARDER_TOOLS_FOR_ALL": "mcp:box"}
    name, other = start_abandoned_work(tmp_path, upstream, FORWARDER_SECRET_KEY="two,one", **tools)
    Gateway(other).resume_background_work()
    body = wait_for_end(other, name)
    upstream.proceed.set()

    assert body["status"] == "failed"
    assert len(upstream.requests) == 1


def test_work_is_resumed_only_if_there_is_memory_for_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    upstream = HangingUpstream(monkeypatch)
    name, other = start_abandoned_work(
        tmp_path, upstream, "x" * 200_000, FORWARDER_SECRET_KEY="one"
    )
    memory = other.body_memory
    other_bodies = BodyReservation(memory)
    other_bodies.hold(memory.max_bytes // 2 - 100_000)
    Gateway(other).resume_background_work()
    time.sleep(0.2)
    assert len(upstream.requests) == 1
    other_bodies.close()
    body = wait_for_end(other, name)
    upstream.proceed.set()

    assert body["status"] == "completed"
    assert len(upstream.requests) == 2
    deadline = time.monotonic() + 10
    while memory.used:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_work_is_resumed_only_by_workers_that_can_decrypt_its_request(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    upstream = HangingUpstream(monkeypatch)
    name, other = start_abandoned_work(tmp_path, upstream, FORWARDER_SECRET_KEY="another")
    url = f"sqlite:///{tmp_path}/state.db"
    same = make_services(
        FORWARDER_DATABASE_URL=url, CHAT_API_KEY="passthrough", FORWARDER_SECRET_KEY="one"
    )
    Gateway(other).resume_background_work()
    time.sleep(0.2)
    database = other.require_store()._database
    status = database.read(lambda c: c.scalar(sa.text("SELECT status FROM responses")))
    assert status in ("queued", "in_progress")
    Gateway(same).resume_background_work()
    body = wait_for_end(same, name)
    upstream.proceed.set()

    assert (body["status"], body["metadata"]) == ("completed", {"forwarder.attempt": "2"})


def test_work_that_no_worker_can_decrypt_fails_with_the_reason(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("forwarder.storage.db.background_leases.MAX_UNREADABLE_SECONDS", 0.3)
    upstream = HangingUpstream(monkeypatch)
    name, other = start_abandoned_work(tmp_path, upstream, FORWARDER_SECRET_KEY="another")
    Gateway(other).resume_background_work()
    body = wait_for_end(other, name)
    upstream.proceed.set()

    assert body["status"] == "failed"
    assert "FORWARDER_SECRET_KEY" in body["error"]["message"]
    assert len(upstream.requests) == 1


def test_work_is_cancelled_at_its_upstream_with_the_key_of_its_client(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    requests: list[httpx2.Request] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        requests.append(request)
        if len(requests) == 1:
            return httpx2.Response(200, json={})
        return httpx2.Response(404, json={"error": {"message": "unknown in 'my secret plan'"}})

    transport = httpx2.MockTransport(answer)
    monkeypatch.setattr(
        "forwarder.services.select_transport", lambda settings, heartbeat: transport
    )
    services = make_services(RESPONSES_API_KEY="passthrough")
    work = BackgroundWork(services, UpstreamCalls(services))
    stored = StoredRequest({}, None, "k", None, "", False, None, {"X-Title": "Mine"})
    sealed = services.cipher.encrypt(stored.to_json())
    for request in (sealed, None):  # the upstream's refusal is only logged
        work._cancel_work(ResponseOrigin("responses", "resp_1"), request)
    work._cancel_work(ResponseOrigin("gone", "resp_1"), sealed)

    assert [request.url.path for request in requests] == ["/v1/responses/resp_1/cancel"] * 2
    first = requests[0].headers
    assert (first["authorization"], first["x-title"]) == ("Bearer k", "Mine")
    (failed,) = (vars(each)["msg"] for each in caplog.records if each.name == "forwarder.gateway")
    assert failed == {
        "event": "upstream_cancel_failed",
        "id": failed["id"],
        "upstream": "responses",
        "response": "resp_1",
        "reason": "404",
    }


class TwoAccounts:
    """A Responses upstream with two keys that stores responses separately for each."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **environment: str) -> None:
        self.requests: list[httpx2.Request] = []
        transport = httpx2.MockTransport(self._answer)
        monkeypatch.setattr(
            "forwarder.services.select_transport", lambda settings, heartbeat: transport
        )
        self.services = make_services(
            RESPONSES_API_KEY="sk-key-1,sk-key-2", RESPONSES_PROVIDER="openai", **environment
        )

    def _answer(self, request: httpx2.Request) -> httpx2.Response:
        request.read()
        self.requests.append(request)
        response: Json = {
            "id": "resp_1", "object": "response", "background": True, "status": "in_progress",
            "output": [],
        }  # fmt: skip
        events: list[Json] = [
            {"type": "response.created", "response": response, "sequence_number": 0},
            {
                "type": "response.completed",
                "response": {**response, "status": "completed"},
                "sequence_number": 1,
            },
        ]
        text = "".join(f"data: {json.dumps(event)}\n\n" for event in events)
        return httpx2.Response(200, text=text)

    def origin(self, number: int) -> str:
        return self.services.settings.upstreams[1].endpoints[number - 1].origin

    def list_keys(self) -> list[str]:
        return [request.headers["authorization"][-1] for request in self.requests]


def new_context() -> RequestContext:
    return RequestContext("r", "responses", LossReport())


def test_work_is_followed_and_cancelled_with_the_key_that_started_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    upstream = TwoAccounts(monkeypatch, FORWARDER_DATABASE_URL="none")
    calls = UpstreamCalls(upstream.services)
    work = BackgroundWork(upstream.services, calls)
    state = upstream.services.resilience.list_endpoint_states()[1]
    state.cooldowns.add(Cooldown("", float("inf"), 429, {}))  # only this upstream has its responses

    for number in (1, 2):
        origin = ResponseOrigin(upstream.origin(number), "resp_1")
        request = {"model": "responses/m", "input": "hi", "stream": True}
        list(calls.follow_response(request, None, new_context(), origin))
        work._cancel_work(origin, None)

    assert upstream.list_keys() == ["1", "1", "2", "2"]
    assert [request.url.path for request in upstream.requests] == [
        "/v1/responses/resp_1",
        "/v1/responses/resp_1/cancel",
    ] * 2


def test_key_that_started_the_work_is_stored_with_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    upstream = TwoAccounts(monkeypatch, FORWARDER_DATABASE_URL=f"sqlite:///{tmp_path}/state.db")
    services = upstream.services
    body = {"model": "responses/m", "input": "hi", "background": True}
    work = RequestContext("w", "background", LossReport())

    name = Gateway(services).start_background(body, None, new_context(), work)["id"]
    wait_for_end(services, name)

    database = services.require_store()._database
    stored = database.read(lambda c: c.scalar(sa.text("SELECT upstream FROM responses")))
    assert stored == upstream.origin(int(upstream.list_keys()[0]))
