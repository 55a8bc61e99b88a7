"""Requests that would take quadratic or exponential work, beside a neighbour on each worker.

Each is bounded in size; the upstream behind them is not there, since it is the work before it that
counts.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Callable
from functools import partial
from typing import Any

import httpx2
import pytest

from tests.fake_provider import Answer, ScriptedUpstream
from tests.live.conftest import KEY, Serve, make_settings
from tests.live.neighbour import Neighbour
from tests.live.server import Server, find_free_port
from tests.live.talk import PATHS, make_body

pytestmark = [pytest.mark.slow, pytest.mark.serial, pytest.mark.exhaustive]

Json = dict[str, Any]
Attack = Callable[[str, bytes], tuple[int, Json]]

MAX_STALL = 0.25
"""Seconds of the worker's time.  Unbounded, each attack took ten times as many, or for ever."""

MAX_WAIT = 15.0

PNG = b64encode(b"\x89PNG\r\n\x1a\n").decode()


@pytest.fixture(scope="module")
def server(serve: Serve, upstream: ScriptedUpstream, neighbour: Neighbour) -> Server:
    """Inlines schemas for one upstream, and checks answers of another."""
    unused_url = f"http://127.0.0.1:{find_free_port()}/v1"
    return serve(
        neighbour.settings
        | make_settings(
            upstream,
            WEB_CONCURRENCY="2",
            FORWARDER_CHAT_REASONING="thinking",
            FORWARDER_UPSTREAMS="responses,chat,checked,neighbour",
            CHAT_BASE_URL=unused_url,
            CHAT_MAX_RETRIES="0",
            CHAT_PROVIDER="generic",
            CHAT_QUIRKS='{"schema_dialect": "gemini", "merge_neighbours": true}',
            CHECKED_BASE_URL=upstream.url,
            CHECKED_API_KEY=KEY,
            CHECKED_API="chat",
            CHECKED_PROVIDER="generic",
            CHECKED_QUIRKS='{"response_format": "none"}',
        )
    )


@pytest.fixture
def attack(server: Server, neighbour: Neighbour) -> Attack:
    """Posts a body, and gives the status and the JSON of the answer, beside a neighbour."""
    return partial(send_attack, server, neighbour)


def send_attack(server: Server, neighbour: Neighbour, client: str, body: bytes) -> tuple[int, Json]:
    """The status and the JSON of the answer, beside a neighbour."""
    with neighbour.watch(server, MAX_STALL):
        response = httpx2.post(
            f"{server.v1}{PATHS[client]}",
            content=body,
            headers={"Content-Type": "application/json"},
            timeout=MAX_WAIT,
            trust_env=False,
        )
    answer: Json = response.json()
    return response.status_code, answer


def chat(content: Any, role: str = "user") -> bytes:
    return json.dumps(
        {"model": "chat/m", "messages": [{"role": role, "content": content}]}
    ).encode()


def make_image_part(url: str) -> Json:
    return {"type": "image_url", "image_url": {"url": url}}


def make_reasoning() -> bytes:
    item = {"type": "reasoning", "summary": [{"type": "summary_text", "text": "x" * 4000}]}
    return json.dumps(
        {"model": "chat/m", "input": [*[item] * 5000, {"role": "user", "content": "a"}]}
    ).encode()


CLIENT_TEXTS: dict[str, tuple[str, Callable[[], bytes]]] = {
    "thinking blocks": ("chat", lambda: chat("\n\n[thinking]" * 15_000 + "[/thinking].", "assistant")),
    "images without type": ("chat", lambda: chat([make_image_part(f"data:;base64,{PNG}")] * 60_000)),
    "reasoning in a row": ("responses", make_reasoning),
    "neighbours of one role": (
        "chat",
        lambda: json.dumps(
            {"model": "chat/m", "messages": [{"role": "user", "content": "x" * 4000}] * 5000}
        ).encode(),
    ),
    "many short messages": (
        "responses",
        lambda: json.dumps(
            {"model": "chat/m", "input": [{"role": "user", "content": "x"}] * 160_000}
        ).encode(),
    ),
}  # fmt: skip


@pytest.mark.parametrize(("client", "make"), CLIENT_TEXTS.values(), ids=CLIENT_TEXTS)
def test_long_history_is_read_in_one_pass(
    client: str, make: Callable[[], bytes], attack: Attack
) -> None:
    status, answer = attack(client, make())
    assert (status, answer["error"]["code"]) == (502, "upstream_unreachable"), answer


NO_JSON: dict[str, Callable[[], bytes]] = {
    "blanks": lambda: b" " * 60_000_000,
    "a value that does not come": lambda: b'{"model":' + b" " * 60_000_000,
    "numbers of thousands of digits": (
        lambda: b'{"model":[' + b",".join([b"9" * 4000] * 5000) + b"]}"
    ),
    "no number behind a long text": lambda: b'{"model":"' + b"x" * 60_000_000 + b'","n":NaN}',
    "halves of characters": lambda: b'{"model":"' + rb"\ud800" * 3_000_000 + b'"}',
    "commas in a long text": lambda: b'{"model":"' + b"x," * 30_000_000 + b'"',
    "commas and quotes in a long text": lambda: b'{"model":"' + rb"\"," * 20_000_000 + b'"',
}


@pytest.mark.parametrize("make", NO_JSON.values(), ids=NO_JSON)
def test_invalid_json_is_refused_at_once(make: Callable[[], bytes], attack: Attack) -> None:
    status, answer = attack("chat", make())
    assert (status, answer["error"]["code"]) == (400, "invalid_json")


def test_references_to_items_of_one_response_load_it_once(
    server: Server, upstream: ScriptedUpstream, attack: Attack
) -> None:
    items = [{"role": "user", "content": "x" * 1000} for _ in range(1000)]
    upstream.script(Answer(text="ok"))
    response = httpx2.post(
        f"{server.v1}/responses",
        json={"model": "responses/m", "input": items},
        timeout=MAX_WAIT,
        trust_env=False,
    ).json()
    name = response["id"].removeprefix("resp_")
    references = [{"type": "item_reference", "id": f"msg_{name}-{i}"} for i in range(1000)]
    body = json.dumps({"model": "chat/m", "input": references}).encode()

    status, answer = attack("responses", body)

    assert (status, answer["error"]["code"]) == (502, "upstream_unreachable"), answer


# -- schemas --------------------------------------------------------------------------------------


def make_doubling(keyword: str) -> Json:
    """A schema of 3 KB that is worth 2 ** 40 nodes."""
    doubled = {f"a{i}": {keyword: [{"$ref": f"#/$defs/a{i + 1}"}] * 2} for i in range(40)}
    return {"$ref": "#/$defs/a0", "$defs": {**doubled, "a40": {"type": "null"}}}


def with_format(schema: Json, model: str) -> bytes:
    json_schema = {"name": "a", "schema": schema}
    body = make_body(
        "chat", model=model, response_format={"type": "json_schema", "json_schema": json_schema}
    )
    return json.dumps(body).encode()


def test_schema_that_cannot_be_inlined_is_refused(attack: Attack) -> None:
    status, answer = attack("chat", with_format(make_doubling("anyOf"), "chat/m"))
    assert status == 400
    assert answer["error"]["param"] == "response_format.json_schema.schema"
    assert "FORWARDER_MAX_SCHEMA_NODES" in answer["error"]["message"]


def test_large_schema_is_refused(attack: Attack) -> None:
    schema = {"enum": ["x" * 1000] * 300}
    status, answer = attack("chat", with_format(schema, "checked/m"))
    assert status == 400
    assert answer["error"]["param"] == "response_format.json_schema.schema"
    assert "FORWARDER_MAX_SCHEMA)" in answer["error"]["message"]


@pytest.mark.parametrize(
    ("text", "schema"),
    [
        ("1", make_doubling("anyOf")),
        ("1", make_doubling("oneOf")),
        (json.dumps([{"a": i} for i in range(40_000)]), {"uniqueItems": True}),
        (json.dumps([*range(5000)]), {"items": {"allOf": [{}] * 5000}}),
    ],
    ids=["anyOf", "oneOf", "uniqueItems", "allOf"],
)
def test_answer_of_an_expensive_schema_is_passed_unchecked(
    text: str, schema: Json, attack: Attack, upstream: ScriptedUpstream
) -> None:
    upstream.script(Answer(text=text))
    status, answer = attack("chat", with_format(schema, "checked/m"))
    assert status == 200, answer
    message = answer["choices"][0]["message"]
    assert message["content"] == text
    assert "FORWARDER_MAX_SCHEMA_NODES" in message["metadata"]["schema_error"]
