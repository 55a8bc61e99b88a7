from __future__ import annotations

from typing import Any

from forwarder.core.types import Json
from forwarder.protocols.tool_secrets import (
    hide_tool_secrets,
    hide_tool_secrets_of,
    with_hidden_tool_secrets,
)
from tests.helpers.check_cases import check_each

URL = "https://me:pass@mcp.test/sse?v=2&token=hunter2"
TOOL: Json = {
    "type": "mcp", "server_label": "x", "server_url": URL, "authorization": "secret",
    "headers": {"X-Anything": "secret", "Accept": "a/b"}, "require_approval": "never",
}  # fmt: skip
REDACTED_TOOL: Json = {
    "type": "mcp", "server_label": "x", "server_url": "https://mcp.test",
    "headers": {"X-Anything": "***", "Accept": "***"}, "require_approval": "never",
}  # fmt: skip


def test_hide_tool_secrets() -> None:
    before = {**TOOL}
    function = {"type": "function", "name": "f", "headers": {"a": "b"}}

    assert hide_tool_secrets([function, TOOL]) == [function, REDACTED_TOOL]
    assert before == TOOL


@check_each("tools", [None, "odd", [], ["odd", {"type": "function"}], {"type": "mcp"}])
def test_hide_tool_secrets_keeps_other_tools(tools: Any) -> None:
    response = {"tools": tools}
    assert hide_tool_secrets(tools) is tools
    assert hide_tool_secrets_of(response) is response


def test_hide_tool_secrets_in_fields_of_wrong_type() -> None:
    tool = {"type": "mcp", "authorization": {"a": "secret"}, "headers": None, "server_url": None}
    assert hide_tool_secrets([tool]) == [{"type": "mcp", "headers": None, "server_url": None}]


def test_with_hidden_tools_hides_echoed_tools() -> None:
    requests: list[Json] = []
    created = {"type": "response.created", "response": {"id": "r", "tools": [TOOL]}}
    delta = {"type": "response.output_text.delta", "delta": "a"}

    def handler(request: Json) -> Any:
        requests.append(request)
        return iter([[created, delta], []])

    request = {"tools": [TOOL]}
    batches = list(with_hidden_tool_secrets(handler, request)(request))

    assert batches == [[{**created, "response": {"id": "r", "tools": [REDACTED_TOOL]}}, delta], []]
    assert requests == [{"tools": [TOOL]}]


@check_each("tools", [None, [], [{"type": "function", "name": "f"}]])
def test_with_hidden_tools_without_mcp_returns_the_same_handler(tools: Any) -> None:
    def handler(request: Json) -> Any:
        return iter(())

    assert with_hidden_tool_secrets(handler, {"tools": tools}) is handler
