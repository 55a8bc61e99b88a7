"""Requests and answers of the recorded conversations, compared with the OpenAPI document."""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from flask.testing import FlaskClient

from forwarder import services
from forwarder.app import create_app
from forwarder.config.settings import Settings
from forwarder.models import registered_model
from forwarder.openapi.document import TAGS
from forwarder.openapi.ollama_schemas import make_ollama_schemas
from forwarder.openapi.operation import Access, Operation
from forwarder.protocols.registry import CLIENT_PROTOCOLS
from tests.helpers.cases import Case, list_cases
from tests.helpers.check_cases import check_each
from tests.helpers.openapi import Conformance, create_objects, make_conformance

Json = dict[str, Any]

PATHS = {"chat": "/v1/chat/completions", "responses": "/v1/responses"}
CAPTURES = Path(__file__).parent.parent / "captures"
BODIES = [
    pytest.param(json.loads(line), id=f"{path.stem}-{number}")
    for path in sorted(CAPTURES.glob("*.jsonl"))
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
]


class CaseUpstream:
    """An upstream of both protocols that answers with the events of the current case."""

    events: list[Json]

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        body = json.loads(request.read() or b"{}")
        if not request.url.path.endswith(tuple(PATHS.values())):
            return httpx2.Response(404, json={"error": {"message": "no such path"}})
        if body.get("stream"):
            frames = "".join(f"data: {json.dumps(event)}\n\n" for event in self.events)
            return httpx2.Response(
                200, text=f"{frames}data: [DONE]\n\n", headers={"content-type": "text/event-stream"}
            )
        protocol = next(name for name, path in PATHS.items() if request.url.path.endswith(path))
        answer = CLIENT_PROTOCOLS[protocol].fold(iter([self.events]))
        return httpx2.Response(200, json=answer)


@pytest.fixture
def conformance() -> Conformance:
    return make_conformance()


@pytest.fixture
def upstream(monkeypatch: pytest.MonkeyPatch) -> CaseUpstream:
    upstream = CaseUpstream()
    transport = httpx2.MockTransport(upstream)
    monkeypatch.setattr(services, "select_transport", lambda settings, heartbeat: transport)
    return upstream


@pytest.fixture
def clients(upstream: CaseUpstream) -> dict[str, FlaskClient]:
    """Clients of applications, by the protocol of the upstream."""
    return {
        name: create_app(
            Settings.from_env(
                {
                    f"{name.upper()}_BASE_URL": "http://up.test/v1",
                    "FORWARDER_DATABASE_URL": "none",
                    "FORWARDER_FETCH": "off",
                }
            )
        ).test_client()
        for name in ("chat", "responses")
    }


def find_mistakes(
    conformance: Conformance, client: FlaskClient, path: str, body: Json
) -> Iterator[str]:
    key = f"POST {path}"
    yield from conformance.find_request_mistakes(key, body)
    answer = client.post(path, json=body, buffered=True)
    yield from conformance.find_answer_mistakes(
        key, answer.status_code, answer.mimetype, answer.data
    )


@check_each("case", list_cases(streams=True))
@check_each("stream", [True, False])
def test_conversations_match_the_document(
    clients: dict[str, FlaskClient],
    upstream: CaseUpstream,
    conformance: Conformance,
    case: Case,
    stream: bool,
) -> None:
    upstream.events = case.read("upstream.jsonl")
    body = {"model": "gpt", **case.read("request.json"), "stream": stream}

    assert [*find_mistakes(conformance, clients[case.upstream], PATHS[case.client], body)] == []


@check_each("body", BODIES)
def test_captured_requests_match_the_document(conformance: Conformance, body: Json) -> None:
    path = PATHS["chat" if "messages" in body else "responses"]

    assert conformance.find_request_mistakes(f"POST {path}", body) == []


def test_create_request_documents_all_accepted_fields() -> None:
    fields = make_ollama_schemas()["OllamaCreateRequest"]["properties"].keys()

    assert fields == registered_model._ACCEPTED_FIELDS


# -- successes ------------------------------------------------------------------------------------

HI = {"role": "user", "content": "Hi"}
CHAT: Json = {"model": "demo", "messages": [HI]}
GENERATE: Json = {"model": "demo", "prompt": "Hi"}
ITEM: Json = {"type": "message", "role": "user", "content": "Hi"}
TOOLS_ITEM: Json = {"type": "additional_tools", "tools": []}
EXCHANGES: list[tuple[str, Json]] = [
    *(
        ("POST /v1/chat/completions", {"json": CHAT, "headers": {"X-Forwarder-Reasoning": style}})
        for style in CLIENT_PROTOCOLS["chat"].reasoning_styles
    ),
    *(
        ("POST /v1/responses", {"json": {"model": "demo", "input": "Hi"}, "headers": headers})
        for headers in ({"X-Forwarder-Reasoning": "summary"}, {"X-Forwarder-Strict": "true"})
    ),
    ("POST /v1/responses", {"json": {"model": "demo", "input": [ITEM], "stream": True}}),
    ("POST /v1/responses", {"json": {"model": "demo", "input": "Hi", "background": True}}),
    ("POST /v1/responses/compact", {"json": {"model": "demo", "input": [ITEM]}}),
    ("POST /v1/responses/input_tokens", {"json": {"input": [ITEM, TOOLS_ITEM]}}),
    ("GET /v1/responses/{name}", {}),
    ("GET /v1/responses/{name}", {"query_string": "include[]=file_search_call.results"}),
    ("GET /v1/responses/{name}/input_items", {"query_string": "limit=1&order=asc"}),
    ("DELETE /v1/responses/{name}", {}),
    ("GET /v1/chat/completions", {"query_string": "metadata[a]=b&model=demo"}),
    ("GET /v1/chat/completions/{name}", {}),
    ("GET /v1/chat/completions/{name}/messages", {}),
    ("POST /v1/chat/completions/{name}", {"json": {"metadata": {"a": "b"}}}),
    ("DELETE /v1/chat/completions/{name}", {}),
    ("POST /v1/conversations", {"json": {"items": [ITEM], "metadata": None}}),
    ("POST /v1/conversations", {}),
    ("GET /v1/conversations/{name}", {}),
    ("POST /v1/conversations/{name}", {"json": {"metadata": {"a": "b"}}}),
    ("GET /v1/conversations/{name}/items", {}),
    ("POST /v1/conversations/{name}/items", {"json": {"items": [ITEM, TOOLS_ITEM]}}),
    ("GET /v1/conversations/{name}/items/{item_id}", {}),
    ("DELETE /v1/conversations/{name}/items/{item_id}", {}),
    ("DELETE /v1/conversations/{name}", {}),
    ("GET /v1/models", {"query_string": "client_version=1.0.0"}),
    ("GET /v1/models/{model}", {}),
    ("POST /v1/embeddings", {"json": {"model": "demo", "input": "Hi", "dimensions": None}}),
    ("GET /v1/files", {"query_string": "purpose=user_data"}),
    ("GET /v1/files/{file}", {}),
    ("GET /v1/files/{file}/content", {}),
    ("DELETE /v1/files/{file}", {}),
    (
        "POST /v1/vector_stores",
        {"json": {"name": "a", "expires_after": {"anchor": "last_active_at", "days": 1}}},
    ),
    ("GET /v1/vector_stores", {}),
    ("GET /v1/vector_stores/{store_id}", {}),
    ("POST /v1/vector_stores/{store_id}", {"json": {"name": None, "metadata": None}}),
    ("POST /v1/vector_stores/{store_id}/search", {"json": {"query": ["Hi"], "max_num_results": 2}}),
    ("GET /v1/vector_stores/{store_id}/files", {"query_string": "filter=completed"}),
    ("GET /v1/vector_stores/{store_id}/files/{file_id}", {}),
    ("POST /v1/vector_stores/{store_id}/files/{file_id}", {"json": {"attributes": {"a": 1}}}),
    ("DELETE /v1/vector_stores/{store_id}/files/{file_id}", {}),
    ("GET /v1/vector_stores/{store_id}/file_batches/{batch_id}", {}),
    ("GET /v1/vector_stores/{store_id}/file_batches/{batch_id}/files", {}),
    ("POST /v1/vector_stores/{store_id}/file_batches/{batch_id}/cancel", {}),
    ("DELETE /v1/vector_stores/{store_id}", {}),
    ("GET /", {}),
    ("GET /", {"headers": {"Accept": "text/html"}}),
    ("GET /landing/upstreams", {}),
    ("GET /api/version", {}),
    *(("POST /api/chat", {"json": {**CHAT, "stream": stream}}) for stream in (True, False)),
    *(("POST /api/generate", {"json": {**GENERATE, "stream": stream}}) for stream in (True, False)),
    ("POST /api/chat", {"json": {"model": "demo"}}),
    ("POST /api/embed", {"json": {"model": "demo", "input": ["Hi", "Ho"]}}),
    ("POST /api/embeddings", {"json": {"model": "demo", "prompt": "Hi"}}),
    ("GET /api/tags", {}),
    ("POST /api/show", {"json": {"model": "demo", "verbose": True}}),
    ("POST /api/create", {"json": {"model": "fast", "from": "demo", "stream": True}}),
    ("POST /api/copy", {"json": {"source": "demo", "destination": "other"}}),
    ("GET /api/ps", {}),
    ("POST /api/pull", {"json": {"model": "fast"}}),
    ("POST /api/pull", {"json": {"name": "none"}}),
    ("DELETE /api/delete", {"json": {"model": "fast"}}),
    ("POST /forwarder/translate", {"json": CHAT, "query_string": "from=chat"}),
    ("GET /forwarder/exchanges", {"query_string": "limit=3"}),
    ("POST /forwarder/keys", {"json": {"name": "alice", "models": "demo", "budget": "5 usd/day"}}),
    ("GET /forwarder/keys", {}),
    ("GET /forwarder/keys/{name}", {}),
    ("PATCH /forwarder/keys/{name}", {"json": {"models": ["demo"], "expires": "30d"}}),
    ("POST /forwarder/keys/{name}/rotate", {"json": {"grace": "1h"}}),
    ("DELETE /forwarder/keys/{name}", {}),
    ("GET /forwarder/usage", {"query_string": "group=hour,model"}),
    ("GET /forwarder/usage", {"query_string": "format=csv"}),
    (
        "GET /v1/organization/usage/completions",
        {"query_string": f"start_time={int(time.time()) - 7200}&bucket_width=1h&group_by=model"},
    ),
    ("GET /health", {}),
    ("GET /ready", {}),
    ("GET /ready", {"query_string": "verbose"}),
    ("GET /metrics", {}),
    ("GET /openapi.json", {}),
    ("GET /docs/api", {}),
]
"""Requests to the demo that succeed. Names in a path stand for created objects."""


@check_each(("key", "request_"), EXCHANGES, ids=lambda value: str(value)[:80])
def test_answers_of_the_demo_match_the_document(
    conformance: Conformance, full_demo: FlaskClient, key: str, request_: Json
) -> None:
    method, _, path = key.partition(" ")
    if "json" in request_:
        assert conformance.find_request_mistakes(key, request_["json"]) == []

    address = path.format(**create_objects(full_demo, path))
    answer = full_demo.open(address, method=method, buffered=True, **request_)

    assert answer.status_code == 200, answer.text
    assert conformance.find_answer_mistakes(key, 200, answer.mimetype, answer.data) == []


@pytest.fixture
def full_demo(tmp_path: Path) -> FlaskClient:
    """A client of the demo with its own database and captures."""
    environment = {
        "FORWARDER_CAPTURE": "memory",
        "FORWARDER_CLIENT_KEYS": "optional",  # created keys are not sent
        "FORWARDER_DATABASE_URL": f"sqlite:///{tmp_path}/state.db",
    }
    return create_app(Settings.from_env(environment)).test_client()


def test_embeddings_may_be_base64(conformance: Conformance) -> None:
    entry = {"object": "embedding", "index": 0, "embedding": "AACAPw=="}
    usage = {"prompt_tokens": 1, "total_tokens": 1}
    answer = {"object": "list", "model": "m", "data": [entry], "usage": usage}
    data = json.dumps(answer).encode()

    key = "POST /v1/embeddings"
    assert conformance.find_answer_mistakes(key, 200, "application/json", data) == []
    assert conformance.find_answer_mistakes(key, 200, "application/json", b"{}") != []


# -- refusals -------------------------------------------------------------------------------------

LIMIT = 2000
KEYS = {
    "CLIENT": "sk-client",
    "READER": "sk-client",
    "ADMINISTRATOR": "sk-admin",
    "METRICS": "sk-metrics",
}
OPERATIONS = [
    pytest.param(key, operation, id=key)
    for _, table in TAGS.values()
    for key, operation in table.items()
]
WITHOUT_HANDSHAKE = "GET /v1/responses"
"""Answered with a 426 before the key is checked."""

WITH_KEY = [
    operation_param for operation_param in OPERATIONS if operation_param.id != WITHOUT_HANDSHAKE
]
WITH_BODY = [
    operation_param for operation_param in OPERATIONS if operation_param.values[1].body is not None
]


@pytest.fixture
def guarded_client(tmp_path: Path) -> FlaskClient:
    """A client of an application with keys of every kind, a body limit, and built docs."""
    (tmp_path / "index.html").write_text("<h1>Docs</h1>")
    return create_app(
        Settings.from_env(
            {
                "FORWARDER_API_KEYS": KEYS["CLIENT"],
                "FORWARDER_ADMIN_KEYS": KEYS["ADMINISTRATOR"],
                "FORWARDER_METRICS_KEY": KEYS["METRICS"],
                "FORWARDER_CAPTURE": "memory",
                "FORWARDER_DOCS_DIR": str(tmp_path),
                "FORWARDER_MAX_BODY": str(LIMIT),
            }
        )
    ).test_client()


def send_request(
    conformance: Conformance, client: FlaskClient, key: str, access: Access | None, **request: Any
) -> int:
    """Return the status of the answer, which must match the document."""
    method, _, path = key.partition(" ")
    headers = {**request.pop("headers", {})}
    if access is not None and access.name in KEYS:
        headers["Authorization"] = f"Bearer {KEYS[access.name]}"
    answer = client.open(
        path.replace("{", "").replace("}", ""),
        method=method,
        headers=headers,
        buffered=True,
        **request,
    )
    assert method == "HEAD" or not conformance.find_answer_mistakes(
        key, answer.status_code, answer.mimetype, answer.data
    )
    return answer.status_code


@check_each(("key", "operation"), WITH_KEY)
def test_operations_require_the_documented_key(
    conformance: Conformance, guarded_client: FlaskClient, key: str, operation: Operation
) -> None:
    needs_key = operation.access is not Access.EVERYBODY
    with_wrong_key = {"headers": {"Authorization": "Bearer sk-unknown"}}

    assert (send_request(conformance, guarded_client, key, None) == 401) == needs_key
    assert (
        send_request(conformance, guarded_client, key, None, **with_wrong_key) == 401
    ) == needs_key
    assert send_request(conformance, guarded_client, key, operation.access) != 401
    if operation.access is Access.ADMINISTRATOR:
        assert send_request(conformance, guarded_client, key, Access.CLIENT) == 403


@check_each(("key", "operation"), WITH_BODY)
def test_answers_to_unreadable_bodies_match_the_document(
    conformance: Conformance, guarded_client: FlaskClient, key: str, operation: Operation
) -> None:
    send_body = functools.partial(send_request, conformance, guarded_client, key, operation.access)
    json_type = {"content_type": "application/json"}

    assert send_body(data=b"{}", headers={"Content-Encoding": "rot13"}, **json_type) == 415
    assert send_body(data=b" " * (LIMIT + 1), **json_type) == 413
    assert send_body(data=b"{", **json_type) == 400
    assert send_body(data=b"[]", **json_type) == 400
