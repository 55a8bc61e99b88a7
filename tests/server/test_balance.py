"""Several keys and hosts of an upstream, and groups of models, behind the whole application."""

from __future__ import annotations

import io
import itertools
import json
import random
from collections import Counter
from typing import Any

import httpx2
import pytest
from flask.testing import FlaskClient

from tests.helpers.check_cases import check_each
from tests.server.conftest import Serve, make_stream_response

Json = dict[str, Any]

KEYS = ("sk-first-key-1", "sk-second-key-2")
HOSTS = ("a.test", "b.test")
CHAT = {"model": "chat/m", "messages": [{"role": "user", "content": "hi"}]}
RESPONSES = {"model": "responses/m", "input": "hi"}
SETTINGS = {
    f"{name}_{suffix}": text
    for name in ("CHAT", "RESPONSES")
    for suffix, text in {
        "BASE_URL": "http://a.test/v1,http://b.test/v1",
        "API_KEY": ",".join(KEYS),
        "PROVIDER": "openai",
    }.items()
}


@pytest.fixture(autouse=True)
def _seed_random_numbers() -> None:
    """Equally busy endpoints are chosen at random."""
    random.seed(1)


class Provider:
    """Two hosts and two accounts; an account finds only data that was stored with its key."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str, str]] = []
        """Host, number of the key and path of each request."""
        self.bodies: list[Json] = []
        self.answers: dict[tuple[str, str], httpx2.Response] = {}
        """Host and number of the key -> what all their requests get instead."""
        self.down: set[str] = set()
        self.stored: dict[str, str] = {}
        """Id of a response or file -> number of the key."""
        self._numbers = itertools.count(1)

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        content = request.read()
        host = request.url.host
        if host in self.down:
            raise httpx2.ConnectError("Connection refused")
        key = str(1 + KEYS.index(request.headers["authorization"].removeprefix("Bearer ")))
        path = request.url.path.removeprefix("/v1")
        self.calls.append((host, key, path))
        if (host, key) in self.answers:
            answer = self.answers[host, key]
            return httpx2.Response(
                answer.status_code, headers=answer.headers, content=answer.content
            )
        if path.startswith("/files"):
            return self.answer_file(request.method, path, key)
        if path == "/models":
            return httpx2.Response(200, json={"data": [{"id": "m", "object": "model"}]})
        body = json.loads(content)
        self.bodies.append(body)
        return self.answer(path, key, body)

    def answer_file(self, method: str, path: str, key: str) -> httpx2.Response:
        name = path.split("/")[2] if path.count("/") > 1 else "file-1234567890123456789"
        if method == "POST":
            self.stored[name] = key
        if self.stored.get(name) != key:
            return httpx2.Response(404, json={"error": {"message": "No such file."}})
        return httpx2.Response(200, json={"id": name, "object": "file"})

    def answer(self, path: str, key: str, body: Json) -> httpx2.Response:
        if path == "/chat/completions":
            choice = {
                "index": 0,
                "message": {"role": "assistant", "content": "Hi"},
                "delta": {"content": "Hi"},
                "finish_reason": "stop",
            }
            answer = {"id": "chatcmpl-1", "object": "chat.completion", "choices": [choice]}
            return (
                make_stream_response(answer)
                if body.get("stream")
                else httpx2.Response(200, json=answer)
            )
        previous = body.get("previous_response_id")
        if previous is not None and self.stored.get(previous) != key:
            return httpx2.Response(404, json={"error": {"message": f"'{previous}' not found."}})
        name = f"resp_{next(self._numbers):040d}"
        self.stored[name] = key
        text = {"type": "output_text", "text": "Hi", "annotations": []}
        message = {"type": "message", "id": "msg_1", "role": "assistant", "content": [text]}
        answer = {
            "id": name, "object": "response", "status": "completed", "model": "m",
            "created_at": 1, "output": [message], "usage": None,
        }  # fmt: skip
        return httpx2.Response(200, json=answer)

    def count(self, path: str) -> Counter[tuple[str, str]]:
        return Counter((host, key) for host, key, called_path in self.calls if called_path == path)


def make_refusal(
    status: int, seconds: str | None = None, code: str | None = None
) -> httpx2.Response:
    headers = {} if seconds is None else {"retry-after": seconds}
    error = {"message": f"Refused with {status}.", "code": code}
    return httpx2.Response(status, headers=headers, json={"error": error})


def send(client: FlaskClient, body: Json, **more: Any) -> Any:
    path = "/v1/chat/completions" if "messages" in body else "/v1/responses"
    return client.post(path, json={**body, **more})


def test_requests_are_shared_between_all_keys_and_hosts(serve: Serve) -> None:
    provider = Provider()
    client = serve(provider, **SETTINGS)

    for _ in range(60):
        assert send(client, CHAT).status_code == 200

    counted = provider.count("/chat/completions")
    assert set(counted) == set(itertools.product(HOSTS, "12"))
    assert min(counted.values()) >= 4


@check_each("field", ["prompt_cache_key", "user"])
def test_requests_with_one_cache_key_reach_one_endpoint(serve: Serve, field: str) -> None:
    provider = Provider()
    client = serve(provider, **SETTINGS)

    for _ in range(5):
        assert send(client, CHAT, **{field: "session 1"}).status_code == 200

    assert list(provider.count("/chat/completions").values()) == [5]


@check_each(
    ("status", "seconds", "code"),
    [(429, "30", None), (429, None, None), (429, None, "insufficient_quota"), (402, None, None)],
)
def test_limited_key_cools_down_and_the_request_goes_on_with_the_other(
    serve: Serve, status: int, seconds: str | None, code: str | None
) -> None:
    provider = Provider()
    client = serve(provider, **{**SETTINGS, "CHAT_BASE_URL": "http://a.test/v1"})
    provider.answers["a.test", "1"] = make_refusal(status, seconds, code)

    for _ in range(20):
        assert send(client, CHAT).status_code == 200

    assert provider.count("/chat/completions") == {("a.test", "1"): 1, ("a.test", "2"): 20}
    [first, second] = client.get("/ready?verbose").get_json()["upstreams"]["chat"]["resilience"][
        "endpoints"
    ]
    expected = {"30": 30, None: 15}[seconds] if status == 429 and not code else 300
    [cooldown] = first["cooldowns"]
    assert cooldown["status"] == status
    assert expected - 3 <= cooldown["seconds"] <= expected
    assert "cooldowns" not in second


def test_refused_key_is_reported_and_not_used_again(
    serve: Serve, capsys: pytest.CaptureFixture[str]
) -> None:
    provider = Provider()
    client = serve(provider, **{**SETTINGS, "CHAT_BASE_URL": "http://a.test/v1"})
    provider.answers["a.test", "2"] = make_refusal(401, code="invalid_api_key")

    for _ in range(20):
        assert send(client, CHAT).status_code == 200

    assert provider.count("/chat/completions") == {("a.test", "2"): 1, ("a.test", "1"): 20}
    assert "key 2 of CHAT_API_KEY" in capsys.readouterr().err
    state = client.get("/ready?verbose").get_json()["upstreams"]["chat"]
    assert state["key_accepted"] is False
    assert "key 2 of CHAT_API_KEY" in state["error"]
    assert not any(key in client.get("/ready?verbose").get_data(as_text=True) for key in KEYS)


@pytest.mark.parametrize("stream", [False, True])
def test_upstream_without_available_keys_answers_with_its_refusal(
    serve: Serve, stream: bool
) -> None:
    provider = Provider()
    client = serve(provider, **{**SETTINGS, "CHAT_BASE_URL": "http://a.test/v1"})
    provider.answers = {
        ("a.test", "1"): make_refusal(429, "50", "rate_limit_exceeded"),
        ("a.test", "2"): make_refusal(429, "20", "rate_limit_exceeded"),
    }

    answers = [send(client, CHAT, stream=stream) for _ in range(3)]

    for answer in answers:
        assert answer.status_code == 429
        assert answer.get_json()["error"]["message"] == "Refused with 429."
        assert answer.get_json()["error"]["code"] == "rate_limit_exceeded"
        assert 18 <= int(answer.headers["retry-after"]) <= 20
    assert sum(provider.count("/chat/completions").values()) == 2


def test_host_that_is_down_is_replaced_by_the_other(serve: Serve) -> None:
    provider = Provider()
    provider.down = {"a.test"}
    client = serve(provider, **SETTINGS, CHAT_BREAKER_FAILURES="2")

    for _ in range(20):
        assert send(client, CHAT).status_code == 200

    state = client.get("/ready?verbose").get_json()["upstreams"]["chat"]
    assert state["reachable"] is True
    assert [(each["host"], each["breaker"]) for each in state["resilience"]["endpoints"]] == [
        (1, "open"), (1, "open"), (2, "closed"), (2, "closed"),
    ]  # fmt: skip
    assert state["resilience"]["breaker"] == "closed"


def test_log_and_metrics_name_the_endpoint_by_its_positions(
    serve: Serve, capsys: pytest.CaptureFixture[str]
) -> None:
    provider = Provider()
    client = serve(provider, **{**SETTINGS, "CHAT_BASE_URL": "http://a.test/v1"})
    provider.answers["a.test", "1"] = make_refusal(429, "30")

    for _ in range(20):
        send(client, CHAT)

    logged = capsys.readouterr().err
    lines = [line for line in map(json.loads, logged.splitlines()) if "status" in line]
    assert {line["endpoint"] for line in lines} == {"1.2"}
    assert [line["failed_endpoints"] for line in lines if "failed_endpoints" in line] == [["1.1"]]
    metrics = client.get("/metrics").get_data(as_text=True)
    name = 'forwarder_endpoint_answers_total{host="1",key="%s",outcome="%s",upstream="chat"} %s.0'
    assert name % (1, "failed", 1) in metrics
    assert name % (2, "answered", 20) in metrics
    assert not any(key in metrics + logged for key in KEYS)


def test_log_of_an_upstream_with_one_endpoint_names_none(
    serve: Serve, capsys: pytest.CaptureFixture[str]
) -> None:
    client = serve(
        Provider(), CHAT_BASE_URL="http://a.test/v1", CHAT_API_KEY=KEYS[0], CHAT_PROVIDER="openai"
    )

    assert send(client, CHAT).status_code == 200

    assert '"endpoint"' not in capsys.readouterr().err
    assert "endpoint_answers_total{" not in client.get("/metrics").get_data(as_text=True)


# -- data that an upstream stores -----------------------------------------------------------------


def test_response_is_continued_at_the_key_that_stores_it(serve: Serve) -> None:
    provider = Provider()
    client = serve(provider, **SETTINGS)
    for _ in range(8):
        previous = None
        for _ in range(3):
            answer = send(client, RESPONSES, previous_response_id=previous)
            assert answer.status_code == 200, answer.get_data()
            previous = answer.get_json()["id"]

    continued = [body for body in provider.bodies if body.get("previous_response_id")]
    assert len(continued) == 16
    assert {key for _, key in provider.count("/responses")} == {"1", "2"}


def test_complete_history_is_sent_to_another_key_during_a_cooldown(serve: Serve) -> None:
    provider = Provider()
    client = serve(provider, **{**SETTINGS, "RESPONSES_BASE_URL": "http://a.test/v1"})
    first = send(client, RESPONSES).get_json()["id"]
    storing_key = provider.stored[first]
    provider.answers["a.test", storing_key] = make_refusal(429, "30")

    answer = send(client, RESPONSES, previous_response_id=first)

    assert answer.status_code == 200
    assert "previous_response_id" not in provider.bodies[-1]
    assert provider.bodies[-1]["input"][0]["content"] == "hi"
    assert len(provider.bodies[-1]["input"]) == 3


def test_request_with_a_file_goes_where_the_file_is(serve: Serve) -> None:
    provider = Provider()
    client = serve(provider, **SETTINGS)
    form = {"purpose": "user_data", "file": (io.BytesIO(b"x"), "a.txt")}
    name = client.post("/v1/files", data=form).get_json()["id"]
    content = [{"role": "user", "content": [{"type": "input_file", "file_id": name}]}]

    for _ in range(8):
        assert send(client, {"model": "responses/m", "input": content}).status_code == 200

    assert provider.stored[name] == "1"
    assert provider.count("/responses") == {("a.test", "1"): 8}


def test_chat_request_with_a_file_goes_where_the_file_is(serve: Serve) -> None:
    provider = Provider()
    client = serve(provider, **SETTINGS)
    form = {"purpose": "user_data", "file": (io.BytesIO(b"x"), "a.txt")}
    name = client.post("/v1/files", data=form).get_json()["id"]
    messages = [{"role": "user", "content": [{"type": "file", "file": {"file_id": name}}]}]

    for _ in range(8):
        assert send(client, {"model": "responses/m", "messages": messages}).status_code == 200

    assert provider.count("/responses") == {("a.test", "1"): 8}


def test_conversations_of_messages_clients_keep_their_endpoint(serve: Serve) -> None:
    provider = Provider()
    client = serve(provider, **SETTINGS)
    body = {"model": "chat/m", "max_tokens": 9, "messages": CHAT["messages"]}

    for _ in range(8):
        request_body = {**body, "metadata": {"user_id": "user_1_session_1"}}
        assert client.post("/v1/messages", json=request_body).status_code == 200

    assert list(provider.count("/chat/completions").values()) == [8]


def test_file_of_a_tool_at_another_key_is_found(serve: Serve) -> None:
    provider = Provider()
    client = serve(provider, **SETTINGS)
    provider.stored["cfile_12345678901234567890"] = "2"

    assert client.get("/v1/files/cfile_12345678901234567890").status_code == 200
    assert client.get("/v1/files/cfile_unknown_234567890").status_code == 404


# -- groups ---------------------------------------------------------------------------------------


def test_group_is_listed_and_serves_both_protocols(serve: Serve) -> None:
    provider = Provider()
    client = serve(provider, **SETTINGS, FORWARDER_GROUPS="fast=chat/one*2,responses/two")

    listed = client.get("/v1/models").get_json()["data"]
    assert {"id": "fast", "object": "model", "created": 0, "owned_by": "group"} in listed
    assert client.get("/v1/models/fast").get_json()["owned_by"] == "group"
    for _ in range(20):
        assert send(client, CHAT, model="fast").status_code == 200
        assert send(client, RESPONSES, model="fast").status_code == 200

    assert {body["model"] for body in provider.bodies} == {"one", "two"}
    assert len(provider.bodies) == 40


def test_next_member_of_a_group_serves_when_one_is_limited(serve: Serve) -> None:
    provider = Provider()
    client = serve(
        provider,
        CHAT_BASE_URL="http://a.test/v1",
        CHAT_API_KEY=KEYS[0],
        RESPONSES_BASE_URL="http://b.test/v1",
        RESPONSES_API_KEY=KEYS[1],
        FORWARDER_GROUPS="fast=chat/one>responses/two",
    )
    provider.answers["a.test", "1"] = make_refusal(429, "30")

    for _ in range(3):
        assert send(client, CHAT, model="fast").status_code == 200

    assert provider.count("/chat/completions") == {("a.test", "1"): 1}
    assert provider.count("/responses") == {("b.test", "2"): 3}
    assert send(client, CHAT).status_code == 429
