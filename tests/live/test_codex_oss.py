"""``codex --oss``, which takes the forwarder for an Ollama and pulls models before it asks them."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.fake_provider import ScriptedUpstream
from tests.fake_provider.scenarios import HELLO
from tests.live.clients import CODEX, needs_node_package
from tests.live.conftest import Serve, make_settings
from tests.live.server import Server

pytestmark = needs_node_package("@openai/codex")


@pytest.fixture(scope="module")
def server(serve: Serve, upstream: ScriptedUpstream) -> Server:
    """A forwarder that serves models by a pattern, and does not list them."""
    return serve(make_settings(upstream, FORWARDER_UPSTREAMS="chat", CHAT_MODELS="oss-*"))


def run_codex(server: Server, directory: Path, model: str) -> subprocess.CompletedProcess[str]:
    for name in ("home", "work"):
        (directory / name).mkdir()
    home = str(directory / "home")
    options = ("--oss", "--local-provider", "ollama", "-m", model, "--skip-git-repo-check")
    return subprocess.run(
        [str(CODEX), "exec", *options, "say hi"],
        cwd=directory / "work",
        env={
            "PATH": os.environ["PATH"],
            "HOME": home,
            "CODEX_HOME": home,
            "CODEX_OSS_BASE_URL": server.v1,
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_codex_pulls_a_model_that_is_served_and_uses_it(server: Server, tmp_path: Path) -> None:
    done = run_codex(server, tmp_path, "oss-20b")

    assert done.returncode == 0, done.stderr
    assert "Pulling model oss-20b" in done.stderr
    assert HELLO in done.stdout


def test_codex_says_that_a_model_is_not_served(server: Server, tmp_path: Path) -> None:
    done = run_codex(server, tmp_path, "unknown-model")

    assert done.returncode != 0
    assert "pull model manifest: file does not exist" in done.stderr
