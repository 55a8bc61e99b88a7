"""Codex CLI works through tasks over a Chat upstream: it runs commands and applies patches."""

from __future__ import annotations

import json
import os
import subprocess
from functools import partial
from pathlib import Path

import pytest

from tests.fake_provider import ScriptedUpstream
from tests.fake_provider.answers import Answer, Call, Usage
from tests.live.clients import CODEX, OFFLINE, needs_node_package
from tests.live.server import Server

pytestmark = [pytest.mark.slow, needs_node_package("@openai/codex")]

CONFIG = """
model = "{model}"
model_provider = "forwarder"

[model_providers.forwarder]
name = "{name}"
base_url = "{url}"
wire_api = "responses"
request_max_retries = 0
stream_max_retries = 0
supports_websockets = {websockets}
"""

ON_LOOPBACK = """
check_for_update_on_startup = false
analytics.enabled = false
feedback.enabled = false
otel.metrics_exporter = "none"
"""
"""Codex has nothing to tell anybody, and asks for no newer version."""

ASKS_FOR_MODELS = """
[model_providers.forwarder.auth]
command = "echo"
args = ["any-key"]
"""
"""A command tells the key; Codex then asks the provider for its models, too."""


@pytest.fixture
def workshop(tmp_path: Path) -> Path:
    """An empty folder for Codex to work in, with a home of its own beside it."""
    (tmp_path / "home").mkdir()
    (tmp_path / "work").mkdir()
    return tmp_path


def run_codex_exec(
    workshop: Path,
    forwarder: Server,
    prompt: str,
    model: str,
    more: str = "",
    name: str = "forwarder",
    websockets: str = "false",
    resume: bool = False,
) -> str:
    """Run ``codex exec`` on a prompt, with ``more`` in its settings; return its output."""
    config = CONFIG.format(model=model, url=forwarder.v1, name=name, websockets=websockets) + more
    last = ["resume", "--last"] if resume else []
    return run_codex(workshop, forwarder, config, UNATTENDED, *last, prompt)


UNATTENDED = "--dangerously-bypass-approvals-and-sandbox"


def run_codex(
    workshop: Path, forwarder: Server, config: str, *arguments: str, **variables: str
) -> str:
    """Run ``codex exec`` with a configuration and variables; return its output."""
    (workshop / "home" / "config.toml").write_text(ON_LOOPBACK + config)
    command = [str(CODEX), "exec", "--skip-git-repo-check", *arguments]
    env = {
        "PATH": os.environ["PATH"],
        "HOME": str(workshop / "home"),
        "CODEX_HOME": str(workshop / "home"),
        **OFFLINE,
    }
    done = subprocess.run(
        command,
        cwd=workshop / "work",
        env=env | variables,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-3000:] + forwarder.log[-2000:]
    return done.stdout + done.stderr


def test_a_command_leaves_a_file_behind(
    workshop: Path, forwarder: Server, upstream: ScriptedUpstream
) -> None:
    """The model calls the shell tool over Chat Completions, and Codex runs it."""
    run_codex_exec(workshop, forwarder, "go [[scenario:shell_loop file=made.txt]]", "probe-resp")

    assert (workshop / "work" / "made.txt").exists()
    assert {r.path for r in upstream.requests if r.method == "POST"} == {"/v1/chat/completions"}


def test_a_patch_leaves_a_file_behind(
    workshop: Path, forwarder: Server, upstream: ScriptedUpstream
) -> None:
    """The freeform ``apply_patch`` tool wears a function upstream and is unwrapped again."""
    run_codex_exec(
        workshop, forwarder, "go [[scenario:apply_patch_loop file=patched.txt]]", "gpt-5.5"
    )

    assert (workshop / "work" / "patched.txt").exists()
    assert {r.path for r in upstream.requests if r.method == "POST"} == {"/v1/chat/completions"}


UNKNOWN = "Model metadata for `{}` not found"


def test_codex_knows_models_that_the_forwarder_lists(
    workshop: Path, forwarder: Server, upstream: ScriptedUpstream
) -> None:
    """With its entry in the catalog, Codex neither warns nor guesses."""
    unasked = run_codex_exec(workshop, forwarder, "go [[scenario:text]]", "chat/scripted")
    asked = run_codex_exec(
        workshop, forwarder, "go [[scenario:text]]", "chat/scripted", ASKS_FOR_MODELS
    )

    assert UNKNOWN.format("chat/scripted") in unasked
    assert UNKNOWN.format("chat/scripted") not in asked


def test_a_known_model_works_with_the_tools_of_its_entry(
    workshop: Path, forwarder: Server, upstream: ScriptedUpstream
) -> None:
    prompt = "go [[scenario:apply_patch_loop file=patched.txt]]"

    said = run_codex_exec(workshop, forwarder, prompt, "chat/scripted", ASKS_FOR_MODELS)

    assert UNKNOWN.format("chat/scripted") not in said
    assert (workshop / "work" / "patched.txt").exists()
    sent = [r.body for r in upstream.requests if r.method == "POST"]
    assert {body["model"] for body in sent} == {"scripted"}
    assert not any("reasoning_effort" in body for body in sent), "nobody asked for an effort"


@pytest.mark.parametrize("name", ["OpenAI", "forwarder"])
def test_a_session_continues_after_compaction(
    name: str, workshop: Path, forwarder: Server, upstream: ScriptedUpstream
) -> None:
    """Codex is over its limit in the midst of its work, has it compacted, and goes on.

    It demands that of the server only where the provider is called OpenAI, and else does it itself.
    """
    makes = Call("exec_command", {"cmd": "echo made > made.txt"})
    upstream.script(
        Answer(text="I make it.", calls=[makes], usage=Usage(input=900_000)),
        Answer(text="SUMMARY: it is made."),
        Answer(text="All is done."),
    )

    said = run_codex_exec(workshop, forwarder, "make it", "chat/scripted", ASKS_FOR_MODELS, name)

    assert "context compacted" in said
    assert "All is done." in said
    assert (workshop / "work" / "made.txt").exists()
    _, summed_up, last = [r.body for r in upstream.requests if r.method == "POST"]
    assert "tools" not in summed_up
    assert "SUMMARY: it is made." in json.dumps(last["messages"])
    assert "exec_command" not in json.dumps(last["messages"])


@pytest.mark.parametrize("websockets", ["false", "true"])
def test_a_session_that_was_compacted_can_be_resumed(
    websockets: str, workshop: Path, forwarder: Server, upstream: ScriptedUpstream
) -> None:
    """The second process sends the sealed reasoning of the first one back."""
    ask = partial(run_codex_exec, workshop, forwarder, model="chat/scripted", more=ASKS_FOR_MODELS)
    same = {"name": "OpenAI", "websockets": websockets}
    makes = Call("exec_command", {"cmd": "echo made > made.txt"})
    upstream.script(
        Answer(text="I make it.", calls=[makes], usage=Usage(input=900_000)),
        Answer(text="SUMMARY: it is made."),
        Answer(text="All is done."),
    )
    ask(prompt="make it", **same)
    upstream.script(Answer(text="It was made."))

    said = ask(prompt="was it made?", resume=True, **same)

    assert "It was made." in said
    told = json.dumps(upstream.requests[-1].body["messages"])
    assert "SUMMARY: it is made." in told
    assert "All is done." in told
    assert "exec_command" not in told


def test_codex_works_over_a_websocket(
    workshop: Path, forwarder: Server, upstream: ScriptedUpstream
) -> None:
    """It prepares a response, and sends only new items in each turn."""
    prompt = "go [[scenario:shell_then_patch file=made.txt patched=patched.txt]]"

    run_codex_exec(workshop, forwarder, prompt, "chat/scripted", ASKS_FOR_MODELS, websockets="true")

    assert (workshop / "work" / "made.txt").exists()
    assert (workshop / "work" / "patched.txt").exists()
    assert '"route":"websocket"' in forwarder.log
    sent = [r.body for r in upstream.requests if r.method == "POST"]
    assert [len(body["messages"]) for body in sent] == sorted({len(b["messages"]) for b in sent})
