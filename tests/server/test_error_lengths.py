"""No error quotes a long value of the client, wherever it stands in the request."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from flask.testing import FlaskClient

from forwarder.core.errors import MAX_QUOTED_CHARACTERS
from forwarder.protocols.ollama import OLLAMA_CHAT
from forwarder.protocols.parameters import CHAT_OVER_RESPONSES, RESPONSES_OVER_CHAT
from tests.server.conftest import Serve

pytestmark = pytest.mark.slow  # hundreds of requests for each API

Json = dict[str, Any]

LONG = "x" * 10_000
CHAT: Json = {"messages": [{"role": "user", "content": "hi"}], "model": "chat/m"}
RESPONSES: Json = {"input": "hi", "model": "chat/m"}
TABLES = {
    "/v1/chat/completions": (CHAT, CHAT_OVER_RESPONSES),
    "/v1/responses": (RESPONSES, RESPONSES_OVER_CHAT),
    "/api/chat": (CHAT, OLLAMA_CHAT),
}
LONG_VALUES: tuple[Any, ...] = (
    LONG,
    [LONG],
    {LONG: LONG},
    {"type": LONG},
    {"type": "function", "name": LONG, "function": {"name": LONG}},
    {"type": "json_schema", "name": LONG, "json_schema": {"name": LONG, "schema": {LONG: LONG}}},
    {"format": {"type": LONG}},
    {"effort": LONG, "summary": LONG},
    {"id": LONG},
)
LONG_ITEMS: tuple[Json, ...] = (
    {"role": LONG, "content": "hi"},
    {"role": "user", "content": [{"type": LONG}]},
    {"role": "user", "content": [{"type": "image_url", "image_url": {"url": LONG}}]},
    {"role": "user", "content": [{"type": "image_url", "image_url": {"url": f"http://{LONG}/"}}]},
    {"role": "user", "content": [{"type": "input_image", "image_url": f"http://a.test/{LONG}"}]},
    {"role": "user", "content": [{"type": "input_image", "image_url": f"{LONG}://a.test"}]},
    {"role": "user", "content": [{"type": "input_image", "file_id": LONG}]},
    {"role": "user", "content": [{"type": "input_file", "file_url": LONG}]},
    {"role": "user", "content": [{"type": "input_audio", "input_audio": {"format": LONG}}]},
    {"role": "user", "content": [{"type": "file", "file": {"file_data": f"data:{LONG};,x"}}]},
    {"role": "tool", "tool_call_id": LONG, "content": "hi"},
    {"role": "function", "name": LONG, "content": "hi"},
    {"role": "assistant", "tool_calls": [{"id": LONG, "type": LONG}]},
    {"role": "assistant", "tool_calls": [
        {"id": LONG, "type": "function", "function": {"name": LONG, "arguments": LONG}}
    ]},
    {"type": LONG},
    {"type": "item_reference", "id": LONG},
    {"type": "message", "role": "user", "content": "hi", "id": LONG},
    {"type": "function_call", "call_id": LONG, "name": LONG, "arguments": LONG},
    {"type": "function_call_output", "call_id": LONG, "output": "hi"},
    {"type": "custom_tool_call_output", "call_id": LONG, "output": [{"type": LONG}]},
    {"type": "reasoning", "summary": [{"type": LONG}], "id": LONG},
    {"type": "compaction", "encrypted_content": LONG},
)  # fmt: skip


def make_requests(base: Json, parameters: Any) -> Iterator[Json]:
    for name in parameters:
        for value in LONG_VALUES:
            yield {**base, name: value}
            yield {**base, name: [value]}
    for value in LONG_VALUES:
        yield {**base, LONG: value}
        yield {**base, "tools": [{"type": "function", "name": LONG}], "tool_choice": value}
        yield {**base, "model": f"responses/{LONG}", "tool_choice": value}
    name = "input" if "input" in base else "messages"
    for item in LONG_ITEMS:
        yield {**base, name: [item]}
        yield {**base, name: [item, item], "model": "responses/m"}


@pytest.fixture(scope="module", params=TABLES)
def path(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize("strict", [False, True])
def test_errors_quote_no_long_values(path: str, strict: bool, serve: Serve) -> None:
    client = serve(lambda _: httpx2.Response(200, json={}))
    assert_short_errors(client, path, strict)


def test_errors_of_the_demo_quote_no_long_values(path: str, demo: FlaskClient) -> None:
    assert_short_errors(demo, path, strict=False)


def assert_short_errors(client: FlaskClient, path: str, strict: bool) -> None:
    headers = {"X-Forwarder-Strict": str(strict)}
    refused = 0
    for body in make_requests(*TABLES[path]):
        got = client.post(path, json=body, headers=headers)
        if got.status_code < 400:
            continue
        refused += 1
        error = got.get_json()["error"]
        texts = [error] if isinstance(error, str) else [error["message"], str(error["param"])]
        for text in texts:
            assert LONG[: MAX_QUOTED_CHARACTERS + 1] not in text, body.keys()
    assert refused > 50
