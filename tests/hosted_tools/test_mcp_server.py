"""MCP servers: the operator's file, identities and secrets."""

from __future__ import annotations

import json
from typing import Any

import pytest

from forwarder.hosted_tools.mcp_server import (
    McpServer,
    is_allowed_header,
    is_label,
    is_server_url,
    parse_server_file,
)
from tests.helpers.check_cases import check_each

HEADERS = {"Authorization": "Bearer sesame-4711"}


def test_operators_file_names_urls_and_commands() -> None:
    servers = parse_server_file(
        json.dumps(
            {
                "mcpServers": {
                    "remote": {"url": "https://mcp.example/mcp", "headers": HEADERS},
                    "local": {"command": "npx", "args": ["-y", "x"], "env": {"A": "b"}, "cwd": "/"},
                }
            }
        )
    )
    assert servers["remote"] == McpServer(
        "remote", url="https://mcp.example/mcp", headers=HEADERS, is_trusted=True
    )
    assert servers["local"].command == ("npx", "-y", "x")
    assert servers["local"].directory == "/"
    assert servers["local"].is_trusted


@check_each(
    ("content", "reason"),
    [
        ("{", "not JSON"),
        ({}, "mcpServers"),
        ({"mcpServers": {"a b": {"url": "http://h/"}}}, "label"),
        ({"mcpServers": {"a": {}}}, "'a' must have either"),
        ({"mcpServers": {"a": {"url": "http://h/", "command": "c"}}}, "'a' must have either"),
        ({"mcpServers": {"a": {"url": "h"}}}, "'a.url'"),
        ({"mcpServers": {"a": {"url": "http://h/", "headers": {"Host": "h"}}}}, "'a.headers'"),
        ({"mcpServers": {"a": {"url": "http://h/", "headers": {"X": 1}}}}, "'a.headers'"),
        ({"mcpServers": {"a": {"command": ""}}}, "'a.command'"),
        ({"mcpServers": {"a": {"command": "c", "args": "x"}}}, "'a.args'"),
        ({"mcpServers": {"a": {"command": "c", "env": {"A": 1}}}}, "'a.env'"),
        ({"mcpServers": {"a": {"command": "c", "cwd": 1}}}, "'a.cwd'"),
    ],
)
def test_mistake_in_the_operators_file_is_named(content: Any, reason: str) -> None:
    text = content if isinstance(content, str) else json.dumps(content)
    with pytest.raises(ValueError, match=reason):
        parse_server_file(text)


def test_identity_depends_on_the_credentials_but_not_on_the_label() -> None:
    server = McpServer("a", url="http://h/", headers=HEADERS)
    assert server.identity == McpServer("b", url="http://h/", headers=dict(HEADERS)).identity
    assert server.identity != McpServer("a", url="http://h/").identity
    assert (
        server.identity
        != McpServer("a", url="http://h/", headers=HEADERS, is_trusted=True).identity
    )


def test_secrets_have_the_name_the_form_or_the_place_of_one() -> None:
    remote = McpServer(
        "a", url="http://h/mcp?api_key=hunter2-hunter2", headers={**HEADERS, "X-Mode": "production"}
    )
    local = McpServer(
        "b", command=("npx",), environment={"LOG": "debugging", "GITHUB_TOKEN": "ghp-4711-abcd"}
    )

    assert {*remote.find_secrets()} == {"hunter2-hunter2", "Bearer", "sesame-4711"}
    assert [*local.find_secrets()] == ["ghp-4711-abcd"]


def test_secrets_are_redacted() -> None:
    server = McpServer(
        "a", url="http://h/mcp?api_key=hunter2-hunter2", headers={**HEADERS, "X": "on"}
    )
    assert server.hide_secrets("bad: Bearer sesame-4711") == "bad: ***"
    assert server.hide_secrets("sesame-4711 hunter2-hunter2 on") == "*** *** on"
    assert "sesame" not in repr(server)


@check_each(
    ("url", "expected"),
    [
        ("https://h/mcp?a=b", True),
        ("http://[::1]:8000/mcp", True),
        ("ftp://h/", False),
        ("http:///mcp", False),
        ("http://u@h/", False),
        ("http://h/#x", False),
        ("http://h:99999/", False),
        ("http://h/ x", False),
        ("http://h/" + "x" * 2048, False),
    ],
)
def test_server_urls_are_checked(url: str, expected: bool) -> None:
    assert is_server_url(url) is expected


def test_labels_and_headers_are_checked() -> None:
    assert is_label("git_hub-2")
    assert not is_label("")
    assert not is_label("a" * 65)
    assert is_allowed_header("X-Key", "a b")
    for name, value in [("X Y", "a"), ("Content-Length", "1"), ("X", "a\n"), ("X", 1), ("X", "")]:
        assert not is_allowed_header(name, value)
