"""aider edits a file and commits it, without the model's reasoning."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.fake_provider import ScriptedUpstream
from tests.fake_provider.answers import Answer
from tests.fake_provider.scenarios import THOUGHT
from tests.live.clients import AIDER, needs_program, run_offline
from tests.live.server import Server

VENV = "tests/live/aider/.venv"
pytestmark = [
    pytest.mark.slow,
    needs_program(
        AIDER,
        f"python3 -m venv {VENV} && {VENV}/bin/pip install -r tests/live/aider/requirements.txt",
    ),
]

QUIET = [
    f"--{option}"
    for option in (
        *("analytics-disable", "no-check-update", "no-show-release-notes", "no-detect-urls"),
        *("no-show-model-warnings", "no-gitignore", "no-pretty", "no-suggest-shell-commands"),
        "yes-always",
    )
]

EDIT = "made.txt\n```\nIt is made.\n```\n"
"""A whole file, as aider asks for it."""


def run_aider(workspace: Path, base_url: str, prompt: str) -> str:
    """The output of aider while it follows a prompt in a new repository."""
    home, work = workspace / "home", workspace / "work"
    caches = home / ".aider" / "caches"
    caches.mkdir(parents=True)
    # A list of prices that is fresh is not fetched.
    (caches / "model_prices_and_context_window.json").write_text(json.dumps({"none": {}}))
    for command in (
        ["init", "-q"],
        ["config", "user.email", "a@b.c"],
        ["config", "user.name", "A"],
    ):
        subprocess.run(["git", *command], cwd=work, check=True)
    model = ["--model", "openai/probe-x", "--openai-api-base", base_url, "--openai-api-key", "none"]
    return run_offline(
        [AIDER, *model, *QUIET, "--map-tokens", "0", "--message", prompt],
        home,
        work,
        {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "GIT_CONFIG_GLOBAL": "/dev/null"},
    )


def test_aider_commits_an_edit_and_shows_reasoning(
    workspace: Path, forwarder: Server, upstream: ScriptedUpstream
) -> None:
    """It sends no name of its own, so its base path says that it renders ``reasoning_content``."""
    upstream.script(
        Answer(reasoning=THOUGHT, text=EDIT), Answer(reasoning=THOUGHT, text="feat: Make it")
    )

    output = run_aider(workspace, f"{forwarder.url}/reasoning_content/v1", "make it")

    assert "THINKING" in output
    assert THOUGHT in output
    assert "[thinking]" not in output
    assert (workspace / "work" / "made.txt").read_text() == "It is made.\n"
    log = ["git", "log", "-1", "--format=%s"]
    commit_message = subprocess.run(
        log, cwd=workspace / "work", capture_output=True, text=True, check=True
    )
    assert commit_message.stdout.strip() == "feat: Make it"
