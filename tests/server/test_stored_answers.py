"""Errors of the routes for stored objects, and what is stored."""

from __future__ import annotations

import json
from typing import Any

import httpx2
from flask.testing import FlaskClient

from forwarder.app import create_app
from forwarder.config.settings import Settings
from tests.helpers.check_cases import check_each
from tests.server.conftest import Serve, make_stream_response

NAME = "resp_" + "0" * 32


@check_each(
    ("method", "path"),
    [
        ("GET", f"/v1/responses/{NAME}"),
        ("GET", f"/responses/{NAME}?stream=true"),
        ("DELETE", f"/v1/responses/{NAME}"),
        ("POST", f"/v1/responses/{NAME}/cancel"),
        ("GET", f"/v1/responses/{NAME}/input_items"),
        ("GET", "/v1/responses/a%00b"),
        ("GET", "/v1/chat/completions/chatcmpl-x"),
        ("GET", "/v1/chat/completions/chatcmpl-x/messages"),
        ("DELETE", "/v1/chat/completions/chatcmpl-x"),
    ],
)
def test_missing_object_is_not_found(method: str, path: str, demo: FlaskClient) -> None:
    got = demo.open(path, method=method)
    assert got.status_code == 404
    assert got.get_json()["error"]["code"] == "not_found"


@check_each(
    ("path", "param"),
    [
        ("?stream=perhaps", "stream"),
        ("?stream=true&starting_after=x", "starting_after"),
        ("?include[]=everything", "include[0]"),
        ("?stream=true&include=everything", "include[0]"),
        ("/input_items?include=reasoning.encrypted_content&include=all", "include[1]"),
        ("/input_items?limit=0", "limit"),
        ("/input_items?order=up", "order"),
        ("/input_items?after=nobody", "after"),
    ],
)
def test_invalid_query_is_refused(path: str, param: str, demo: FlaskClient) -> None:
    created = demo.post("/v1/responses", json={"model": "demo", "input": "hi"}).get_json()
    got = demo.get(f"/v1/responses/{created['id']}{path}")
    assert (got.status_code, got.get_json()["error"]["param"]) == (400, param)


def test_invalid_bodies_are_refused_with_the_parameter(demo: FlaskClient) -> None:
    for path, body, param in (
        ("/v1/responses/input_tokens", {"input": 5}, "input"),
        ("/v1/responses/input_tokens", {"conversation": 5}, "conversation"),
        ("/v1/chat/completions/x", {}, "metadata"),
        ("/v1/conversations", {"items": 5}, "items"),
    ):
        got = demo.post(path, json=body)
        assert (got.status_code, got.get_json()["error"]["param"]) == (400, param), path


def test_key_is_required_if_configured(demo: FlaskClient) -> None:
    client = create_app(Settings.from_env({"FORWARDER_API_KEYS": "k"})).test_client()
    for path in (f"/v1/responses/{NAME}", "/v1/chat/completions", "/v1/conversations/x"):
        assert client.get(path).status_code == 401


def test_missing_store_is_reported() -> None:
    client = create_app(Settings.from_env({"FORWARDER_DATABASE_URL": "none"})).test_client()
    for path in (f"/v1/responses/{NAME}", "/v1/chat/completions", "/v1/conversations/x"):
        got = client.get(path)
        assert (got.status_code, got.get_json()["error"]["code"]) == (400, "store_disabled")
    request = {"model": "demo", "input": "hi"}
    assert client.post("/v1/responses", json=request).status_code == 200
    got = client.post("/v1/responses", json={**request, "background": True})
    assert got.get_json()["error"]["code"] == "store_disabled"


def test_tokens_are_estimated_without_a_store() -> None:
    client = create_app(Settings.from_env({"FORWARDER_DATABASE_URL": "none"})).test_client()
    got = client.post("/v1/responses/input_tokens", json={"input": "hello there"})
    assert (got.status_code, got.get_json()["input_tokens"] > 2) == (200, True)
    for name in ("previous_response_id", "conversation"):
        got = client.post("/v1/responses/input_tokens", json={"input": "hello", name: "x"})
        assert (got.status_code, got.get_json()["error"]["param"]) == (400, name)


def test_input_tokens_equal_the_estimate_of_the_compaction_threshold(demo: FlaskClient) -> None:
    image = {"type": "input_image", "image_url": "data:image/png;base64,iVBORw0KGgo="}
    body = {
        "model": "demo",
        "input": [
            {"role": "user", "content": [image] * 20},
            {"role": "assistant", "content": "Twenty pictures."},
            {"role": "user", "content": "What do they show?"},
        ],
    }
    tokens = demo.post("/v1/responses/input_tokens", json=body).get_json()["input_tokens"]
    assert tokens > 20 * 765

    def list_output_types(threshold: int) -> list[str]:
        entry = {"type": "compaction", "compact_threshold": threshold}
        got = demo.post("/v1/responses", json={**body, "context_management": [entry]})
        return [item["type"] for item in got.get_json()["output"]]

    assert "compaction" in list_output_types(tokens)
    assert "compaction" not in list_output_types(tokens + 1)


def test_chat_store_parameter_without_a_store_is_reported() -> None:
    client = create_app(Settings.from_env({"FORWARDER_DATABASE_URL": "none"})).test_client()
    request = {"model": "demo", "messages": [{"role": "user", "content": "x"}], "store": True}
    got = client.post("/v1/chat/completions", json=request)
    assert (got.status_code, got.headers["X-Forwarder-Dropped"]) == (200, "store")
    got = client.post("/v1/chat/completions", json={**request, "store": False})
    assert "X-Forwarder-Dropped" not in got.headers
    strict = {"X-Forwarder-Strict": "1"}
    got = client.post("/v1/chat/completions", json=request, headers=strict)
    assert (got.status_code, got.get_json()["error"]["param"]) == (400, "store")


def test_completions_can_be_deleted_while_paging(demo: FlaskClient) -> None:
    request = {"model": "demo", "messages": [{"role": "user", "content": "x"}], "store": True}
    ids = [demo.post("/v1/chat/completions", json=request).get_json()["id"] for _ in range(5)]
    listed_ids, after = [], ""
    while True:
        page = demo.get(f"/v1/chat/completions?limit=2{after}").get_json()
        for each in page["data"]:
            if each["id"] in ids:
                listed_ids.append(each["id"])
                demo.delete(f"/v1/chat/completions/{each['id']}")
        if not page["has_more"]:
            break
        after = f"&after={page['last_id']}"
    assert listed_ids == ids
    got = demo.get("/v1/chat/completions?after=nobody")
    assert (got.status_code, got.get_json()["error"]["param"]) == (400, "after")


def test_a_streamed_completion_is_stored_with_its_usage(demo: FlaskClient) -> None:
    request = {"model": "demo", "messages": [{"role": "user", "content": "x"}], "stream": True}
    got = demo.post("/v1/chat/completions", json={**request, "store": True})
    chunks = [json.loads(line[6:]) for line in got.text.splitlines() if line[6:7] == "{"]
    assert all(chunk["choices"] and not chunk.get("usage") for chunk in chunks)
    [name] = {chunk["id"] for chunk in chunks}
    assert demo.get(f"/v1/chat/completions/{name}").get_json()["usage"]["total_tokens"] > 0


@check_each("streamed", [True, False])
def test_stored_output_has_items_that_only_their_events_have(streamed: bool, serve: Serve) -> None:
    text = {"type": "output_text", "text": "Hi", "annotations": []}
    item = {"type": "message", "id": "msg_1", "role": "assistant", "content": [text]}
    bare = {"id": "resp_1", "object": "response", "created_at": 1, "model": "m", "output": []}
    requests: list[Any] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        requests.append(json.loads(request.content))
        return make_stream_response(
            {"type": "response.created", "response": bare},
            {"type": "response.output_item.done", "output_index": 0, "item": item},
            {"type": "response.completed", "response": {**bare, "status": "completed"}},
        )

    client = serve(answer, RESPONSES_MODELS="m")
    answered = client.post("/v1/responses", json={"model": "m", "input": "a", "stream": streamed})
    last = answered.get_data().rpartition(b"data: {")[2] if streamed else b""
    response = json.loads(b"{" + last)["response"] if streamed else answered.get_json()
    assert response["output"] == [item]
    assert client.get(f"/v1/responses/{response['id']}").get_json()["output"] == [item]
    client.post(
        "/v1/responses",
        json={"model": "m", "input": "b", "previous_response_id": response["id"]},
    )
    assert requests[1]["input"][1] == item
