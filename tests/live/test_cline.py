"""Cline's command line works through a task, and shows reasoning as reasoning."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.fake_provider import ScriptedUpstream
from tests.fake_provider.answers import Answer, Call
from tests.fake_provider.scenarios import HELLO, THOUGHT
from tests.live.clients import CLINE, needs_program, run_offline
from tests.live.server import Server

pytestmark = [pytest.mark.slow, needs_program(CLINE, "npm ci --prefix tests/live/node")]


def configure(forwarder: Server) -> dict[str, Any]:
    """The configuration that ``cline auth`` would store."""
    provider = "openai-compatible"
    settings = {"provider": provider, "apiKey": "none", "model": "probe-x", "baseUrl": forwarder.v1}
    entry = {
        "settings": settings,
        "updatedAt": "2026-11-01T00:00:00.000Z",
        "tokenSource": "manual",
    }
    return {
        "version": 1,
        "lastUsedProvider": provider,
        "modes": {},
        "providers": {provider: entry},
    }


def run_cline(workspace: Path, forwarder: Server, prompt: str) -> list[Any]:
    """The events of an answer to a prompt."""
    data = workspace / "data"
    (data / "settings").mkdir(parents=True)
    (data / "settings" / "providers.json").write_text(json.dumps(configure(forwarder)))
    output = run_offline(
        # Without a directory for its data Cline leaves a daemon behind.
        [CLINE, "--data-dir", data, "--json", prompt],
        workspace / "home",
        workspace / "work",
        {"CLINE_NO_AUTO_UPDATE": "1"},
    )
    events = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    return [event["event"] for event in events if event["type"] == "agent_event"]


def test_cline_runs_a_command_and_shows_reasoning(
    workspace: Path, forwarder: Server, upstream: ScriptedUpstream
) -> None:
    call = Call("run_commands", {"commands": ["echo made > made.txt"]})
    upstream.script(Answer(reasoning="I make it.", calls=[call]))
    upstream.script(Answer(reasoning=THOUGHT, text=HELLO))

    events = run_cline(workspace, forwarder, "make it")

    assert (workspace / "work" / "made.txt").exists()
    content_ends = [event for event in events if event["type"] == "content_end"]
    thoughts = [e["reasoning"] for e in content_ends if e["contentType"] == "reasoning"]
    assert thoughts == ["I make it.", THOUGHT]
    assert [e["text"] for e in content_ends if e["contentType"] == "text"] == [HELLO]
    assert len([r for r in upstream.requests if r.method == "POST"]) == 2
