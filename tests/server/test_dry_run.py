"""``POST /forwarder/translate``, the dry run."""

from __future__ import annotations

from typing import Any

import httpx2
import pytest
from flask.testing import FlaskClient

from tests.server.conftest import Serve

Json = dict[str, Any]

CHAT: Json = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
RESPONSES: Json = {"model": "m", "input": "hi"}


def nobody(request: httpx2.Request) -> httpx2.Response:
    raise AssertionError("an upstream was called")


@pytest.mark.parametrize(
    ("path", "body", "client", "protocol"),
    [
        ("/forwarder/translate", CHAT, "chat", "responses"),
        ("/forwarder/translate", RESPONSES, "responses", "chat"),
        ("/forwarder/translate?from=chat", {**CHAT, "input": 1}, "chat", "responses"),
        ("/forwarder/translate", {**CHAT, "model": "chat/m"}, "chat", "chat"),
        ("/forwarder/translate?from=ollama", CHAT, "ollama", "chat"),
        (
            "/forwarder/translate?from=ollama_generate",
            {"model": "responses/m", "prompt": "hi"},
            "ollama_generate",
            "responses",
        ),
    ],
)
def test_a_request_is_shown_and_not_sent(
    path: str, body: Json, client: str, protocol: str, serve: Serve
) -> None:
    got = serve(nobody).post(path, json=body)

    assert got.status_code == 200
    told = got.get_json()
    assert (told["client"], told["upstream"]["protocol"]) == (client, protocol)
    assert told["request"]["model"] == "m"


def test_what_is_dropped_is_in_the_header_too(demo: FlaskClient) -> None:
    got = demo.post("/forwarder/translate", json={**CHAT, "seed": 1})

    assert got.headers["X-Forwarder-Dropped"] == "seed"
    assert got.headers["X-Request-Id"]


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/forwarder/translate", {"model": "m"}, "from"),
        ("/forwarder/translate?from=both", CHAT, "from"),
        ("/forwarder/translate?from=responses", CHAT, "input"),
        ("/forwarder/translate", {**RESPONSES, "prompt": {"id": "p"}}, "prompt"),
        ("/forwarder/translate", [], None),
        ("/forwarder/translate?from=ollama", {"model": "m"}, None),
    ],
)
def test_a_bad_request_is_a_400(path: str, body: Any, param: str, demo: FlaskClient) -> None:
    got = demo.post(path, json=body)

    assert (got.status_code, got.get_json()["error"]["param"]) == (400, param)


def test_strictness_is_honoured(demo: FlaskClient) -> None:
    body = {**CHAT, "seed": 1}

    got = demo.post("/forwarder/translate", json=body, headers={"X-Forwarder-Strict": "true"})

    assert (got.status_code, got.get_json()["error"]["param"]) == (400, "seed")


def test_unknown_style_is_refused(demo: FlaskClient) -> None:
    got = demo.post("/forwarder/translate", json=CHAT, headers={"X-Forwarder-Reasoning": "loud"})

    assert (got.status_code, got.get_json()["error"]["param"]) == (400, "X-Forwarder-Reasoning")


def test_dry_run_needs_a_key(serve: Serve) -> None:
    client = serve(nobody, FORWARDER_API_KEYS="k")

    assert client.post("/forwarder/translate", json=CHAT).status_code == 401
    opened = client.post("/forwarder/translate", json=CHAT, headers={"Authorization": "Bearer k"})
    assert opened.status_code == 200


def test_a_reference_is_resolved_as_in_a_real_request(demo: FlaskClient) -> None:
    answered = demo.post("/v1/responses", json={"model": "demo", "input": "hi"}).get_json()
    message = answered["output"][-1]
    history = [{"role": "user", "content": "hi"}, {"type": "item_reference", "id": message["id"]}]

    told = demo.post("/forwarder/translate", json={"model": "demo", "input": history}).get_json()

    assert told["request"]["messages"][-1]["role"] == "assistant"
