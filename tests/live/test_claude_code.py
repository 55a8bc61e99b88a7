"""Claude Code works through a task over a Chat and over a Responses upstream."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.fake_provider import ScriptedUpstream
from tests.fake_provider.answers import Answer, Call
from tests.fake_provider.scenarios import HELLO
from tests.hosted_tools.search_server import PAGE, serving_search
from tests.live.clients import CLAUDE_CODE, needs_program, run_offline
from tests.live.conftest import Serve, make_settings

pytestmark = [pytest.mark.slow, needs_program(CLAUDE_CODE, "npm ci --prefix tests/live/node")]


RESPONSES = {"RESPONSES_MODELS": "claude-*=gpt-5", "RESPONSES_PROVIDER": "openai"}


def run_claude(workspace: Path, base_url: str, prompt: str) -> list[dict[str, Any]]:
    """The events that Claude Code prints while it works on a prompt."""
    output = run_offline(
        [
            CLAUDE_CODE,
            "--print",
            "--output-format=stream-json",
            "--verbose",
            "--dangerously-skip-permissions",
            prompt,
        ],
        workspace / "home",
        workspace / "work",
        {
            "ANTHROPIC_BASE_URL": base_url,
            "ANTHROPIC_API_KEY": "none",
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
            "DISABLE_AUTOUPDATER": "1",
            "IS_SANDBOX": "1",  # it refuses to skip permissions as root otherwise
        },
    )
    return [json.loads(line) for line in output.splitlines() if line.startswith("{")]


def list_blocks(events: list[dict[str, Any]], role: str) -> list[dict[str, Any]]:
    messages = [event["message"] for event in events if event["type"] == role]
    return [block for message in messages for block in message["content"]]


@pytest.mark.parametrize("upstream_api", ["chat", "responses"])
def test_claude_code_edits_a_file_and_runs_a_command(
    upstream_api: str, workspace: Path, serve: Serve, upstream: ScriptedUpstream
) -> None:
    models = {"chat": {"CHAT_MODELS": "claude-*=gpt-5"}, "responses": RESPONSES}[upstream_api]
    forwarder = serve(make_settings(upstream, **models))
    file = workspace / "work" / "greeting.txt"
    file.write_text("Hello\n")
    edit = {"file_path": str(file), "old_string": "Hello", "new_string": "Good day"}
    upstream.script(
        Answer(reasoning="I read it first.", calls=[Call("Read", {"file_path": str(file)})])
    )
    upstream.script(Answer(reasoning="I change it.", calls=[Call("Edit", edit)]))
    run = {"command": "cat greeting.txt > copy.txt", "description": "Copy the file"}
    upstream.script(Answer(reasoning="I copy it.", calls=[Call("Bash", run)]))
    upstream.script(Answer(reasoning="All is done.", text=HELLO))

    events = run_claude(workspace, forwarder.url, "make the greeting polite, and copy it")

    assert file.read_text() == "Good day\n"
    assert (workspace / "work" / "copy.txt").read_text() == "Good day\n"
    blocks = list_blocks(events, "assistant")
    thoughts = [block["thinking"] for block in blocks if block["type"] == "thinking"]
    assert thoughts == ["I read it first.", "I change it.", "I copy it.", "All is done."]
    assert [block["name"] for block in blocks if block["type"] == "tool_use"] == [
        "Read",
        "Edit",
        "Bash",
    ]
    assert events[-1]["type"] == "result"
    assert events[-1]["result"] == HELLO
    assert events[-1]["is_error"] is False
    bodies = [r.body for r in upstream.requests if r.method == "POST"]
    assert {body["model"] for body in bodies} == {"gpt-5"}
    assert_reasoning_went_back(upstream_api, bodies[-1])


def assert_reasoning_went_back(upstream_api: str, body: dict[str, Any]) -> None:
    """The last request has the reasoning of all earlier rounds."""
    if upstream_api == "chat":
        messages = [m for m in body["messages"] if m["role"] == "assistant"]
        assert [m["reasoning_content"] for m in messages] == [
            "I read it first.",
            "I change it.",
            "I copy it.",
        ]
    else:
        items = [item for item in body["input"] if item["type"] == "reasoning"]
        assert len(items) == 3
        assert all(item["encrypted_content"] for item in items)


@pytest.mark.parametrize("upstream_api", ["chat", "responses"])
def test_claude_code_searches_the_web(
    upstream_api: str, workspace: Path, serve: Serve, upstream: ScriptedUpstream
) -> None:
    """Its tool asks in a request of its own, whose search runs in the forwarder."""
    with serving_search() as engine:
        forwarder = serve(
            make_settings(
                upstream,
                **{f"{upstream_api.upper()}_MODELS": "claude-*=big"},
                **{f"{upstream_api.upper()}_HOSTED_TOOLS": "none"},
                FORWARDER_WEB_SEARCH="searxng",
                FORWARDER_WEB_SEARCH_URL=engine,
            )
        )
        upstream.script(Answer(calls=[Call("WebSearch", {"query": "cats"})]))
        upstream.script(Answer(calls=[Call("web_search", {"query": "cats"})]))
        upstream.script(Answer(text=f"Cats sleep ([Cats]({PAGE['url']}))."))
        upstream.script(Answer(text=HELLO))

        events = run_claude(workspace, forwarder.url, "search for cats")

    results = [block for block in list_blocks(events, "user") if block["type"] == "tool_result"]
    assert PAGE["url"] in json.dumps(results)
    assert "Cats sleep" in json.dumps(results)
    assert events[-1]["result"] == HELLO
