"""Base paths that select the reasoning style."""

from __future__ import annotations

import json
from typing import Any

import httpx2
import pytest
from flask.testing import FlaskClient

from forwarder.app import create_app
from forwarder.config.settings import Settings
from forwarder.protocols.registry import ALL_STYLES, CLIENT_PROTOCOLS
from forwarder.server.base_paths import normalize_path
from tests.helpers.check_cases import check_each
from tests.server.conftest import Serve, make_stream_response

CHAT = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
RESPONSES = {"model": "m", "input": "hi"}
INLINE = {"thinking": "[thinking]Hm.[/thinking]\n\nHi", "think": "<think>Hm.</think>\n\nHi"}


def answer(request: httpx2.Request) -> httpx2.Response:
    """Return a response with reasoning in the API of the request, whole or streamed."""
    body = json.loads(request.read())
    if request.url.path.endswith("responses"):
        thought = {
            "id": "rs_1",
            "type": "reasoning",
            "summary": [{"type": "summary_text", "text": "Hm."}],
        }
        text = {"type": "output_text", "text": "Hi", "annotations": []}
        message = {"id": "msg_1", "type": "message", "role": "assistant", "content": [text]}
        response = {
            "id": "resp_1",
            "object": "response",
            "status": "completed",
            "output": [thought, message],
        }
        whole_answer: Any = response
        events: list[Any] = [{"type": "response.completed", "response": response}]
    else:
        reply = {"role": "assistant", "reasoning_content": "Hm.", "content": "Hi"}
        choice = {"index": 0, "finish_reason": "stop"}
        whole_answer = {
            "id": "c",
            "object": "chat.completion",
            "choices": [{**choice, "message": reply}],
        }
        events = [
            {
                "id": "c",
                "object": "chat.completion.chunk",
                "choices": [{**choice, "delta": reply}],
            }
        ]
    return (
        make_stream_response(*events)
        if body.get("stream")
        else httpx2.Response(200, json=whole_answer)
    )


@pytest.fixture
def client(serve: Serve) -> FlaskClient:
    return serve(answer)


def read_message(client: FlaskClient, path: str, **headers: str) -> Any:
    got = client.post(path, json=CHAT, headers=headers)
    assert got.status_code == 200, got.text
    return got.get_json()["choices"][0]["message"]


def list_reasoning_forms(client: FlaskClient, path: str, **body: Any) -> list[str]:
    got = client.post(path, json={**RESPONSES, **body})
    assert got.status_code == 200, got.text
    item = got.get_json()["output"][0]
    return [name for name in ("summary", "content") if item.get(name)]


@check_each("path", ["/v1/chat/completions", "/chat/completions"])
@check_each("style", CLIENT_PROTOCOLS["chat"].reasoning_styles)
def test_a_base_path_chooses_the_style_of_a_chat_client(
    style: str, path: str, client: FlaskClient
) -> None:
    message = read_message(client, f"/{style}{path}")

    assert message["metadata"] == {"reasoning": "Hm."}
    if style == "parts":
        assert [part["type"] for part in message["content"]] == ["thinking", "text"]
    else:
        assert message["content"] == INLINE.get("thinking" if style == "auto" else style, "Hi")
    fields = {name for name in ("reasoning_content", "reasoning") if name in message}
    assert fields == ({style} & {"reasoning_content", "reasoning"})


@check_each("stream", [False, True])
@check_each(
    ("style", "forms"),
    [("summary", ["summary"]), ("text", ["content"]), ("both", ["summary", "content"])],
)
def test_a_base_path_chooses_the_form_of_a_responses_client(
    style: str, forms: list[str], stream: bool, client: FlaskClient
) -> None:
    if not stream:
        assert list_reasoning_forms(client, f"/{style}/v1/responses") == forms
        return
    got = client.post(f"/{style}/v1/responses", json={**RESPONSES, "stream": True})
    assert [name for name in ("summary", "content")
            if f"reasoning_{name.replace('content', 'text')}" in got.text] == forms  # fmt: skip


@check_each(
    ("parameters", "forms"), [({}, ["content"]), ({"reasoning": {"summary": "auto"}}, ["summary"])]
)
def test_a_responses_client_gets_a_summary_if_it_asks_for_one(
    parameters: dict[str, Any], forms: list[str], client: FlaskClient
) -> None:
    assert list_reasoning_forms(client, "/v1/responses", **parameters) == forms
    assert list_reasoning_forms(client, "/think/v1/responses", **parameters) == forms


def test_background_work_uses_the_style_of_the_base_path(client: FlaskClient) -> None:
    queued = client.post("/both/v1/responses", json={**RESPONSES, "background": True}).get_json()

    events = client.get(f"/v1/responses/{queued['id']}?stream=true").text

    assert "response.reasoning_summary_text.delta" in events
    assert "response.reasoning_text.delta" in events


@check_each("headers", [{}, {"User-Agent": "opencode/1.18.2"}])
@check_each("base", ["", "/think", "/thinking", "/parts", "/auto"])
def test_json_is_never_mixed_with_reasoning(
    base: str, headers: dict[str, str], client: FlaskClient
) -> None:
    body = {**CHAT, "response_format": {"type": "json_object"}}
    body["messages"] = [{"role": "user", "content": "in json"}]
    for stream in (False, True):
        got = client.post(
            f"{base}/v1/chat/completions", json={**body, "stream": stream}, headers=headers
        )
        assert got.status_code == 200
        assert "thinking]" not in got.text
        assert "think>" not in got.text
        assert '"type":"thinking"' not in got.text
        assert ('"reasoning_content":"Hm."' in got.text) == bool(headers and base in ("", "/auto"))


def test_style_of_header_overrides_base_path_and_that_overrides_key(serve: Serve) -> None:
    client = serve(
        answer,
        FORWARDER_API_KEYS="k1,k2",
        FORWARDER_KEY_REASONING="k1=none,k1=both",
        FORWARDER_CHAT_REASONING="reasoning",
    )
    first, second = {"Authorization": "Bearer k1"}, {"Authorization": "Bearer k2"}
    path, base = "/v1/chat/completions", "/think/v1/chat/completions"

    assert read_message(client, path, **second)["reasoning"] == "Hm."
    assert read_message(client, path, **first)["content"] == "Hi"
    assert read_message(client, base, **first)["content"] == INLINE["think"]
    header = {"X-Forwarder-Reasoning": "thinking"}
    assert read_message(client, base, **first, **header)["content"] == INLINE["thinking"]
    summary_base = "/summary/v1/chat/completions"  # a style of the other API has no effect
    assert "reasoning" not in read_message(client, summary_base, **first)


def test_a_responses_client_has_the_style_of_its_key(serve: Serve) -> None:
    client = serve(answer, FORWARDER_KEY_REASONING="k1=none,k1=both")
    headers = {"Authorization": "Bearer k1"}
    got = client.post("/v1/responses", json=RESPONSES, headers=headers).get_json()
    assert {"summary", "content"} <= got["output"][0].keys()


@check_each(
    ("headers", "field"),
    [
        ({"User-Agent": "opencode/1.18.2"}, "reasoning_content"),
        ({"User-Agent": "ai-sdk/openrouter/3.1.0"}, "reasoning"),
        ({"X-Title": "Cherry Studio"}, "reasoning_content"),
        ({"User-Agent": "OpenAI/Python 3.57.0"}, None),
    ],
)
def test_a_client_that_renders_a_field_gets_it_by_default(
    headers: dict[str, str], field: str | None, client: FlaskClient
) -> None:
    message = read_message(client, "/v1/chat/completions", **headers)

    assert message["content"] == ("Hi" if field else INLINE["thinking"])
    assert message["metadata"] == {"reasoning": "Hm."}
    if field:
        assert message[field] == "Hm."
    unchanged = client.post(
        "/v1/chat/completions", json={**CHAT, "model": "chat/m"}, headers=headers
    ).get_json()["choices"][0]["message"]
    assert unchanged == {"role": "assistant", "reasoning_content": "Hm.", "content": "Hi"}


@check_each("style", ALL_STYLES)
def test_every_route_is_served_below_a_base_path(style: str, client: FlaskClient) -> None:
    for path in ("/v1/models", "/models", "/health", "/api/version", "/v1/models/nobody"):
        plain, below_base_path = client.get(path), client.get(f"/{style}{path}")
        assert below_base_path.status_code == plain.status_code, path
    assert (
        client.get("/", environ_overrides={"PATH_INFO": f"//{style}//health/"}).status_code == 200
    )
    assert client.get(f"/{style}/v1/nowhere").status_code == 404
    assert client.get(f"/{style}").status_code == client.get("/nowhere").status_code == 404
    assert client.get(f"/{style}/{style}/v1/models").status_code == 404


def test_no_route_begins_like_a_base_path() -> None:
    app = create_app(Settings.from_env({}))
    heads = {rule.rule.split("/")[1] for rule in app.url_map.iter_rules()}
    assert heads.isdisjoint(ALL_STYLES)


def test_dry_run_uses_the_style_of_the_base_path(client: FlaskClient) -> None:
    got = client.post("/summary/forwarder/translate?from=responses", json=RESPONSES)
    assert got.status_code == 200
    refused = client.post(
        "/forwarder/translate?from=chat", json=CHAT, headers={"X-Forwarder-Reasoning": "both"}
    )
    assert refused.get_json()["error"]["param"] == "X-Forwarder-Reasoning"


CHAT = {"model": "m", "messages": [{"role": "user", "content": "Hello"}]}


@check_each(
    ("path", "normal"),
    [
        ("", "/"),
        ("/", "/"),
        ("//", "/"),
        ("/v1/models", "/v1/models"),
        ("/v1/models/", "/v1/models"),
        ("/v1//models//", "/v1/models"),
        ("//v1/models", "/v1/models"),
        ("/v1/v1/models", "/v1/models"),
        ("/v1/v1/v1/models", "/v1/models"),
        ("/v1//v1/models", "/v1/models"),
        ("/openai/v1/models", "/v1/models"),
        ("/openai/v1/v1/models", "/v1/models"),
        ("/openai/v1/openai/v1/models", "/v1/models"),
        ("/v1", "/v1"),
        ("/models/", "/models"),
        ("/api/chat/", "/api/chat"),
        ("/v1/models/openai/v1/m", "/v1/models/openai/v1/m"),
        ("/v1/models/v1/m", "/v1/models/v1/m"),
        ("/v10/models", "/v10/models"),
        ("/openai/models", "/openai/models"),
        ("/forwarder/translate", "/forwarder/translate"),
    ],
)
def test_a_path_has_one_normal_form(path: str, normal: str) -> None:
    assert normalize_path(path) == normal
    assert normalize_path(normal) == normal


@check_each(
    ("path", "normal"),
    [
        ("/models", "/v1/models"),
        ("//chat//completions/", "/v1/chat/completions"),
        ("/v1/models", "/v1/models"),
        ("/modelsx", "/modelsx"),
        ("/api/chat", "/api/chat"),
        ("/", "/"),
    ],
)
def test_the_prefix_may_be_left_out_before_known_paths(path: str, normal: str) -> None:
    assert normalize_path(path, {"models", "chat"}) == normal


@pytest.mark.parametrize("path", ["/v1/models", "/models", "/think/models", "/think/v1/models"])
def test_routes_answer_with_and_without_the_prefix(demo: FlaskClient, path: str) -> None:
    assert demo.get(path).get_json()["object"] == "list"


@check_each("base", ["", "/", "/v1", "/v1/", "//v1", "/v1/v1", "/openai/v1", "/openai/v1/v1/"])
@check_each("end", ["", "/", "//"])
def test_every_base_url_leads_to_the_same_route(base: str, end: str, demo: FlaskClient) -> None:
    def send(method: str, route: str, **options: Any) -> tuple[int, str]:
        path = {"PATH_INFO": f"{base}{route}{end}"}  # in a URL, "//chat" would be a host
        got = demo.open("/", method=method, environ_overrides=path, **options)
        return got.status_code, got.get_json().get("object")

    assert send("POST", "/chat/completions", json=CHAT) == (200, "chat.completion")
    assert send("POST", "/responses", json={"model": "m", "input": "Hello"}) == (
        200,
        "response",
    )
    assert send("GET", "/models") == (200, "list")


def test_other_paths_are_still_not_found(demo: FlaskClient) -> None:
    for path in ("/v2/models", "/v1/v2/models", "/openai/models", "/v1/nothing/"):
        assert demo.get(path).status_code == 404
