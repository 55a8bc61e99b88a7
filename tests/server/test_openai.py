"""The routes of OpenAI's APIs: models, compaction, headers, errors."""

from __future__ import annotations

import json
from typing import Any

import httpx2
from flask.testing import FlaskClient

from tests.helpers import sdk
from tests.helpers.check_cases import check_each
from tests.server.conftest import Serve, make_stream_response
from tests.server.test_serving import BODIES, every_route, make_chunk

Json = dict[str, Any]


def test_models_are_found_by_their_full_name(demo: FlaskClient) -> None:
    listed = demo.get("/v1/models").get_json()

    assert listed["object"] == "list"
    for model in listed["data"]:
        assert demo.get(f"/models/{model['id']}").get_json() == model
    missing = demo.get("/v1/models/no/such")
    assert (missing.status_code, missing.get_json()["error"]["param"]) == (404, "model")


@check_each(("key", "upstream_model"), [("k", "codex-auto-review"), ("x", "usual")])
@check_each("protocol", ["responses", "chat"])
def test_codex_model_is_routed_by_the_client_key(
    key: str, upstream_model: str, protocol: str, serve: Serve
) -> None:
    bodies = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        if request.url.path.endswith("/models"):
            is_listed = request.headers.get("Authorization") == "Bearer k"
            data = [{"id": "codex-auto-review"}] if is_listed else []
            return httpx2.Response(200, json={"data": data})
        bodies.append(json.loads(request.content))
        return make_stream_response(make_chunk("Hi", "stop"))

    client = serve(
        answer,
        FORWARDER_UPSTREAMS="chat",
        CHAT_API_KEY="passthrough",
        FORWARDER_DEFAULT_MODEL="usual",
    )
    headers = {"Authorization": f"Bearer {key}"}
    path, body = {
        "responses": ("/v1/responses", {"input": "hi"}),
        "chat": ("/v1/chat/completions", {"messages": [{"role": "user", "content": "hi"}]}),
    }[protocol]

    sent = client.post(path, json={"model": "codex-auto-review", **body}, headers=headers)
    model = client.get("/v1/models/codex-auto-review", headers=headers).get_json()

    assert sent.status_code == 200
    assert [body["model"] for body in bodies] == [upstream_model]
    assert (model["id"], model["owned_by"]) == ("codex-auto-review", "chat")


@check_each("path", ["/v1/models", "/v1/models/demo"])
def test_models_need_a_key(path: str, serve: Serve) -> None:
    client = serve(lambda _: httpx2.Response(200, json={"data": []}), FORWARDER_API_KEYS="k")

    assert client.get(path).status_code == 401
    assert client.get(path, headers={"Authorization": "Bearer k"}).status_code in (200, 404)


def test_codex_gets_its_own_catalog_beside_the_list(demo: FlaskClient) -> None:
    plain = demo.get("/v1/models").get_json()
    answer = demo.get("/v1/models?client_version=0.169.0").get_json()

    assert "models" not in plain
    assert answer["data"] == plain["data"]
    listed = [entry["slug"] for entry in answer["models"] if entry["visibility"] == "list"]
    assert listed == [model["id"] for model in answer["data"]]


def test_response_has_the_headers_that_codex_reads(serve: Serve) -> None:
    client = serve(lambda request: make_stream_response(make_chunk("Hello.", "stop")))
    catalog = client.get("/v1/models?client_version=0.171.0")

    got = client.post("/v1/responses", json={"model": "mine", "input": "hi", "stream": True})

    assert got.headers["X-Reasoning-Included"] == "true"
    assert got.headers["X-Models-Etag"] == catalog.headers["ETag"]
    assert got.headers["OpenAI-Model"] == "mine"
    got.get_data()
    chat = client.post("/v1/chat/completions", json={"model": "mine", "messages": []})
    assert "X-Models-Etag" not in chat.headers


TALK = [
    {"role": "user", "content": "launch on Tuesday"},
    {"role": "assistant", "content": "Noted."},
]


def test_a_conversation_continues_after_compaction(serve: Serve) -> None:
    sent: list[Any] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        sent.append(json.loads(request.read()))
        return make_stream_response(make_chunk("We launch on Tuesday.", "stop"))

    client = serve(answer)
    got = client.post("/v1/responses/compact", json={"model": "m", "input": TALK}).get_json()
    more = [*got["output"], {"role": "user", "content": "When?"}]
    client.post("/v1/responses", json={"model": "m", "input": more})

    assert sdk.compaction_mistakes(got) == []
    assert [item["type"] for item in got["output"]] == ["message", "compaction"]
    assert "tools" not in sent[0]
    assert [m["role"] for m in sent[1]["messages"]] == ["user", "user", "user"]
    assert "We launch on Tuesday." in sent[1]["messages"][1]["content"]


def test_compaction_is_passed_to_upstreams_that_support_it(serve: Serve) -> None:
    compaction = {"id": "r", "object": "response.compaction", "created_at": 1, "output": []}
    paths: list[str] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        paths.append(request.url.path)
        assert json.loads(request.read()) == {"model": "m", "input": TALK}
        return httpx2.Response(200, json=compaction)

    client = serve(answer, RESPONSES_PROVIDER="openai")
    got = client.post("/v1/responses/compact", json={"model": "responses/m", "input": TALK})

    assert (got.get_json(), paths) == (compaction, ["/v1/responses/compact"])


@check_each(
    ("body", "param"),
    [({"input": TALK}, "model"), ({"model": "m", "input": 7}, "input")],
)
def test_compaction_refuses_unsupported_parameters(
    body: dict[str, Any], param: str, demo: FlaskClient
) -> None:
    got = demo.post("/v1/responses/compact", json=body)

    assert (got.status_code, got.get_json()["error"]["param"]) == (400, param)


def test_foreign_compaction_is_reported_in_the_header_or_refused(demo: FlaskClient) -> None:
    foreign = {"type": "compaction", "encrypted_content": "gAAAA"}
    body = {"model": "demo", "input": [foreign, *TALK[:1]]}

    accepted = demo.post("/v1/responses", json=body)
    strict = demo.post("/v1/responses", json=body, headers={"X-Forwarder-Strict": "true"})

    assert (accepted.status_code, accepted.headers["X-Forwarder-Dropped"]) == (
        200,
        "input.compaction",
    )
    assert (strict.status_code, strict.get_json()["error"]["param"]) == (400, "input.compaction")


@check_each("path", ["v1/responses", "v1/chat/completions", "forwarder/translate"])
def test_invalid_strict_header_is_refused(path: str, demo: FlaskClient) -> None:
    question = [{"role": "user", "content": "hi"}]
    parameters = {"messages": question} if path.endswith("completions") else {"input": question}
    for strict, status in {"maybe": 400, "TRUE": 200, "off": 200, "0": 200, "": 200}.items():
        headers = {"X-Forwarder-Strict": strict}
        got = demo.post(f"/{path}", json={"model": "demo", **parameters}, headers=headers)
        assert got.status_code == status
        if status == 400:
            assert got.get_json()["error"]["param"] == "X-Forwarder-Strict"
            assert "'off'" in got.get_json()["error"]["message"]


def test_compaction_keeps_user_messages_beside_the_summary(serve: Serve) -> None:
    part = {"type": "output_text", "text": "said", "annotations": []}
    message = {"type": "message", "id": "msg_1", "role": "assistant", "content": [part]}
    response = {"id": "resp_1", "object": "response", "status": "completed", "output": [message]}
    inputs: list[Any] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        body = json.loads(request.content)
        inputs.append(body["input"])
        if body.get("stream"):
            return make_stream_response(
                {"type": "response.completed", "response": response, "sequence_number": 0}
            )
        return httpx2.Response(200, json=response)

    client = serve(answer, RESPONSES_QUIRKS='{"keeps_responses": true}')
    first = client.post("/v1/responses", json={"model": "responses/m", "input": "remember"})
    request_body = {"model": "responses/m", "previous_response_id": first.get_json()["id"]}
    got = client.post("/v1/responses/compact", json=request_body)

    assert got.status_code == 200, got.text
    user_message, summary = got.get_json()["output"]
    assert (user_message["role"], user_message["content"][0]["text"]) == ("user", "remember")
    assert summary["type"] == "compaction"
    assert [item.get("role") for item in inputs[-1]] == ["user", "assistant", "user"]


CLIENT_HEADERS = {
    "OpenAI-Beta": "a=1",
    "OpenAI-Organization": "org-1",
    "OpenAI-Project": "proj-1",
    "Idempotency-Key": "one",
    "HTTP-Referer": "https://app.example",
    "X-Title": "App",
    "X-Codex-Turn": "1",
    "Cookie": "a=b",
    "X-Api-Key": "client",
}


@every_route
@check_each("api", ["chat", "responses"])
def test_provider_headers_are_forwarded(path: str, api: str, serve: Serve) -> None:
    received_headers: list[httpx2.Headers] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        received_headers.append(request.headers)
        return httpx2.Response(400, json={"error": {"message": "no"}})

    client = serve(answer, FORWARDER_UPSTREAMS=api, FORWARDER_CLIENT_HEADERS="x-codex-*")
    client.post(path, json=BODIES[path], headers=CLIENT_HEADERS)

    sent = received_headers[0]
    private = {"Cookie", "X-Api-Key"}
    others = CLIENT_HEADERS.keys() - {"Idempotency-Key"}
    assert {n: sent.get(n) for n in others} == {
        n: None if n in private else CLIENT_HEADERS[n] for n in others
    }
    assert sent["Idempotency-Key"] not in ("", "one")


@every_route
@check_each("key", ["ours", "passthrough"])
def test_clients_do_not_share_an_idempotency_key(path: str, key: str, serve: Serve) -> None:
    sent: list[str] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        sent.append(request.headers["Idempotency-Key"])
        return httpx2.Response(400, json={"error": {"message": "no"}})

    client = serve(answer, FORWARDER_API_KEYS="a,b", CHAT_API_KEY=key, FORWARDER_UPSTREAMS="chat")
    for who in ("a", "b", "a"):
        headers = {"Authorization": f"Bearer {who}", "Idempotency-Key": "one"}
        client.post(path, json=BODIES[path], headers=headers)

    first, second, repeated = sent
    assert first == repeated
    if key == "passthrough":
        assert sent == ["one"] * 3
    else:
        assert len({first, second, "one"}) == 3


def test_several_choices_do_not_share_an_idempotency_key(serve: Serve) -> None:
    received_headers: list[httpx2.Headers] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        received_headers.append(request.headers)
        return httpx2.Response(400, json={"error": {"message": "no"}})

    client = serve(answer, FORWARDER_UPSTREAMS="responses")
    body = {**BODIES["/v1/chat/completions"], "n": 2}
    client.post("/v1/chat/completions", json=body, headers=CLIENT_HEADERS)

    assert len(received_headers) == 2
    assert not any("idempotency-key" in headers for headers in received_headers)
    assert all(headers["x-title"] == "App" for headers in received_headers)


ANSWER = {
    "chat": {
        "id": "c",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Hi"},
                "finish_reason": "stop",
            }
        ],
    },
    "responses": {
        "id": "resp_1",
        "object": "response",
        "status": "completed",
        "output": [
            {
                "type": "message",
                "id": "msg_1",
                "role": "assistant",
                "status": "completed",
                "content": [{"type": "output_text", "text": "Hi", "annotations": []}],
            }
        ],
    },
}


@check_each("strict", ["true", "false"])
@check_each(
    "environment",
    [
        {"FORWARDER_UPSTREAMS": "responses"},
        {"FORWARDER_UPSTREAMS": "responses", "RESPONSES_PROVIDER": "openai"},
        {
            "FORWARDER_UPSTREAMS": "chat",
            "CHAT_PROVIDER": "mistral",
            "FORWARDER_CHAT_REASONING": "thinking",
        },
    ],
)
def test_reasoning_is_not_reported_lost_if_the_client_sent_none(
    environment: dict[str, str], strict: str, serve: Serve
) -> None:
    api = environment["FORWARDER_UPSTREAMS"]
    client = serve(lambda _: httpx2.Response(200, json=ANSWER[api]), **environment)

    def read_dropped(strict: str = strict, **answer: object) -> str | None:
        history = [{"role": "assistant", **answer}, {"role": "user", "content": "And?"}]
        body = {"model": "m", "messages": [{"role": "user", "content": "a"}, *history]}
        got = client.post("/v1/chat/completions", json=body, headers={"X-Forwarder-Strict": strict})
        assert got.status_code == 200
        return got.headers.get("X-Forwarder-Dropped")

    block = "[thinking]hm[/thinking]\n\nHi"
    assert read_dropped(content="Hi") is None
    assert read_dropped(content=block) is None
    assert read_dropped(content=block, metadata={"reasoning": "hm"}) is None
    assert (
        read_dropped("false", content="Hi", reasoning_content="hm") == "messages.reasoning_content"
    )


def test_schema_error_of_an_emulation_names_the_clients_parameter(serve: Serve) -> None:
    client = serve(lambda _: httpx2.Response(500), CHAT_PROVIDER="deepseek")
    schema = {"type": "json_schema", "name": "n", "schema": {"type": "no such type"}}
    body = {"model": "chat/m", "input": "hi", "text": {"format": schema}}

    got = client.post("/v1/responses", json=body)

    assert got.status_code == 400
    assert got.json["error"]["param"] == "text.format.schema"
    assert got.json["error"]["message"].startswith("Invalid schema for 'text.format.schema'")


def test_loss_at_the_provider_is_named_by_the_clients_parameter(serve: Serve) -> None:
    client = serve(lambda _: httpx2.Response(200, json=ANSWER["chat"]), CHAT_PROVIDER="deepseek")
    body = {"model": "chat/m", "input": "hi", "text": {"verbosity": "low"}}

    answer = client.post("/v1/responses", json=body)
    refused = client.post("/v1/responses", json=body, headers={"X-Forwarder-Strict": "true"})

    assert answer.headers["X-Forwarder-Dropped"] == "text.verbosity"
    assert refused.json["error"]["param"] == "text.verbosity"


LONG = "long" * 25_000
USER = {"role": "user", "content": "hi"}
TOOL = {"type": "function", "name": "f", "parameters": {"type": "object"}}
CHAT_TOOL = {"type": "function", "function": {"name": "f"}}


@check_each(
    ("path", "body"),
    [
        ("responses", {"input": [{"type": LONG}]}),
        ("responses", {"input": [{"role": LONG, "content": "hi"}]}),
        ("responses", {"input": [{"role": "user", "content": [{"type": LONG}]}]}),
        ("responses", {"input": [{"type": "item_reference", "id": LONG}]}),
        ("responses", {"previous_response_id": LONG}),
        ("responses", {"conversation": LONG}),
        ("responses", {"tool_choice": {"type": "function", "name": LONG}, "tools": [TOOL]}),
        ("responses", {"tool_choice": LONG}),
        ("responses", {"tool_choice": {"type": LONG}, "tools": [TOOL]}),
        ("responses", {"tools": [{"type": LONG}], "tool_choice": {"type": LONG}}),
        ("responses", {"truncation": LONG}),
        ("responses", {"model": f"{LONG}/"}),
        ("responses", {"reasoning": {"effort": {"a": LONG}}}),
        ("chat/completions", {"messages": [{"role": LONG, "content": "hi"}]}),
        ("chat/completions", {"messages": [{"role": "tool", "tool_call_id": LONG}]}),
        ("chat/completions", {"messages": [{"role": "function", "name": LONG}]}),
        ("chat/completions", {"messages": [{"role": "user", "content": [{"type": LONG}]}]}),
        ("chat/completions", {"messages": [USER], "tool_choice": LONG, "tools": [CHAT_TOOL]}),
        ("chat/completions", {"messages": [USER], "response_format": {"type": LONG}}),
        ("chat/completions", {"messages": [USER], "stop": {LONG: 1}}),
        ("chat/completions", {"messages": [USER], "modalities": [LONG]}),
    ],
)
def test_an_error_quotes_200_characters_of_a_value(
    path: str, body: dict[str, Any], serve: Serve
) -> None:
    """The upstream speaks the other protocol, so the forwarder reads every event."""
    upstream = {"responses": "chat", "chat/completions": "responses"}[path]
    client = serve(lambda _: httpx2.Response(500), FORWARDER_UPSTREAMS=upstream)

    got = client.post(
        f"/v1/{path}",
        json={"model": "m", "input": "hi", **body},
        headers={"X-Forwarder-Strict": "true"},
    )

    assert got.status_code in (400, 404, 500, 502)  # 500 is the upstream's
    assert len(got.data) < 4000


LATE_KEY_ERROR = {"error": {"message": "Incorrect API key provided", "code": "invalid_api_key"}}


@every_route
@check_each("api", ["chat", "responses"])
@check_each("stream", [False, True])
def test_late_key_error_of_the_upstream_is_not_attributed_to_the_client(
    path: str, api: str, stream: bool, serve: Serve
) -> None:
    response = {"id": "r", "object": "response", "status": "in_progress", "output": []}
    item = {"id": "m", "type": "message", "role": "assistant", "content": [], "status": "completed"}
    place = {"item_id": "m", "output_index": 0, "content_index": 0}
    first_events = {
        "chat": [make_chunk("Hi")],
        "responses": [
            {"type": "response.created", "response": response},
            {"type": "response.output_item.added", "output_index": 0, "item": item},
            {"type": "response.output_text.delta", **place, "delta": "Hi"},
        ],
    }
    last = LATE_KEY_ERROR if api == "chat" else {"type": "error", **LATE_KEY_ERROR}
    frames = [f"data: {json.dumps(event)}\n\n".encode() for event in [*first_events[api], last]]

    def answer(_: httpx2.Request) -> httpx2.Response:
        headers = {"content-type": "text/event-stream"}
        return httpx2.Response(200, headers=headers, content=iter(frames))

    client = serve(answer, FORWARDER_UPSTREAMS=api, CHAT_API_KEY="ours", RESPONSES_API_KEY="ours")
    got = client.post(path, json={**BODIES[path], "stream": stream})

    assert got.status_code == (200 if stream else 403)
    assert "invalid_api_key" not in got.text
    assert f"{api.upper()}_API_KEY" in got.text
    if stream:
        assert "Hi" in got.text
    if not stream or path == "/v1/chat/completions":
        assert '"upstream_authentication"' in got.text


LONG = "v" * 5000
CALL = {"id": LONG, "type": "function", "function": {"name": "f", "arguments": "{}"}}
LONG_ID_REQUESTS: dict[str, tuple[str, Json]] = {
    "an output without a call": (
        "responses",
        {"input": [{"type": "function_call_output", "call_id": LONG, "output": "x"}]},
    ),
    "a call without an output": (
        "responses",
        {
            "input": [
                {"type": "function_call", "call_id": LONG, "name": "f", "arguments": "{}"},
                {"role": "user", "content": "Hi."},
            ]
        },
    ),
    "calls without answers": (
        "chat/completions",
        {
            "messages": [
                {"role": "assistant", "tool_calls": [CALL]},
                {"role": "user", "content": "Hi."},
            ]
        },
    ),
}


@check_each(("path", "body"), LONG_ID_REQUESTS.values(), ids=LONG_ID_REQUESTS)
@check_each("model", ["chat/m", "responses/m"])
def test_an_error_quotes_200_characters_of_the_id_of_a_call(
    serve: Serve, path: str, body: Json, model: str
) -> None:
    def answer_with_400(request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(400, json={"error": {"message": "Bad."}})

    got = serve(answer_with_400).post(f"/v1/{path}", json={"model": model, **body})

    message = got.get_json()["error"]["message"]
    assert got.status_code == 400
    assert message == "Bad." or "v" * 200 + "…" in message
    assert len(message) < 500
