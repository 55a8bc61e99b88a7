"""Ollama's API for models: responses, errors, authorization."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from forwarder import services
from forwarder.app import create_app
from forwarder.config.settings import Settings
from forwarder.server.extension import get_extension
from tests.helpers.check_cases import check_each
from tests.helpers.ollama import list_mistakes
from tests.models.remotes import Answer, answer_normally, refuse_connection, refusing
from tests.server.conftest import Serve, make_stream_response

BODY = {"model": "mine", "from": "m", "remote_host": "http://127.0.0.1:9/v1"}
KEY = "sk-remote-secret"
REMOTE_ADDRESS = {"REMOTE_ADDR": "8.8.8.8"}


class Ollama:
    """An application with its own registry and a mock remote."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, path: Path, **environment: str) -> None:
        self.answer: Answer = answer_normally
        self.requests: list[httpx2.Request] = []
        transport = httpx2.MockTransport(self._answer)
        monkeypatch.setattr(services, "select_transport", lambda *args: transport)
        settings = {
            "CHAT_BASE_URL": "http://up.test/v1",
            "CHAT_MODELS": "fast=quick",
            "FORWARDER_DATABASE_URL": f"sqlite:///{path}/state.db",
            "FORWARDER_REMOTE_ALLOW": "127.0.0.1",
            **environment,
        }
        self.app = create_app(Settings.from_env(settings))
        self.client: FlaskClient = self.app.test_client()

    def _answer(self, request: httpx2.Request) -> httpx2.Response:
        request.read()
        self.requests.append(request)
        return self.answer(request)

    def send(self, method: str, path: str, body: Any = None, **options: Any) -> TestResponse:
        return self.client.open(path, method=method, json=body, **options)

    def create(self, **change: Any) -> TestResponse:
        return self.send("POST", "/api/create", {**BODY, "stream": False, **change})


Make = Callable[..., Ollama]


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Make:
    return lambda **environment: Ollama(monkeypatch, tmp_path, **environment)


@pytest.fixture
def ollama(make: Make) -> Ollama:
    return make()


def test_greeting_and_version_are_ollamas(ollama: Ollama) -> None:
    assert ollama.send("GET", "/").text == "Ollama is running"
    assert ollama.send("HEAD", "/").status_code == 200
    assert ollama.send("GET", "/api/version").get_json() == {"version": "0.33.0"}


def test_a_model_is_created_in_one_answer(ollama: Ollama) -> None:
    got = ollama.create(remote_api_key=KEY)

    assert got.status_code == 200
    body = got.get_json()
    assert body["status"] == "success"
    assert body["found"]["key_accepted"] is body["found"]["model_known"] is True
    assert ollama.requests[0].headers["authorization"] == f"Bearer {KEY}"


def test_create_streams_status_lines_by_default(ollama: Ollama) -> None:
    got = ollama.send("POST", "/api/create", BODY)

    assert got.mimetype == "application/x-ndjson"
    lines = [json.loads(line) for line in got.text.splitlines()]
    assert [line["status"] for line in lines] == [
        "verified http://127.0.0.1:9/v1",
        "writing manifest",
        "success",
    ]
    second = ollama.send("POST", "/api/create", {**BODY, "verify": False})
    assert "not verified" in second.text.splitlines()[0]
    copied = ollama.send("POST", "/api/create", {"model": "other", "from": "mine"})
    assert copied.text.splitlines()[0] == '{"status":"writing manifest"}'


def test_failed_create_has_a_status_and_stores_nothing(ollama: Ollama) -> None:
    for answer, stream in ((refuse_connection, True), (refusing(401), False)):
        ollama.answer = answer
        got = ollama.create(stream=stream, remote_api_key=KEY)
        assert got.status_code == 400
        assert [*got.get_json()] == ["error"]
        assert KEY not in got.text
    assert ollama.client.get("/api/show", json={}).status_code == 405
    assert ollama.send("POST", "/api/show", {"model": "mine"}).get_json() == {
        "error": "model 'mine' not found"
    }


def test_registered_model_is_listed_without_its_key(ollama: Ollama) -> None:
    ollama.create(remote_api_key=KEY, parameters={"num_ctx": 4096})
    got = [
        ollama.send("GET", "/api/tags"),
        ollama.send("GET", "/api/ps"),
        ollama.send("POST", "/api/show", {"model": "mine:latest"}),
        ollama.send("POST", "/api/show", {"name": "mine", "verbose": True}),
        ollama.send("GET", "/v1/models?client_version=1"),
        ollama.send("GET", "/v1/models/mine"),
        ollama.send("GET", "/ready?verbose"),
        ollama.send("POST", "/forwarder/translate", {"model": "mine", "input": "hi"}),
    ]

    assert [each.status_code for each in got] == [200] * len(got)
    assert all("mine" in each.text for each in got)
    assert not any(KEY in each.text for each in got)
    tags, ps, show = (each.get_json() for each in got[:3])
    assert [model["name"] for model in tags["models"]] == [
        "mine:latest",
        "fast:latest",
        "m:latest",
    ]
    assert [model["name"] for model in ps["models"]] == ["mine:latest"]
    assert (show["remote_model"], show["remote_host"]) == ("m", BODY["remote_host"])
    assert show["health"]["model_known"] is True
    codex = {entry["slug"]: entry["context_window"] for entry in got[4].get_json()["models"]}
    assert codex["mine"] == 4096
    assert got[6].get_json()["models"]["mine:latest"]["reachable"] is True


def test_verbose_show_probes_the_remote(make: Make) -> None:
    uncached = make(FORWARDER_READY_TTL="0")
    uncached.create()
    uncached.answer = refuse_connection

    show = uncached.send("POST", "/api/show", {"model": "mine", "verbose": True}).get_json()
    assert show["health"]["reachable"] is False
    ready = uncached.send("GET", "/ready?verbose").get_json()
    assert "cannot be reached" in ready["models"]["mine:latest"]["error"]
    assert ready["upstreams"]["chat"]["health"]["reachable"] is False
    assert "models" not in uncached.send("GET", "/ready").get_json()
    metrics = uncached.send("GET", "/metrics").text
    assert 'forwarder_upstream_up{upstream="mine:latest"} 0.0' in metrics


def test_requests_for_a_registered_model_go_to_its_remote(ollama: Ollama) -> None:
    ollama.create(remote_api_key=KEY, parameters={"temperature": 0.5}, system="Be kind.")
    ollama.requests.clear()

    got = ollama.send("POST", "/v1/responses", {"model": "mine:latest", "input": "hi"})

    assert got.status_code == 200
    assert got.get_json()["temperature"] == 0.5
    [sent] = ollama.requests
    assert str(sent.url) == "http://127.0.0.1:9/v1/chat/completions"
    body = json.loads(sent.content)
    assert (body["model"], body["temperature"]) == ("m", 0.5)
    assert body["messages"][0] == {"role": "system", "content": "Be kind."}
    assert got.headers["X-Forwarder-Upstream"] == "mine:latest"


@pytest.mark.parametrize(
    ("answer", "status", "code"),
    [
        (refuse_connection, 502, "upstream_unreachable"),
        (refusing(401), 403, "upstream_authentication"),
        (refusing(404, "no such model", "model_not_found"), 404, "model_not_found"),
    ],
)
@pytest.mark.parametrize("path", ["/v1/responses", "/v1/chat/completions"])
def test_failing_remote_gives_a_clear_error(
    ollama: Ollama, answer: Answer, status: int, code: str, path: str
) -> None:
    ollama.create(remote_api_key=KEY)
    ollama.answer = answer
    body = {"model": "mine", "input": "hi", "messages": [{"role": "user", "content": "hi"}]}
    del body["messages" if path.endswith("responses") else "input"]

    got = ollama.send("POST", path, body)

    error = got.get_json()["error"]
    assert (got.status_code, error["code"]) == (status, code)
    assert ("the model's own key (remote_api_key)" in error["message"]) is (status == 403)
    assert KEY not in got.text


def test_undecryptable_key_of_a_model_is_reported(make: Make) -> None:
    make(FORWARDER_SECRET_KEY="old").create(remote_api_key=KEY)
    ollama = make(FORWARDER_SECRET_KEY="new", FORWARDER_DEFAULT_MODEL="mine")

    got = ollama.send("POST", "/v1/responses", {"model": "mine", "input": "hi"})

    assert (got.status_code, got.get_json()["error"]["code"]) == (403, "upstream_authentication")
    assert "cannot decrypt its key" in ollama.send("GET", "/ready?verbose").text
    assert ollama.send("POST", "/api/show", {"model": "mine"}).status_code == 200
    assert ollama.send("GET", "/api/tags").status_code == 200
    listed = ollama.send("GET", "/v1/models?client_version=1")
    assert listed.status_code == 200
    assert "mine" not in listed.text
    copying = {"source": "mine", "destination": "other"}
    assert "cannot be decrypted" in ollama.send("POST", "/api/copy", copying).get_json()["error"]
    assert ollama.send("POST", "/api/show", {"model": "other"}).status_code == 404


def test_every_listed_tag_can_be_shown(ollama: Ollama) -> None:
    ollama.create()
    tags = ollama.send("GET", "/api/tags").get_json()["models"]

    for tag in tags:
        response = ollama.send("POST", "/api/show", {"model": tag["name"]})
        assert (tag["name"], response.status_code) == (tag["name"], 200)
        details = response.get_json()
        assert {name: details[name] for name in ("remote_model", "modified_at", "details")} == {
            name: tag[name] for name in ("remote_model", "modified_at", "details")
        }
    assert len(tags) == 3


def test_name_that_cannot_be_requested_is_not_listed(ollama: Ollama) -> None:
    names = ["x" * 2049, "usable"]
    ollama.answer = lambda _: httpx2.Response(200, json={"data": [{"id": name} for name in names]})
    tags = ollama.send("GET", "/api/tags").get_json()["models"]
    assert [tag["name"] for tag in tags] == ["fast:latest", "usable:latest"]


def test_show_resolves_a_name_like_api_chat(make: Make) -> None:
    ollama = make(
        RESPONSES_BASE_URL="http://other.test/v1",
        CHAT_CONTEXT_WINDOW="1000",
        RESPONSES_CONTEXT_WINDOW="2000",
        CHAT_MODELS="shared",
        RESPONSES_MODELS="shared",
    )

    for name in ("m", "m:latest", "shared"):  # both list "m" under longer names
        details = ollama.send("POST", "/api/show", {"model": name}).get_json()
        assert details["details"]["context_length"] == 1000
        body = {"model": name, "messages": [{"role": "user", "content": "hi"}]}
        chat = ollama.send("POST", "/api/chat", body)
        assert chat.headers["X-Forwarder-Upstream"] == "chat"
    for name in ("nobody's", "chat/"):
        assert ollama.send("POST", "/api/show", {"model": name}).status_code == 404


@pytest.mark.parametrize("path", ["files", "containers/c/files/f/content"])
def test_files_of_a_registered_model_are_found_by_other_workers(ollama: Ollama, path: str) -> None:
    ollama.create(verify=False, remote_api_key=KEY)
    url = f"/v1/{path}?upstream=mine:latest"

    assert ollama.client.get(url).status_code == 200

    assert str(ollama.requests[-1].url) == f"http://127.0.0.1:9/v1/{path}"
    assert ollama.requests[-1].headers["authorization"] == f"Bearer {KEY}"
    ollama.send("DELETE", "/api/delete", {"model": "mine"})
    assert ollama.client.get(url).status_code == 400


def test_files_of_a_registered_model_are_not_listed_for_clients(make: Make) -> None:
    ollama = make(FORWARDER_ADMIN_KEYS="sk-admin", FORWARDER_API_KEYS="sk-client")
    admin, client = ({"Authorization": f"Bearer sk-{who}"} for who in ("admin", "client"))
    body = {**BODY, "stream": False, "verify": False, "remote_api_key": KEY}
    assert ollama.send("POST", "/api/create", body, headers=admin).status_code == 200
    request_count = len(ollama.requests)
    headers = {**client, "X-Forwarder-Upstream": "mine:latest"}

    assert ollama.client.get("/v1/files", headers=headers).status_code == 403
    assert ollama.client.get("/v1/files/file-1/content", headers=headers).status_code == 404
    assert len(ollama.requests) == request_count
    assert ollama.client.get(f"/v1/files/{'f' * 20}/content", headers=headers).status_code == 200


def test_registered_model_is_copied_and_deleted(ollama: Ollama) -> None:
    ollama.create()
    copied = ollama.send("POST", "/api/copy", {"source": "mine", "destination": "other:8b"})
    assert (copied.status_code, copied.data) == (200, b"")

    deleted = ollama.send("DELETE", "/api/delete", {"name": "mine"})
    assert (deleted.status_code, deleted.data) == (200, b"")
    assert ollama.send("DELETE", "/api/delete", {"model": "mine"}).status_code == 404
    assert ollama.send("POST", "/api/show", {"model": "other:8b"}).status_code == 200
    # It is no upstream any more, also for requests that name it.
    services = get_extension(ollama.app).services
    assert "mine:latest" not in services.upstreams
    assert "mine:latest" not in services.resilience.upstream_states


def test_configured_model_gets_a_second_name(ollama: Ollama) -> None:
    ollama.send("POST", "/api/create", {"model": "kind", "from": "fast", "system": "Be kind."})
    details = ollama.send("POST", "/api/show", {"model": "kind"}).get_json()
    assert (details["remote_model"], details["details"]["parent_model"]) == ("quick", "fast")

    got = ollama.send("POST", "/v1/responses", {"model": "kind", "input": "hi"})

    assert got.headers["X-Forwarder-Upstream"] == "chat"
    assert json.loads(ollama.requests[-1].content)["messages"][0]["content"] == "Be kind."


def test_configured_model_cannot_be_deleted(ollama: Ollama) -> None:
    got = ollama.send("DELETE", "/api/delete", {"model": "fast"})

    assert got.status_code == 400
    assert "environment" in got.get_json()["error"]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/api/push"),
        ("POST", "/api/blobs/sha256:1"),
        ("HEAD", "/api/blobs/sha256:1"),
    ],
)
def test_push_and_blobs_are_refused(ollama: Ollama, method: str, path: str) -> None:
    got = ollama.send(method, path, {"model": "mine"} if method == "POST" else None)

    assert got.status_code == 400
    if method == "POST":
        assert "remote_host" in got.get_json()["error"]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/api/show", b"{}"),
        ("/api/show", b"nonsense"),
        ("/api/create", b"[]"),
        ("/api/create", b'{"model": "x"}'),
        ("/api/create", b'{"model": "x", "from": "m", "stream": "no"}'),
        ("/api/copy", b'{"source": "mine"}'),
    ],
)
def test_bad_input_has_an_error_in_ollama_s_shape(ollama: Ollama, path: str, body: bytes) -> None:
    got = ollama.client.post(path, data=body)

    assert got.status_code == 400
    assert isinstance(got.get_json()["error"], str)


# -- authorization ----------------------------------------------------------------------------

WRITING = [
    ("POST", "/api/create", {**BODY, "verify": False}),
    ("POST", "/api/copy", {"source": "mine", "destination": "x"}),
    ("DELETE", "/api/delete", {"model": "mine"}),
]
READING = [("GET", "/api/tags", None), ("GET", "/api/ps", None),
           ("POST", "/api/show", {"model": "mine"})]  # fmt: skip


@pytest.mark.parametrize(("method", "path", "body"), WRITING)
def test_without_admin_keys_only_local_requests_write(
    ollama: Ollama, method: str, path: str, body: Any
) -> None:
    ollama.create()

    refused = ollama.send(method, path, body, environ_base=REMOTE_ADDRESS)
    assert (refused.status_code, [*refused.get_json()]) == (403, ["error"])
    assert ollama.send(method, path, body).status_code == 200


@pytest.mark.parametrize(("method", "path", "body"), WRITING)
def test_admin_key_writes_from_anywhere(make: Make, method: str, path: str, body: Any) -> None:
    ollama = make(FORWARDER_ADMIN_KEYS="boss", FORWARDER_API_KEYS="client")
    admin, client = ({"Authorization": f"Bearer {key}"} for key in ("boss", "client"))
    ollama.send("POST", "/api/create", {**BODY, "verify": False}, headers=admin)

    assert ollama.send(method, path, body).status_code == 401
    assert ollama.send(method, path, body, headers=client).status_code == 403
    allowed = ollama.send(method, path, body, headers=admin, environ_base=REMOTE_ADDRESS)
    assert allowed.status_code == 200


@pytest.mark.parametrize(("method", "path", "body"), READING)
def test_clients_and_administrators_read(make: Make, method: str, path: str, body: Any) -> None:
    ollama = make(FORWARDER_ADMIN_KEYS="boss", FORWARDER_API_KEYS="client")
    admin = {"Authorization": "Bearer boss"}
    ollama.send("POST", "/api/create", {**BODY, "verify": False}, headers=admin)

    assert ollama.send(method, path, body).status_code == 401
    for key in ("boss", "client"):
        got = ollama.send(method, path, body, headers={"Authorization": f"Bearer {key}"})
        assert got.status_code == 200


def test_admin_key_is_not_sent_upstream(make: Make) -> None:
    ollama = make(FORWARDER_ADMIN_KEYS="boss", CHAT_API_KEY="passthrough")
    admin = {"Authorization": "Bearer boss"}

    ollama.send("GET", "/api/tags", headers=admin)
    ollama.send("POST", "/api/copy", {"source": "x", "destination": "y"}, headers=admin)

    assert ollama.requests
    assert not any("boss" in str(request.headers) for request in ollama.requests)


def test_keys_are_not_logged_even_with_bodies(
    make: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    ollama = make(FORWARDER_LOG_BODIES="true", FORWARDER_LOG_LEVEL="DEBUG")
    ollama.create(remote_api_key=KEY)
    ollama.answer = refusing(401, f"bad key {KEY}")
    ollama.create(remote_api_key=KEY, model="other")

    output = capsys.readouterr()
    assert '"create"' in output.err + output.out
    assert KEY not in output.err + output.out


def test_create_needs_a_database(make: Make) -> None:
    ollama = make(FORWARDER_DATABASE_URL="none")

    got = ollama.create()
    assert got.status_code == 400
    assert "FORWARDER_DATABASE_URL" in got.get_json()["error"]
    assert ollama.send("DELETE", "/api/delete", {"model": "mine"}).status_code == 400
    assert [m["name"] for m in ollama.send("GET", "/api/tags").get_json()["models"]] == [
        "fast:latest",
        "m:latest",
    ]


def read_lines(got: TestResponse) -> list[dict[str, Any]]:
    assert got.mimetype == "application/x-ndjson"
    return [json.loads(line) for line in got.text.splitlines()]


@pytest.mark.parametrize("name", ["fast", "fast:latest", "listed", "mine", "mine:latest"])
def test_pull_of_a_served_model_succeeds(ollama: Ollama, name: str) -> None:
    ollama.create()
    ollama.answer = lambda request: httpx2.Response(200, json={"data": [{"id": "listed"}]})

    streamed = ollama.send("POST", "/api/pull", {"model": name})
    older = ollama.send("POST", "/api/pull", {"name": name, "insecure": True, "stream": True})
    whole_answer = ollama.send("POST", "/api/pull", {"model": name, "stream": False})

    statuses = ["pulling manifest", "verifying sha256 digest", "writing manifest", "success"]
    assert read_lines(streamed) == [{"status": status} for status in statuses]
    assert older.text == streamed.text
    assert (whole_answer.status_code, whole_answer.get_json()) == (200, {"status": "success"})


@pytest.mark.parametrize("name", ["unknown", "unknown:8b", "chat/"])
def test_pull_of_an_unknown_model_fails(ollama: Ollama, name: str) -> None:
    ollama.answer = lambda request: httpx2.Response(200, json={"data": [{"id": "listed"}]})

    streamed = ollama.send("POST", "/api/pull", {"model": name})
    whole_answer = ollama.send("POST", "/api/pull", {"model": name, "stream": False})

    first, last = read_lines(streamed)
    assert (streamed.status_code, first) == (200, {"status": "pulling manifest"})
    assert last["error"].startswith("pull model manifest: file does not exist")
    assert (whole_answer.status_code, whole_answer.get_json()) == (404, last)
    assert name in last["error"]


def test_a_pull_needs_a_name_and_a_key(make: Make) -> None:
    ollama = make(FORWARDER_API_KEYS="k")

    assert ollama.send("POST", "/api/pull", {"model": "fast"}).status_code == 401
    key = {"Authorization": "Bearer k"}
    assert ollama.send("POST", "/api/pull", {"model": "fast"}, headers=key).status_code == 200
    assert ollama.send("POST", "/api/pull", {}, headers=key).status_code == 400


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
over_either = check_each("upstream", ["chat", "responses"])


def make_chunk(text: str, finish: str | None = None) -> Json:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": finish}
    return {"id": "c", "object": "chat.completion.chunk", "choices": [choice]}


def parse_lines(text: str) -> list[Json]:
    assert text.endswith("\n")
    return [json.loads(line) for line in text.removesuffix("\n").split("\n")]


def read_line_text(line: Json) -> str:
    return str(line["response"] if "response" in line else line["message"]["content"])


@every_route
@over_either
def test_answer_is_streamed_as_lines_by_default(
    path: str, upstream: str, demo: FlaskClient
) -> None:
    for stream in ({}, {"stream": True}, {"stream": None}):
        got = demo.post(path, json={**BODIES[path], "model": f"{upstream}/demo", **stream})
        lines = parse_lines(got.text)
        assert got.mimetype == "application/x-ndjson"
        assert got.headers["X-Accel-Buffering"] == "no"
        assert "".join(map(read_line_text, lines)) == "[demo upstream] You said: Hello"
        assert [line["done"] for line in lines].index(True) == len(lines) - 1
        assert [m for line in lines for m in list_mistakes(line)] == []


@every_route
@over_either
def test_an_answer_without_stream_is_one_object(
    path: str, upstream: str, demo: FlaskClient
) -> None:
    body = {**BODIES[path], "model": f"{upstream}/demo", "stream": False}
    got = demo.post(path, json=body)

    whole_answer = got.get_json()
    assert got.mimetype == "application/json"
    assert read_line_text(whole_answer) == "[demo upstream] You said: Hello"
    assert whole_answer["done"]
    assert whole_answer["eval_count"] > 0
    assert list_mistakes(whole_answer) == []


@check_each("path", {**BODIES, **EMBEDDING})
def test_errors_have_the_shape_of_their_api(path: str, demo: FlaskClient) -> None:
    for data in (b"", b"[]", b'{"model": 1}'):
        got = demo.post(path, data=data)
        error = got.get_json()["error"]
        assert got.status_code == 400
        assert isinstance(error, str if path.startswith("/api/") else dict)
        assert got.headers["X-Request-Id"]


@check_each("path", {**BODIES, **EMBEDDING})
def test_missing_key_is_refused(path: str, serve: Serve) -> None:
    client = serve(lambda _: httpx2.Response(500), FORWARDER_API_KEYS="k")

    for headers in ({}, {"Authorization": "Bearer other"}):
        got = client.post(path, json={**BODIES, **EMBEDDING}[path], headers=headers)
        assert got.status_code == 401


@check_each("path", [p for p in {**BODIES, **EMBEDDING} if p.startswith("/api/")])
@check_each(
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
def test_unknown_model_has_the_error_that_makes_clients_pull(
    path: str, status: int, message: str, code: Any, serve: Serve
) -> None:
    refusal = {"error": {"message": message, "code": code}}
    client = serve(lambda _: httpx2.Response(status, json=refusal))
    body = {**BODIES, **EMBEDDING}[path]

    got = client.post(path, json={**body, "model": "m:latest"})

    expected = f"model 'm:latest' not found: {message}"
    assert (got.status_code, got.get_json()) == (404, {"error": expected})


@every_route
@check_each(
    "message",
    [
        "This model does not support tools.",
        "Unsupported parameter: 'temperature' is not supported with this model.",
    ],
)
def test_unsupported_feature_is_not_reported_as_unknown_model(
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
@check_each(
    "events",
    [
        [make_chunk("Hi")],
        [make_chunk("Hi"), {"error": {"message": "full"}}],
        [make_chunk("Hi"), make_chunk("", "error")],
    ],
    ids=["cut", "reported", "failed"],
)
def test_failure_after_the_first_line_is_the_last_line(
    path: str, events: list[Json], serve: Serve
) -> None:
    client = serve(lambda _: make_stream_response(*events, done=False))

    got = client.post(path, json=BODIES[path])

    lines = parse_lines(got.text)
    assert got.status_code == 200
    assert read_line_text(lines[0]) == "Hi"
    assert list(lines[-1]) == ["error"]
    assert not any(line.get("done") for line in lines)


@every_route
def test_a_failure_of_a_whole_answer_is_a_status(path: str, serve: Serve) -> None:
    client = serve(lambda _: make_stream_response(make_chunk("Hi"), done=False))

    got = client.post(path, json={**BODIES[path], "stream": False})

    assert got.status_code == 502
    assert isinstance(got.get_json()["error"], str)


@every_route
def test_the_log_and_the_headers_name_the_route(
    path: str, serve: Serve, capsys: pytest.CaptureFixture[str]
) -> None:
    client = serve(lambda _: make_stream_response(make_chunk("Hi", "stop")))

    got = client.post(path, json={**BODIES[path], "options": {"num_ctx": 4096}})

    assert parse_lines(got.text)[-1]["done"]
    assert got.headers["X-Forwarder-Upstream"] == "chat"
    assert got.headers["X-Forwarder-Dropped"] == "options.num_ctx"
    got.close()
    line = json.loads(capsys.readouterr().err.splitlines()[-1])
    assert line["route"] == ("ollama" if path == "/api/chat" else "ollama_generate")
    assert line["dropped"] == ["options.num_ctx"]


@every_route
def test_strict_mode_refuses_parameters_that_would_be_dropped(path: str, demo: FlaskClient) -> None:
    body = {**BODIES[path], "options": {"num_ctx": 4096}}
    got = demo.post(path, json=body, headers={"X-Forwarder-Strict": "true"})

    assert got.status_code == 400
    assert "'options.num_ctx'" in got.get_json()["error"]


def test_empty_request_loads_and_unloads_a_model(serve: Serve) -> None:
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


def test_openai_embeddings_request_passes_through(serve: Serve) -> None:
    requests: list[Json] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        requests.append(json.loads(request.read()))
        assert request.url.path == "/v1/embeddings"
        return httpx2.Response(200, json={"data": [{"embedding": "AACAPw=="}], "vendor": 1})

    body = {"model": "chat/m", "input": [[1, 2]], "encoding_format": "base64", "vendor": {"x": 1}}
    got = serve(answer).post("/v1/embeddings", json=body)

    assert requests == [{**body, "model": "m"}]
    assert got.get_json() == {"data": [{"embedding": "AACAPw=="}], "vendor": 1}


@check_each("path", EMBEDDING)
def test_an_upstream_without_embeddings_is_an_error(path: str, serve: Serve) -> None:
    client = serve(lambda _: httpx2.Response(404, json={"detail": "Not Found"}))

    got = client.post(path, json=EMBEDDING[path])

    assert got.status_code == 404
    assert "The upstream 'chat' has no embeddings." in got.text


@check_each("path", EMBEDDING)
def test_embeddings_answer_without_vectors_is_an_upstream_error(path: str, serve: Serve) -> None:
    client = serve(lambda _: httpx2.Response(200, json={"data": [7]}))

    got = client.post(path, json=EMBEDDING[path])

    assert got.status_code == 502
