"""Ollama's API: lines, statuses and errors."""

from __future__ import annotations

import json
from typing import Any

import httpx2
import pytest
from flask.testing import FlaskClient

from tests.helpers.ollama import mistakes
from tests.server.conftest import Serve, streamed

Json = dict[str, Any]

BODIES: dict[str, Json] = {
    "/api/chat": {"model": "m", "messages": [{"role": "user", "content": "Hello"}]},
    "/api/generate": {"model": "m", "prompt": "Hello"},
}
EMBEDDING: dict[str, Json] = {
    "/api/embed": {"model": "m", "input": ["one", "two"]},
    "/api/embeddings": {"model": "m", "prompt": "one"},
    "/v1/embeddings": {"model": "m", "input": ["one", "two"]},
    "/embeddings": {"model": "m", "input": "one"},
}
every_route = pytest.mark.parametrize("path", BODIES)
over_either = pytest.mark.parametrize("upstream", ["chat", "responses"])


def chunk(text: str, finish: str | None = None) -> Json:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": finish}
    return {"id": "c", "object": "chat.completion.chunk", "choices": [choice]}


def lines_of(text: str) -> list[Json]:
    assert text.endswith("\n")
    return [json.loads(line) for line in text.removesuffix("\n").split("\n")]


def said(line: Json) -> str:
    return str(line["response"] if "response" in line else line["message"]["content"])


@every_route
@over_either
def test_an_answer_is_lines_unless_asked_otherwise(
    path: str, upstream: str, demo: FlaskClient
) -> None:
    for stream in ({}, {"stream": True}, {"stream": None}):
        got = demo.post(path, json={**BODIES[path], "model": f"{upstream}/demo", **stream})
        lines = lines_of(got.text)
        assert got.mimetype == "application/x-ndjson"
        assert got.headers["X-Accel-Buffering"] == "no"
        assert "".join(map(said, lines)) == "[demo upstream] You said: Hello"
        assert [line["done"] for line in lines].index(True) == len(lines) - 1
        assert [m for line in lines for m in mistakes(line)] == []


@every_route
@over_either
def test_an_answer_can_be_whole(path: str, upstream: str, demo: FlaskClient) -> None:
    body = {**BODIES[path], "model": f"{upstream}/demo", "stream": False}
    got = demo.post(path, json=body)

    whole = got.get_json()
    assert got.mimetype == "application/json"
    assert said(whole) == "[demo upstream] You said: Hello"
    assert whole["done"]
    assert whole["eval_count"] > 0
    assert mistakes(whole) == []


@pytest.mark.parametrize("path", {**BODIES, **EMBEDDING})
def test_errors_have_the_shape_of_their_api(path: str, demo: FlaskClient) -> None:
    for data in (b"", b"[]", b'{"model": 1}'):
        got = demo.post(path, data=data)
        error = got.get_json()["error"]
        assert got.status_code == 400
        assert isinstance(error, str if path.startswith("/api/") else dict)
        assert got.headers["X-Request-Id"]


@pytest.mark.parametrize("path", {**BODIES, **EMBEDDING})
def test_a_key_is_asked_for(path: str, serve: Serve) -> None:
    client = serve(lambda _: httpx2.Response(500), FORWARDER_API_KEYS="k")

    for headers in ({}, {"Authorization": "Bearer other"}):
        got = client.post(path, json={**BODIES, **EMBEDDING}[path], headers=headers)
        assert got.status_code == 401


@pytest.mark.parametrize("path", [p for p in {**BODIES, **EMBEDDING} if p.startswith("/api/")])
@pytest.mark.parametrize(
    ("status", "message", "code"),
    [
        (404, "The model `m` does not exist or you do not have access to it.", "model_not_found"),
        (404, 'model "m" not found, try pulling it first', None),
        (404, "models/m is not found for API version v1beta", 404),
        (400, "Model Not Exist", "invalid_request_error"),
        (400, "m is not a valid model ID", 400),
        (400, "Invalid model: m", "1500"),
    ],
)
def test_a_model_that_there_is_not_is_told_so_that_clients_may_pull_it(
    path: str, status: int, message: str, code: Any, serve: Serve
) -> None:
    refusal = {"error": {"message": message, "code": code}}
    client = serve(lambda _: httpx2.Response(status, json=refusal))
    body = {**BODIES, **EMBEDDING}[path]

    got = client.post(path, json={**body, "model": "m:latest"})

    told = f"model 'm:latest' not found: {message}"
    assert (got.status_code, got.get_json()) == (404, {"error": told})


@every_route
@pytest.mark.parametrize(
    "message",
    [
        "This model does not support tools.",
        "Unsupported parameter: 'temperature' is not supported with this model.",
    ],
)
def test_what_a_model_cannot_do_is_not_taken_for_its_absence(
    path: str, message: str, serve: Serve
) -> None:
    client = serve(lambda _: httpx2.Response(400, json={"error": {"message": message}}))

    got = client.post(path, json=BODIES[path])

    assert (got.status_code, got.get_json()) == (400, {"error": message})


@every_route
def test_a_failure_before_the_first_line_is_a_status(path: str, serve: Serve) -> None:
    refusal = {"error": {"message": "The picture is too large.", "code": "too_large"}}
    client = serve(lambda _: httpx2.Response(413, json=refusal))

    for stream in (True, False):
        got = client.post(path, json={**BODIES[path], "stream": stream})
        assert (got.status_code, got.get_json()) == (413, {"error": "The picture is too large."})


@every_route
@pytest.mark.parametrize(
    "events",
    [
        [chunk("Hi")],
        [chunk("Hi"), {"error": {"message": "full"}}],
        [chunk("Hi"), chunk("", "error")],
    ],
    ids=["cut", "reported", "failed"],
)
def test_a_failure_after_it_is_the_last_line(path: str, events: list[Json], serve: Serve) -> None:
    client = serve(lambda _: streamed(*events, done=False))

    got = client.post(path, json=BODIES[path])

    lines = lines_of(got.text)
    assert got.status_code == 200
    assert said(lines[0]) == "Hi"
    assert list(lines[-1]) == ["error"]
    assert not any(line.get("done") for line in lines)


@every_route
def test_a_failure_of_a_whole_answer_is_a_status(path: str, serve: Serve) -> None:
    client = serve(lambda _: streamed(chunk("Hi"), done=False))

    got = client.post(path, json={**BODIES[path], "stream": False})

    assert got.status_code == 502
    assert isinstance(got.get_json()["error"], str)


@every_route
def test_the_log_and_the_headers_name_the_route(
    path: str, serve: Serve, capsys: pytest.CaptureFixture[str]
) -> None:
    client = serve(lambda _: streamed(chunk("Hi", "stop")))

    got = client.post(path, json={**BODIES[path], "options": {"num_ctx": 4096}})

    assert lines_of(got.text)[-1]["done"]
    assert got.headers["X-Forwarder-Upstream"] == "chat"
    assert got.headers["X-Forwarder-Dropped"] == "options.num_ctx"
    got.close()
    line = json.loads(capsys.readouterr().err.splitlines()[-1])
    assert line["route"] == ("ollama" if path == "/api/chat" else "ollama_generate")
    assert line["dropped"] == ["options.num_ctx"]


@every_route
def test_a_strict_client_is_refused_what_would_be_dropped(path: str, demo: FlaskClient) -> None:
    body = {**BODIES[path], "options": {"num_ctx": 4096}}
    got = demo.post(path, json=body, headers={"X-Forwarder-Strict": "true"})

    assert got.status_code == 400
    assert "'options.num_ctx'" in got.get_json()["error"]


def test_a_model_is_loaded_and_unloaded_by_asking_nothing(serve: Serve) -> None:
    client = serve(lambda _: httpx2.Response(500))

    for body, reason in (({}, "load"), ({"keep_alive": 0}, "unload")):
        for path, empty in (("/api/chat", {"messages": []}), ("/api/generate", {"prompt": ""})):
            got = client.post(path, json={"model": "m", "stream": False, **empty, **body})
            assert (got.status_code, got.get_json()["done_reason"]) == (200, reason)


# -- embeddings -----------------------------------------------------------------------------------


@over_either
def test_texts_are_embedded(upstream: str, demo: FlaskClient) -> None:
    got = {
        path: demo.post(path, json={**body, "model": f"{upstream}/demo"})
        for path, body in EMBEDDING.items()
    }

    assert {answer.status_code for answer in got.values()} == {200}
    vectors = [entry["embedding"] for entry in got["/v1/embeddings"].get_json()["data"]]
    assert got["/api/embed"].get_json()["embeddings"] == [pytest.approx(v) for v in vectors]
    assert got["/api/embeddings"].get_json() == {"embedding": pytest.approx(vectors[0])}
    assert got["/api/embed"].get_json()["prompt_eval_count"] == 2
    assert got["/api/embed"].headers["X-Forwarder-Upstream"] == upstream


def test_what_openai_s_clients_ask_passes_through(serve: Serve) -> None:
    asked: list[Json] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        asked.append(json.loads(request.read()))
        assert request.url.path == "/v1/embeddings"
        return httpx2.Response(200, json={"data": [{"embedding": "AACAPw=="}], "vendor": 1})

    body = {"model": "chat/m", "input": [[1, 2]], "encoding_format": "base64", "vendor": {"x": 1}}
    got = serve(answer).post("/v1/embeddings", json=body)

    assert asked == [{**body, "model": "m"}]
    assert got.get_json() == {"data": [{"embedding": "AACAPw=="}], "vendor": 1}


@pytest.mark.parametrize("path", EMBEDDING)
def test_an_upstream_without_embeddings_says_so(path: str, serve: Serve) -> None:
    client = serve(lambda _: httpx2.Response(404, json={"detail": "Not Found"}))

    got = client.post(path, json=EMBEDDING[path])

    assert got.status_code == 404
    assert "The upstream 'chat' has no embeddings." in got.text


@pytest.mark.parametrize("path", EMBEDDING)
def test_an_answer_that_holds_none_is_the_upstream_s_fault(path: str, serve: Serve) -> None:
    client = serve(lambda _: httpx2.Response(200, json={"data": [7]}))

    got = client.post(path, json=EMBEDDING[path])

    assert got.status_code == 502
