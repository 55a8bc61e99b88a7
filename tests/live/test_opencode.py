"""opencode works through a task over either protocol, and shows reasoning as reasoning."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.fake_provider import ScriptedUpstream
from tests.fake_provider.answers import Answer, Call
from tests.fake_provider.scenarios import HELLO, THOUGHT
from tests.live.clients import OPENCODE, needs_program, run_offline
from tests.live.server import Server

pytestmark = [pytest.mark.slow, needs_program(OPENCODE, "npm ci --prefix tests/live/node")]

QUIET = {
    f"OPENCODE_DISABLE_{name}": "1"
    for name in ("AUTOUPDATE", "DEFAULT_PLUGINS", "LSP_DOWNLOAD", "MODELS_FETCH", "SHARE")
}

UPSTREAM_OF = {"@ai-sdk/openai-compatible": "responses", "@ai-sdk/openai": "chat/completions"}
"""The package that opencode speaks through -> what the forwarder asks of its upstream."""


def run_opencode(workspace: Path, forwarder: Server, package: str, prompt: str) -> list[Any]:
    """The parts of the answer to a prompt, through a provider of the given package."""
    provider = {
        "npm": package,
        "options": {"baseURL": forwarder.v1, "apiKey": "none"},
        "models": {"gpt-5.5": {"reasoning": True, "tool_call": True}},
    }
    config = {"model": "forwarder/gpt-5.5", "provider": {"forwarder": provider}}
    options = ["--pure", "--format", "json", "--thinking", "--auto", "--title", "A task"]
    output = run_offline(
        [OPENCODE, "run", *options, prompt],
        workspace / "home",
        workspace / "work",
        {**QUIET, "OPENCODE_CONFIG_CONTENT": json.dumps(config)},
    )
    return [json.loads(line)["part"] for line in output.splitlines()]


@pytest.mark.parametrize("package", UPSTREAM_OF)
def test_opencode_runs_a_command_and_shows_reasoning(
    package: str, workspace: Path, forwarder: Server, upstream: ScriptedUpstream
) -> None:
    call = Call("bash", {"command": "echo made > made.txt"})
    upstream.script(Answer(reasoning="I make it.", calls=[call]))
    upstream.script(Answer(reasoning=THOUGHT, text=HELLO))

    parts = run_opencode(workspace, forwarder, package, "make it")

    assert (workspace / "work" / "made.txt").exists()
    thoughts = [part["text"] for part in parts if part["type"] == "reasoning"]
    assert thoughts == ["I make it.", THOUGHT]
    assert [part["text"] for part in parts if part["type"] == "text"] == [HELLO]
    requests = [r for r in upstream.requests if r.method == "POST"]
    assert {r.path for r in requests} == {f"/v1/{UPSTREAM_OF[package]}"}
    assert len(requests) == 2
