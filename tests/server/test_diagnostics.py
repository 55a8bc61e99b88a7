"""Access to captures, and their content."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx2
import pytest
from flask.testing import FlaskClient

from tests.helpers.check_cases import check_each
from tests.server.conftest import Serve, make_stream_response

PATH = "/forwarder/exchanges"
CHUNK = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
DELTA = {**CHUNK, "choices": [{"index": 0, "delta": {"content": "hi"}, "finish_reason": None}]}
STOP = {**CHUNK, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}


def answer(_: httpx2.Request) -> httpx2.Response:
    return make_stream_response(DELTA, STOP)


def send(client: FlaskClient, **more: Any) -> None:
    client.post("/v1/responses", json={"model": "chat/m", "input": "hi", **more}, buffered=True)


def read_captures(client: FlaskClient, **headers: str) -> list[Any]:
    got = client.get(PATH, headers=headers)
    assert got.status_code == 200, got.text
    return [client.get(f"{PATH}/{each['id']}", headers=headers).json for each in got.json["data"]]


def test_captures_are_off_by_default(serve: Serve, tmp_path: Path) -> None:
    client = serve(answer)
    send(client)

    for path in (PATH, f"{PATH}/x"):
        got = client.get(path)
        assert (got.status_code, got.json["error"]["code"]) == (404, "not_found")
        assert "FORWARDER_CAPTURE is off" in got.json["error"]["message"]


@check_each(
    ("key", "status"), [("sk-admin", 200), ("sk-client", 403), ("sk-other", 401), ("", 401)]
)
def test_only_administrators_read_captures(key: str, status: int, serve: Serve) -> None:
    client = serve(
        answer,
        FORWARDER_CAPTURE="memory",
        FORWARDER_ADMIN_KEYS="sk-admin",
        FORWARDER_API_KEYS="sk-client",
    )
    headers = {"Authorization": f"Bearer {key}"} if key else {}

    assert client.get(PATH, headers=headers).status_code == status
    assert client.get(f"{PATH}/x", headers=headers).status_code == (
        404 if status == 200 else status
    )


def test_without_admin_keys_only_local_requests_read_captures(serve: Serve) -> None:
    client = serve(answer, FORWARDER_CAPTURE="memory")

    assert client.get(PATH).status_code == 200
    assert client.get(PATH, environ_base={"REMOTE_ADDR": "10.0.0.1"}).status_code == 403
    assert client.get(PATH, headers={"X-Forwarded-For": "10.0.0.1"}).status_code == 403


def test_capture_contains_the_base_path(serve: Serve) -> None:
    client = serve(answer, FORWARDER_CAPTURE="memory")
    body = {"model": "chat/m", "messages": [{"role": "user", "content": "hi"}], "stream": True}

    client.post("/think/v1/chat/completions", json=body, buffered=True)

    (record,) = read_captures(client)
    assert record["client"]["request"]["path"] == "/think/v1/chat/completions"


@pytest.mark.parametrize("storage", ["memory", "files"])
def test_capture_has_client_and_upstream_side(storage: str, serve: Serve, tmp_path: Path) -> None:
    client = serve(answer, FORWARDER_CAPTURE=storage if storage == "memory" else f"{tmp_path}/x")
    send(client, stream=True, logit_bias={"1": 1}, user="me")

    (capture,) = read_captures(client)
    assert capture["exchange"]["upstream"] == "chat"
    assert capture["client"]["request"]["body"]["input"] == "hi"
    assert capture["upstream"][0]["request"]["body"]["messages"] == [
        {"role": "user", "content": "hi"}
    ]
    assert [e.get("data") for e in capture["upstream"][0]["answer"]["events"]] == [
        DELTA,
        STOP,
        None,
    ]
    kinds = [e["data"]["type"] for e in capture["client"]["answer"]["events"]]
    assert (kinds[0], kinds[-1]) == ("response.created", "response.completed")
    assert client.get(PATH).json["shared"] is (storage == "files")
    assert client.get(PATH).headers["Cache-Control"] == "no-store"


def test_captures_are_listed_newest_first_up_to_the_limit(serve: Serve) -> None:
    client = serve(answer, FORWARDER_CAPTURE="memory", FORWARDER_CAPTURE_COUNT="3")
    for number in range(5):
        send(client, metadata={"n": str(number)})

    bodies = [each["client"]["request"]["body"] for each in read_captures(client)]
    assert sorted(body["metadata"]["n"] for body in bodies) == ["2", "3", "4"]
    assert len(client.get(f"{PATH}?limit=2").json["data"]) == 2


@check_each("limit", ["0", "-1", "1001", "x", "", "\N{ARABIC-INDIC DIGIT ONE}"])
def test_limit_of_the_list_must_be_a_number(limit: str, serve: Serve) -> None:
    got = serve(answer, FORWARDER_CAPTURE="memory").get(PATH, query_string={"limit": limit})

    assert (got.status_code, got.json["error"]["param"]) == (400, "limit")


def test_capture_is_found_by_request_id(serve: Serve) -> None:
    client = serve(answer, FORWARDER_CAPTURE="memory")
    client.post(
        "/v1/responses", json={"model": "m", "input": "hi"}, headers={"X-Request-Id": "a/b"}
    )

    assert client.get(f"{PATH}/a/b").json["exchange"]["request_id"] == "a/b"
    missing = client.get(f"{PATH}/c")
    assert missing.status_code == 404
    assert "another worker" in missing.json["error"]["message"]


REFUSALS: list[tuple[dict[str, Any], int, str | None]] = [
    ({"data": "{"}, 400, "invalid_json"),
    ({"json": {"model": "m", "input": 1}}, 400, "invalid_type"),
    ({"json": {"input": "hi"}}, 400, "missing_required_parameter"),
]


@check_each(("request_", "status", "code"), REFUSALS)
def test_rejected_requests_are_captured(
    request_: dict[str, Any], status: int, code: str, serve: Serve
) -> None:
    client = serve(answer, FORWARDER_CAPTURE="memory")
    client.post("/v1/responses", **request_)

    (capture,) = read_captures(client)
    assert (capture["exchange"]["status"], capture["exchange"]["error"]) == (status, code)
    assert capture["client"]["answer"]["body"]["error"]["code"] == code
    assert capture["upstream"] == []


def test_unauthorized_requests_are_not_captured(serve: Serve) -> None:
    client = serve(answer, FORWARDER_CAPTURE="memory", FORWARDER_API_KEYS="sk-client")
    send(client)

    assert read_captures(client) == []


def test_rate_limited_requests_are_captured(serve: Serve) -> None:
    client = serve(answer, FORWARDER_CAPTURE="memory", FORWARDER_RATE_LIMIT_REQUESTS="1/day")
    send(client)
    send(client)

    (limited, _) = read_captures(client)
    assert limited["exchange"]["status"] == 429
    assert "body" not in limited["client"]["request"]


@pytest.mark.usefixtures("_short_backoff")
def test_every_attempt_is_captured(serve: Serve) -> None:
    answers = iter(
        [httpx2.Response(500, json={"error": {"message": "no"}}), make_stream_response(DELTA, STOP)]
    )
    client = serve(lambda _: next(answers), FORWARDER_CAPTURE="memory", CHAT_MAX_RETRIES="1")
    send(client)

    (capture,) = read_captures(client)
    assert [each["answer"]["status"] for each in capture["upstream"]] == [500, 200]
    assert capture["upstream"][0]["answer"]["body"] == {"error": {"message": "no"}}
    assert capture["retries"] == 1


def test_aborted_response_is_captured_partially(serve: Serve) -> None:
    def break_stream(_: httpx2.Request) -> httpx2.Response:
        def pieces() -> Any:
            yield f"data: {json.dumps(DELTA)}\n\n".encode()
            raise httpx2.ReadError("cut")

        return httpx2.Response(200, content=pieces())

    client = serve(break_stream, FORWARDER_CAPTURE="memory")
    send(client, stream=True)

    (capture,) = read_captures(client)
    assert capture["exchange"]["error"] == "upstream_disconnected"
    assert capture["upstream"][0]["error"] == {"type": "ReadError", "message": "cut"}
    assert [event["data"] for event in capture["upstream"][0]["answer"]["events"]] == [DELTA]
    assert capture["client"]["answer"]["events"][-1]["data"]["type"] == "response.failed"


def test_disconnect_is_captured_with_the_sent_part(serve: Serve) -> None:
    client = serve(answer, FORWARDER_CAPTURE="memory")
    got = client.post("/v1/responses", json={"model": "chat/m", "input": "hi", "stream": True})
    next(iter(got.response))
    got.close()

    (capture,) = read_captures(client)
    assert capture["exchange"]["error"] == "client_left"
    assert capture["client"]["answer"]["events"]


def test_dropped_parameters_are_captured(serve: Serve) -> None:
    client = serve(answer, FORWARDER_CAPTURE="memory")
    send(client, tools=[{"type": "web_search"}])

    (capture,) = read_captures(client)
    assert list(capture["dropped"])


def test_stored_objects_and_files_are_not_captured(serve: Serve) -> None:
    client = serve(lambda _: httpx2.Response(200, json={"data": []}), FORWARDER_CAPTURE="memory")
    client.get("/v1/files", buffered=True)
    client.get("/v1/responses/resp_1")
    client.post("/v1/conversations", json={})
    client.get("/v1/models")

    assert read_captures(client) == []


def test_capture_of_a_continued_response_includes_its_history(serve: Serve) -> None:
    client = serve(answer, FORWARDER_CAPTURE="memory")
    first = client.post("/v1/responses", json={"model": "chat/m", "input": "one"}).json["id"]
    send(client, previous_response_id=first)

    capture = read_captures(client)[0]
    assert [each["role"] for each in capture["client"]["resumed"]["body"]["input"]] == [
        "user", "assistant", "user",
    ]  # fmt: skip


def test_background_work_has_its_own_capture(serve: Serve) -> None:
    import time

    client = serve(answer, FORWARDER_CAPTURE="memory")
    send(client, background=True)
    deadline = time.monotonic() + 5
    while len(capture := read_captures(client)) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)

    assert {each["exchange"]["route"] for each in capture} == {"responses", "background"}
    (work,) = (each for each in capture if each["exchange"]["route"] == "background")
    assert work["client"]["answer"]["events"][-1]["data"]["type"] == "response.completed"
    assert work["upstream"][0]["answer"]["status"] == 200


Json = dict[str, Any]

CHAT: Json = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
RESPONSES: Json = {"model": "m", "input": "hi"}


def refuse_calls(request: httpx2.Request) -> httpx2.Response:
    raise AssertionError("an upstream was called")


@check_each(
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
    got = serve(refuse_calls).post(path, json=body)

    assert got.status_code == 200
    report = got.get_json()
    assert (report["client"], report["upstream"]["protocol"]) == (client, protocol)
    assert report["request"]["model"] == "m"


def test_dropped_parameters_are_in_the_header(demo: FlaskClient) -> None:
    got = demo.post("/forwarder/translate", json={**CHAT, "seed": 1})

    assert got.headers["X-Forwarder-Dropped"] == "seed"
    assert got.headers["X-Request-Id"]


@check_each(
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
    client = serve(refuse_calls, FORWARDER_API_KEYS="k")

    assert client.post("/forwarder/translate", json=CHAT).status_code == 401
    response = client.post("/forwarder/translate", json=CHAT, headers={"Authorization": "Bearer k"})
    assert response.status_code == 200


def test_a_reference_is_resolved_as_in_a_real_request(demo: FlaskClient) -> None:
    response = demo.post("/v1/responses", json={"model": "demo", "input": "hi"}).get_json()
    message = response["output"][-1]
    history = [{"role": "user", "content": "hi"}, {"type": "item_reference", "id": message["id"]}]

    report = demo.post("/forwarder/translate", json={"model": "demo", "input": history}).get_json()

    assert report["request"]["messages"][-1]["role"] == "assistant"
