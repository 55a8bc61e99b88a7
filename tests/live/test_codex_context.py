"""Codex continues a thread with a compaction that is too long for the upstream.

It trims its history and asks again only for the code ``context_length_exceeded``; with any other
error the thread stays stuck.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.fake_provider import ScriptedUpstream
from tests.fake_provider.answers import Answer, Call, Usage
from tests.live.clients import needs_node_package
from tests.live.server import Server
from tests.live.test_codex import ASKS_FOR_MODELS, run_codex_exec
from tests.live.test_error_codes import TOO_LONG, make_refusal

pytestmark = needs_node_package("@openai/codex")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder for Codex to work in, with a home of its own beside it."""
    (tmp_path / "home").mkdir()
    (tmp_path / "work").mkdir()
    return tmp_path


@pytest.mark.parametrize("wording", ["vllm", "deepseek"])
@pytest.mark.parametrize("name", ["OpenAI", "forwarder"])
def test_a_compaction_that_is_too_long_completes(
    name: str, wording: str, folder: Path, forwarder: Server, upstream: ScriptedUpstream
) -> None:
    """The provider called OpenAI compacts on request; for other providers Codex compacts itself."""
    makes = Call("exec_command", {"cmd": "echo made > made.txt"})
    upstream.script(
        Answer(text="I make it.", calls=[makes], usage=Usage(input=900_000)),
        make_refusal(TOO_LONG[wording]),
        Answer(text="SUMMARY: it is made."),
        Answer(text="All is done."),
    )

    output = run_codex_exec(folder, forwarder, "make it", "chat/scripted", ASKS_FOR_MODELS, name)

    assert "context compacted" in output
    assert "All is done." in output
    _, full, trimmed, last = [r.body["messages"] for r in upstream.requests if r.method == "POST"]
    assert len(json.dumps(trimmed)) < len(json.dumps(full))
    assert "SUMMARY: it is made." in json.dumps(last)
