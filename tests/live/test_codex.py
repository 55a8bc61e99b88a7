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
"""Disables telemetry and the check for updates."""

ASKS_FOR_MODELS = """
[model_providers.forwarder.auth]
command = "echo"
args = ["any-key"]
"""
"""A command prints the key, so Codex also fetches the provider's list of models."""


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """An empty folder for Codex to work in, with a home of its own beside it."""
    (tmp_path / "home").mkdir()
    (tmp_path / "work").mkdir()
    return tmp_path


def run_codex_exec(
    workspace: Path,
    forwarder: Server,
    prompt: str,
    model: str,
    extra_config: str = "",
    name: str = "forwarder",
    websockets: str = "false",
    resume: bool = False,
) -> str:
    """Run ``codex exec`` on a prompt, with ``extra_config`` in its settings; return its output."""
    config = (
        CONFIG.format(model=model, url=forwarder.v1, name=name, websockets=websockets)
        + extra_config
    )
    resume_arguments = ["resume", "--last"] if resume else []
    return run_codex(workspace, forwarder, config, UNATTENDED, *resume_arguments, prompt)


UNATTENDED = "--dangerously-bypass-approvals-and-sandbox"


def run_codex(
    workspace: Path, forwarder: Server, config: str, *arguments: str, **variables: str
) -> str:
    """Run ``codex exec`` with a configuration and variables; return its output."""
    (workspace / "home" / "config.toml").write_text(ON_LOOPBACK + config)
    command = [str(CODEX), "exec", "--skip-git-repo-check", *arguments]
    env = {
        "PATH": os.environ["PATH"],
        "HOME": str(workspace / "home"),
        "CODEX_HOME": str(workspace / "home"),
        **OFFLINE,
    }
    done = subprocess.run(
        command,
        cwd=workspace / "work",
        env=env | variables,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-3000:] + forwarder.log[-2000:]
    return done.stdout + done.stderr


def test_command_creates_a_file(
    workspace: Path, forwarder: Server, upstream: ScriptedUpstream
) -> None:
    """The model calls the shell tool over Chat Completions, and Codex runs it."""
    run_codex_exec(workspace, forwarder, "go [[scenario:shell_loop file=made.txt]]", "probe-resp")

    assert (workspace / "work" / "made.txt").exists()
    assert {r.path for r in upstream.requests if r.method == "POST"} == {"/v1/chat/completions"}


def test_patch_creates_a_file(
    workspace: Path, forwarder: Server, upstream: ScriptedUpstream
) -> None:
    """The freeform ``apply_patch`` tool is sent upstream as a function and unwrapped again."""
    run_codex_exec(
        workspace, forwarder, "go [[scenario:apply_patch_loop file=patched.txt]]", "gpt-5.5"
    )

    assert (workspace / "work" / "patched.txt").exists()
    assert {r.path for r in upstream.requests if r.method == "POST"} == {"/v1/chat/completions"}


UNKNOWN = "Model metadata for `{}` not found"


def test_codex_knows_models_that_the_forwarder_lists(
    workspace: Path, forwarder: Server, upstream: ScriptedUpstream
) -> None:
    """With its entry in the catalog, Codex neither warns nor guesses."""
    output_without_catalog = run_codex_exec(
        workspace, forwarder, "go [[scenario:text]]", "chat/scripted"
    )
    output_with_catalog = run_codex_exec(
        workspace, forwarder, "go [[scenario:text]]", "chat/scripted", ASKS_FOR_MODELS
    )

    assert UNKNOWN.format("chat/scripted") in output_without_catalog
    assert UNKNOWN.format("chat/scripted") not in output_with_catalog


def test_a_known_model_works_with_the_tools_of_its_entry(
    workspace: Path, forwarder: Server, upstream: ScriptedUpstream
) -> None:
    prompt = "go [[scenario:apply_patch_loop file=patched.txt]]"

    output = run_codex_exec(workspace, forwarder, prompt, "chat/scripted", ASKS_FOR_MODELS)

    assert UNKNOWN.format("chat/scripted") not in output
    assert (workspace / "work" / "patched.txt").exists()
    sent = [r.body for r in upstream.requests if r.method == "POST"]
    assert {body["model"] for body in sent} == {"scripted"}
    assert not any("reasoning_effort" in body for body in sent), (
        "a request has an effort that Codex did not set"
    )


@pytest.mark.parametrize("name", ["OpenAI", "forwarder"])
def test_a_session_continues_after_compaction(
    name: str, workspace: Path, forwarder: Server, upstream: ScriptedUpstream
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

    output = run_codex_exec(workspace, forwarder, "make it", "chat/scripted", ASKS_FOR_MODELS, name)

    assert "context compacted" in output
    assert "All is done." in output
    assert (workspace / "work" / "made.txt").exists()
    _, summary_request, last = [r.body for r in upstream.requests if r.method == "POST"]
    assert "tools" not in summary_request
    assert "SUMMARY: it is made." in json.dumps(last["messages"])
    assert "exec_command" not in json.dumps(last["messages"])


@pytest.mark.parametrize("websockets", ["false", "true"])
def test_a_session_that_was_compacted_can_be_resumed(
    websockets: str, workspace: Path, forwarder: Server, upstream: ScriptedUpstream
) -> None:
    """The second process sends the sealed reasoning of the first one back."""
    run = partial(
        run_codex_exec, workspace, forwarder, model="chat/scripted", extra_config=ASKS_FOR_MODELS
    )
    options = {"name": "OpenAI", "websockets": websockets}
    makes = Call("exec_command", {"cmd": "echo made > made.txt"})
    upstream.script(
        Answer(text="I make it.", calls=[makes], usage=Usage(input=900_000)),
        Answer(text="SUMMARY: it is made."),
        Answer(text="All is done."),
    )
    run(prompt="make it", **options)
    upstream.script(Answer(text="It was made."))

    output = run(prompt="was it made?", resume=True, **options)

    assert "It was made." in output
    sent_messages = json.dumps(upstream.requests[-1].body["messages"])
    assert "SUMMARY: it is made." in sent_messages
    assert "All is done." in sent_messages
    assert "exec_command" not in sent_messages


def test_codex_works_over_a_websocket(
    workspace: Path, forwarder: Server, upstream: ScriptedUpstream
) -> None:
    """It prepares a response, and sends only new items in each turn."""
    prompt = "go [[scenario:shell_then_patch file=made.txt patched=patched.txt]]"

    run_codex_exec(
        workspace, forwarder, prompt, "chat/scripted", ASKS_FOR_MODELS, websockets="true"
    )

    assert (workspace / "work" / "made.txt").exists()
    assert (workspace / "work" / "patched.txt").exists()
    assert '"route":"websocket"' in forwarder.log
    sent = [r.body for r in upstream.requests if r.method == "POST"]
    assert [len(body["messages"]) for body in sent] == sorted({len(b["messages"]) for b in sent})
