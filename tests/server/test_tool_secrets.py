"""Credentials for MCP servers reach the upstream and appear nowhere else."""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path
from typing import Any

import httpx2
import orjson
import pytest

from tests.server.conftest import Serve, make_stream_response

SECRETS = (
    "tok-authorization-1", "val-of-a-header-2", "pass-of-a-user-3", "query-token-4",
    "NGQ5ZjY-tYWJj_ZGVm-xyz",
)  # fmt: skip
TOOL = {
    "type": "mcp",
    "server_label": "x",
    "server_url": f"https://me:{SECRETS[2]}@mcp.test/s/{SECRETS[4]}/sse?token={SECRETS[3]}",
    "authorization": SECRETS[0],
    "headers": {"X-Whatever": SECRETS[1]},
    "require_approval": "never",
}
BODY = {"input": "Hi.", "tools": [TOOL]}


class Upstream:
    """A mock upstream for both APIs that echoes the tools of Responses requests."""

    def __init__(self) -> None:
        self.tools: list[Any] = []
        self.inputs: list[Any] = []

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        body = orjson.loads(request.read())
        if request.url.path.endswith("/chat/completions"):
            choice = {"index": 0, "delta": {"content": "Hello."}, "finish_reason": "stop"}
            chunk = {"id": "c", "created": 1, "model": "m", "choices": [choice]}
            return make_stream_response({**chunk, "object": "chat.completion.chunk"})
        self.tools.append(body.get("tools"))
        self.inputs.append(body.get("input"))
        response = {
            "id": "resp_up", "object": "response", "created_at": 1, "status": "completed",
            "model": "m", "tools": body.get("tools"), "output": [], "metadata": {},
        }  # fmt: skip
        if not body.get("stream"):
            return httpx2.Response(200, json=response)
        created = {"type": "response.created", "response": {**response, "status": "in_progress"}}
        done = {"type": "response.completed", "response": response}
        return make_stream_response(
            *({**e, "sequence_number": i} for i, e in enumerate((created, done)))
        )


def assert_hidden(text: str) -> None:
    assert not [secret for secret in SECRETS if secret in text]


@pytest.mark.parametrize("model", ["chat/m", "responses/m"])
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("background", "store"),
    [(False, False), (False, True), (True, True)],  # background work is always stored
)
def test_secrets_of_tools_reach_only_the_upstream(
    serve: Serve, tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str],
    model: str, stream: bool, background: bool, store: bool,
) -> None:  # fmt: skip
    upstream = Upstream()
    app = serve(
        upstream, FORWARDER_DATABASE_URL=f"sqlite:///{tmp_path}/f.db", FORWARDER_CAPTURE="memory",
        FORWARDER_LOG_BODIES="true", FORWARDER_LOG_SAMPLE="1",
    )  # fmt: skip
    logging.getLogger("forwarder").propagate = True
    body = {**BODY, "model": model, "stream": stream, "background": background, "store": store}

    got = app.post("/v1/responses", json=body, buffered=True)

    text = got.get_data(as_text=True)
    assert (got.status_code, "Hello." in text or model != "chat/m" or background) == (200, True)
    assert '"server_label"' in text
    assert_hidden(text)
    if store:
        *_, last = [line for line in text.splitlines() if "resp_" in line]
        response = json.loads(last.removeprefix("data: "))
        name = response.get("id") or response["response"]["id"]
        for _ in range(100):
            stored = app.get(f"/v1/responses/{name}")
            if stored.get_json()["status"] == "completed":
                break
            time.sleep(0.1)
        assert stored.get_json()["tools"][0]["server_label"] == "x"
        assert_hidden(stored.get_data(as_text=True))
        events = app.get(f"/v1/responses/{name}?stream=true")
        if stream or background:
            assert events.status_code == 200
        assert_hidden(events.get_data(as_text=True))
        files = b"".join(file.read_bytes() for file in tmp_path.iterdir()).decode("latin-1")
        assert '"server_label":"x"' in files  # short rows are not compressed
        assert_hidden(files)
    if model == "responses/m":
        assert upstream.tools == [[TOOL]]
    assert_hidden(caplog.text + capsys.readouterr().err)
    captured = app.get("/forwarder/exchanges").get_json()["data"]
    for each in captured:
        record = app.get(f"/forwarder/exchanges/{each['id']}").get_data(as_text=True)
        assert '"mcp"' in record
        assert_hidden(record)
    assert captured


def test_a_dry_run_shows_no_secrets_of_tools(serve: Serve) -> None:
    got = serve(Upstream()).post("/forwarder/translate", json={**BODY, "model": "responses/m"})

    assert got.status_code == 200
    assert got.get_json()["request"]["tools"][0]["server_label"] == "x"
    assert_hidden(got.get_data(as_text=True))


def test_stored_items_hide_tool_secrets_and_forward_them(serve: Serve, tmp_path: Path) -> None:
    upstream = Upstream()
    app = serve(upstream, FORWARDER_DATABASE_URL=f"sqlite:///{tmp_path}/f.db")
    items = [{"type": "additional_tools", "tools": [TOOL]}, {"role": "user", "content": "Hi."}]
    body = {"model": "responses/m", "input": items}

    created = app.post("/v1/responses", json=body).get_json()
    conversation_id = app.post("/v1/conversations", json={"items": items[:1]}).get_json()["id"]
    listed = [
        f"/v1/responses/{created['id']}/input_items",
        f"/v1/conversations/{conversation_id}/items",
    ]
    for text in (app.get(path).get_data(as_text=True) for path in listed):
        assert '"server_label":"x"' in text
        assert_hidden(text)

    app.post("/v1/responses", json={**body, "input": "On.", "previous_response_id": created["id"]})
    assert upstream.inputs[-1][0]["tools"] == [TOOL]
