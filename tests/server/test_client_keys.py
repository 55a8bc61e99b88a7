"""Client keys over HTTP: the API of administrators, and the permissions of clients."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from flask.testing import FlaskClient

from forwarder.app import create_app
from forwarder.config.settings import Settings
from forwarder.core.errors import QuotaExceeded
from forwarder.openapi.document import TAGS
from forwarder.openapi.errors import MESSAGES, OLLAMA, find_envelope
from forwarder.openapi.operation import Access, Operation
from forwarder.protocols.chat_responses_mappings import TERMINAL_EVENTS
from forwarder.server.extension import get_extension
from tests.helpers.check_cases import check_each
from tests.server.conftest import Serve
from tests.server.test_websocket import HANDSHAKE
from tests.server.test_websocket_turns import ScriptedWebSocket, new_session

ADMIN = {"Authorization": "Bearer sk-admin"}
CHAT = {"model": "demo", "messages": [{"role": "user", "content": "Hi"}]}


@pytest.fixture
def client(tmp_path: Path) -> FlaskClient:
    return make_client(tmp_path)


def make_client(tmp_path: Path, **environment: str) -> FlaskClient:
    settings = {
        "FORWARDER_ADMIN_KEYS": "sk-admin",
        "FORWARDER_DATABASE_URL": f"sqlite:///{tmp_path}/state.db",
        **environment,
    }
    return create_app(Settings.from_env(settings)).test_client()


def create(client: FlaskClient, **body: Any) -> Any:
    answer = client.post("/forwarder/keys", json={"name": "alice", **body}, headers=ADMIN)
    assert answer.status_code == 200, answer.text
    assert answer.headers["Cache-Control"] == "no-store"
    return answer.json


def make_key_header(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def send_chat(client: FlaskClient, key: str, **body: Any) -> Any:
    return client.post("/v1/chat/completions", json={**CHAT, **body}, headers=make_key_header(key))


def test_key_is_managed_by_administrators(client: FlaskClient) -> None:
    created = create(client, models=["demo"], requests_per_minute=5, budget="5 usd/month")
    assert created["required"] is True
    assert send_chat(client, created["key"]).status_code == 200

    listed = client.get("/forwarder/keys", headers=ADMIN).json
    assert listed["required"] is True
    assert [key["name"] for key in listed["data"]] == ["alice"]
    changed = client.patch("/forwarder/keys/alice", json={"models": None}, headers=ADMIN).json
    assert (changed["models"], changed["requests_per_minute"]) == ([], 5)
    details = client.get(f"/forwarder/keys/{created['id']}", headers=ADMIN).json
    assert (details["budget"], details["budget_used"]) == ("5 usd/month", 0)
    assert "key" not in details
    assert created["key"] not in str(listed) + str(details)

    rotated = client.post("/forwarder/keys/alice/rotate", json={"grace": "1h"}, headers=ADMIN).json
    assert rotated["key"] != created["key"]
    assert [send_chat(client, key).status_code for key in (created["key"], rotated["key"])] == [
        200,
        200,
    ]
    rotation = client.post("/forwarder/keys/alice/rotate", headers=ADMIN).json
    assert [send_chat(client, key).status_code for key in (created["key"], rotation["key"])] == [
        401,
        200,
    ]

    assert client.delete("/forwarder/keys/alice", headers=ADMIN).json["state"] == "revoked"
    refused = send_chat(client, rotation["key"])
    assert (refused.status_code, refused.json["error"]["code"]) == (401, "invalid_api_key")
    assert "revoked" in refused.json["error"]["message"]
    assert send_chat(client, "").status_code == 401


@check_each(
    ("method", "path", "body", "status", "param"),
    [
        ("POST", "/forwarder/keys", {}, 400, "name"),
        ("POST", "/forwarder/keys", {"name": "alice"}, 400, "name"),
        ("POST", "/forwarder/keys", {"name": "bob", "budget": 5}, 400, "budget"),
        ("POST", "/forwarder/keys", {"name": "bob", "limit": 5}, 400, "limit"),
        ("PATCH", "/forwarder/keys/alice", {"name": "bob"}, 400, "name"),
        ("PATCH", "/forwarder/keys/nobody", {}, 404, "name"),
        ("GET", "/forwarder/keys/nobody", None, 404, "name"),
        ("DELETE", "/forwarder/keys/nobody", None, 404, "name"),
        ("POST", "/forwarder/keys/alice/rotate", {"grace": "soon"}, 400, "grace"),
        ("POST", "/forwarder/keys/alice/rotate", {"wait": "1h"}, 400, "wait"),
    ],
)
def test_wrong_requests_are_refused(
    method: str,
    path: str,
    body: Any,
    status: int,
    param: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    client = make_client(tmp_path_factory.mktemp("keys"))
    create(client)
    answer = client.open(path, method=method, json=body, headers=ADMIN)
    assert (answer.status_code, answer.json["error"]["param"]) == (status, param)


def test_clients_do_not_manage_keys(client: FlaskClient) -> None:
    created = create(client)
    for method in ("GET", "POST"):
        answers = [
            client.open("/forwarder/keys", method=method, json={"name": "b"}, headers=headers)
            for headers in (make_key_header(created["key"]), make_key_header("sk-other"), {})
        ]
        assert [answer.status_code for answer in answers] == [403, 401, 401]


def test_only_allowed_models_exist_for_a_client(client: FlaskClient) -> None:
    key = create(client, models="demo,chat/*")["key"]
    ids = [m["id"] for m in client.get("/v1/models", headers=make_key_header(key)).json["data"]]
    assert ids == ["chat/demo", "demo"]
    assert [send_chat(client, key, model=m).status_code for m in ("demo", "demo:latest")] == [
        200,
        200,
    ]
    refused = send_chat(client, key, model="responses/demo")
    assert (refused.status_code, refused.json["error"]["code"]) == (404, "model_not_found")
    get = client.get
    assert get("/v1/models/responses/demo", headers=make_key_header(key)).status_code == 404
    assert get("/v1/models/demo", headers=make_key_header(key)).status_code == 200
    codex = get("/v1/models?client_version=1", headers=make_key_header(key)).json["models"]
    assert {entry["slug"] for entry in codex} <= {"chat/demo", "demo"}

    tags = get("/api/tags", headers=make_key_header(key)).json["models"]
    assert {tag["name"] for tag in tags} == {"demo:latest", "chat/demo:latest"}
    response = client.post(
        "/api/show", json={"model": "responses/demo"}, headers=make_key_header(key)
    )
    assert response.status_code == 404
    chat = {**CHAT, "model": "responses/demo", "stream": False}
    assert client.post("/api/chat", json=chat, headers=make_key_header(key)).status_code == 404
    background = {"model": "responses/demo", "input": "Hi", "background": True}
    answer = client.post("/v1/responses", json=background, headers=make_key_header(key))
    assert answer.status_code == 404


def test_limits_of_a_key_replace_those_of_the_settings(tmp_path: Path) -> None:
    client = make_client(tmp_path, FORWARDER_RATE_LIMIT_REQUESTS="1/day")
    alice = create(client, requests_per_minute=2)["key"]
    bob = create(client, name="bob")["key"]
    answers = [send_chat(client, alice) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert answers[0].headers["x-ratelimit-limit-requests"] == "2"
    assert answers[2].json["error"]["code"] == "rate_limit_exceeded"
    assert int(answers[2].headers["Retry-After"]) <= 60
    assert [send_chat(client, bob).status_code for _ in range(2)] == [200, 429]


def test_tokens_per_minute_are_charged_after_the_answer(client: FlaskClient) -> None:
    key = create(client, tokens_per_minute=5)["key"]
    answers = [send_chat(client, key) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [200, 429]
    assert answers[1].json["error"]["type"] == "tokens"


def test_exhausted_budget_is_an_insufficient_quota(client: FlaskClient) -> None:
    key = create(client, budget="5 tokens/day")["key"]
    assert send_chat(client, key).status_code == 200
    refused = send_chat(client, key)
    assert (refused.status_code, refused.headers["X-Should-Retry"]) == (429, "false")
    error = refused.json["error"]
    assert (error["code"], error["type"]) == ("insufficient_quota", "insufficient_quota")
    body = {"model": "demo", "input": "Hi", "background": True}
    background = client.post("/v1/responses", json=body, headers=make_key_header(key))
    assert background.json["error"]["code"] == "insufficient_quota"
    ollama = client.post("/api/chat", json={**CHAT, "stream": False}, headers=make_key_header(key))
    assert (ollama.status_code, "quota" in ollama.json["error"]) == (429, True)
    used = client.get("/forwarder/keys/alice", headers=ADMIN).json["budget_used"]
    assert used >= 5


def test_expired_key_has_its_own_error(client: FlaskClient) -> None:
    created = create(client, expires="1h")
    keys = get_extension(client.application).services.client_keys
    keys._now = lambda: 10.0**10  # type: ignore[attr-defined]
    refused = send_chat(client, created["key"])
    assert (refused.status_code, refused.json["error"]["code"]) == (401, "invalid_api_key")
    assert "expired" in refused.json["error"]["message"]


UPGRADE = "GET", "/v1/responses"
"""The route of WebSockets."""


def list_operations(*accesses: Access) -> Iterator[tuple[str, str, Operation]]:
    """Method and path of all routes that need such keys, and those of the API description."""
    for _, table in TAGS.values():
        for key, operation in table.items():
            if operation.access in accesses:
                method, _, path = key.partition(" ")
                yield method, re.sub(r"{\w+}", "resp_1", path), operation


def check_shape(path: str, answer: Any, code: str, anthropic_type: str) -> None:
    """Check that an error has the form of the API of this path."""
    envelope, error = find_envelope(path), answer.json["error"]
    if envelope == OLLAMA:
        assert error.strip(), path
    elif envelope == MESSAGES:
        assert answer.json["type"] == "error", path
        assert (error["type"], answer.json["request_id"]) == (
            anthropic_type,
            answer.headers["request-id"],
        ), path
        assert error["message"], path
    else:
        assert error.keys() == {"message", "type", "param", "code"}, path
        assert (error["code"], error["param"]) == (code, None), path
    assert "Retry-After" not in answer.headers, path


def test_every_route_refuses_keys_that_are_not_valid(client: FlaskClient) -> None:
    keys = {name: create(client, name=name)["key"] for name in ("revoked", "replaced", "expired")}
    client.delete("/forwarder/keys/revoked", headers=ADMIN)
    client.post("/forwarder/keys/replaced/rotate", json={"grace": "1m"}, headers=ADMIN)
    registry = get_extension(client.application).services.client_keys
    client.patch("/forwarder/keys/expired", json={"expires": "1h"}, headers=ADMIN)
    later = time.time() + 7200
    registry._now = lambda: later  # type: ignore[attr-defined]
    messages = {
        **{key: name for name, key in keys.items()},
        "sk-fwd-unknown": "Incorrect API key",
        "sk-other": "Incorrect API key",
        "": "provide an API key",
    }
    checked = 0
    for method, path, _ in list_operations(Access.CLIENT, Access.READER):
        for key, message in messages.items():
            headers = make_key_header(key) if key else {}
            if (method, path) == UPGRADE:
                headers |= HANDSHAKE
            answer = client.open(path, method=method, headers=headers)
            assert answer.status_code == 401, (method, path, message, answer.text)
            if method != "HEAD":
                check_shape(path, answer, "invalid_api_key", "authentication_error")
                assert message in answer.text, (method, path, answer.text)
            checked += 1
    assert checked > 300


def test_every_route_that_counts_requests_refuses_an_exhausted_budget(client: FlaskClient) -> None:
    key = create(client, budget="5 tokens/day")["key"]
    assert send_chat(client, key).status_code == 200
    checked = 0
    for method, path, operation in list_operations(Access.CLIENT):
        if QuotaExceeded not in operation.errors or (method, path) == UPGRADE:
            continue
        answer = client.open(path, method=method, headers=make_key_header(key))
        assert answer.status_code == 429, (method, path, answer.text)
        assert answer.headers["X-Should-Retry"] == "false", path
        check_shape(path, answer, "insufficient_quota", "rate_limit_error")
        assert "exceeded your current quota" in answer.text, path
        checked += 1
    assert checked > 40


def test_turns_of_a_websocket_fail_as_requests_do(client: FlaskClient) -> None:
    created = create(client, budget="5 tokens/day")
    turn = {"type": "response.create", "model": "demo", "input": "Hi"}
    app = client.application

    def run_turns(count: int) -> list[Any]:
        socket = ScriptedWebSocket(*[turn] * count)
        with app.test_request_context("/v1/responses", headers=make_key_header(created["key"])):
            app.preprocess_request()
            new_session(app, socket).run()
        return [event for event in socket.sent if event["type"] in ("error", *TERMINAL_EVENTS)]

    completed, refused = run_turns(2)
    client.delete("/forwarder/keys/alice", headers=ADMIN)
    [revoked] = run_turns(1)

    assert completed["type"] == "response.completed"
    errors = [(each["status"], each["error"]["code"]) for each in (refused, revoked)]
    assert errors == [(429, "insufficient_quota"), (401, "invalid_api_key")]
    assert refused["error"]["type"] == "insufficient_quota"


def test_style_of_a_key_is_used(client: FlaskClient) -> None:
    styles = ["none", "reasoning_content"]
    messages = []
    for number, style in enumerate(styles):
        key = create(client, name=f"client{number}", reasoning=style)["key"]
        messages.append(send_chat(client, key).json["choices"][0]["message"])
    assert ["reasoning_content" in message for message in messages] == [False, True]


def test_client_keeps_its_stored_data_after_a_rotation(client: FlaskClient) -> None:
    first = create(client)["key"]
    other = create(client, name="bob")["key"]
    body = {"model": "demo", "input": "Hi", "store": True}
    stored = client.post("/v1/responses", json=body, headers=make_key_header(first)).json["id"]
    rotated = client.post("/forwarder/keys/alice/rotate", headers=ADMIN).json["key"]
    path = f"/v1/responses/{stored}"
    statuses = [
        client.get(path, headers=make_key_header(key)).status_code for key in (rotated, other)
    ]
    assert statuses == [200, 404]


def test_identity_of_a_key_is_not_accepted_as_a_key(client: FlaskClient) -> None:
    created = create(client)
    for text in (created["id"], f"§{created['id']}"):
        assert send_chat(client, text).status_code == 401


def test_name_of_a_key_is_in_logs_and_usage(
    client: FlaskClient, caplog: pytest.LogCaptureFixture
) -> None:
    key = create(client)["key"]
    with caplog.at_level(logging.INFO):
        send_chat(client, key)
    done = [r.msg for r in caplog.records if isinstance(r.msg, dict) and "client" in r.msg]
    assert done[-1]["client"] == "alice"
    assert key not in caplog.text
    usage = client.get("/forwarder/usage?group=client", headers=make_key_header(key)).json
    assert [line["client"] for line in usage["data"]] == ["alice"]


def test_optional_keys_limit_only_clients_that_send_one(tmp_path: Path) -> None:
    client = make_client(tmp_path, FORWARDER_CLIENT_KEYS="optional")
    created = create(client, models="nothing")
    assert created["required"] is False
    assert [send_chat(client, key).status_code for key in ("", "any", created["key"])] == [
        200,
        200,
        404,
    ]
    client.delete("/forwarder/keys/alice", headers=ADMIN)
    assert send_chat(client, created["key"]).status_code == 401


def test_browsers_are_guarded_until_clients_need_keys(client: FlaskClient) -> None:
    headers = {"Host": "rebound.example", "Authorization": "Bearer any"}
    assert client.get("/v1/models", headers=headers).status_code == 403
    create(client)
    assert client.get("/v1/models", headers=headers).status_code == 401


def test_client_key_may_read_status_routes(client: FlaskClient) -> None:
    key = create(client)["key"]
    for path in ("/ready?verbose", "/api/tags", "/api/ps"):
        statuses = [
            client.get(path, headers=h).status_code for h in (make_key_header(key), ADMIN, {})
        ]
        assert statuses == [200, 200, 401], path


def test_key_is_never_sent_to_an_upstream(serve: Serve, tmp_path: Path) -> None:
    sent: list[httpx2.Request] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        sent.append(request)
        return httpx2.Response(200, json={})

    client = serve(
        answer,
        FORWARDER_ADMIN_KEYS="sk-admin",
        FORWARDER_DATABASE_URL=f"sqlite:///{tmp_path}/state.db",
        CHAT_API_KEY="passthrough",
        RESPONSES_API_KEY="passthrough",
    )
    created = client.post("/forwarder/keys", json={"name": "passed"}, headers=ADMIN).json
    refused = send_chat(client, created["key"], model="m")
    assert (refused.status_code, refused.json["error"]["code"]) == (
        400,
        "upstream_needs_client_key",
    )
    assert not sent
