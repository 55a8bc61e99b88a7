"""The paths of the real clients, and the markers that skip tests without them.

``REQUIRE_CLIENTS=1`` makes a missing client a failure instead of a skip.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
NODE = HERE / "node"
CODEX = NODE / "node_modules" / ".bin" / "codex"
OPENCODE = NODE / "node_modules" / "opencode-linux-x64" / "bin" / "opencode"
"""The program itself, which npm's ``opencode-ai`` only wraps."""
CLINE = NODE / "node_modules" / "@cline" / "cli-linux-x64" / "bin" / "cline"
"""The program itself, which npm's ``cline`` only wraps."""
CLAUDE_CODE = NODE / "node_modules" / "@anthropic-ai" / "claude-code-linux-x64" / "claude"
"""The program itself, which npm's ``@anthropic-ai/claude-code`` only wraps."""
AIDER = HERE / "aider" / ".venv" / "bin" / "aider"

_REQUIRED = os.environ.get("REQUIRE_CLIENTS") == "1"


NOWHERE = "http://127.0.0.1:9"
"""A port without a listener."""

OFFLINE = {
    "HTTP_PROXY": NOWHERE,
    "HTTPS_PROXY": NOWHERE,
    "https_proxy": NOWHERE,
    "NO_PROXY": "127.0.0.1,localhost",
    "npm_config_registry": NOWHERE,
    "DO_NOT_TRACK": "1",
}
"""Keeps all requests of a program on this machine."""


def run_offline(
    command: Sequence[str | Path], home: Path, work: Path, environment: Mapping[str, str]
) -> str:
    """Run a program in ``work`` with its own home directory; return its output."""
    done = subprocess.run(
        command,
        cwd=work,
        env={"PATH": os.environ["PATH"], "HOME": str(home), **OFFLINE, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    return done.stdout


def make_http_options() -> dict[str, Any]:
    """Return httpx options for Ollama's clients. They keep no connections, as they are not closed."""
    import httpx

    return {"limits": httpx.Limits(max_keepalive_connections=0), "timeout": 10, "trust_env": False}


def needs_node_package(name: str) -> pytest.MarkDecorator:
    """Skip unless node and an npm package are installed (``npm ci`` in ``tests/live/node``)."""
    is_installed = shutil.which("node") is not None and (NODE / "node_modules" / name).is_dir()
    install_command = "npm ci --prefix tests/live/node"
    return skip_unless(is_installed, f"{name} is not installed: {install_command}")


def needs_program(path: Path, install_command: str) -> pytest.MarkDecorator:
    """Skip unless a program is installed; ``install_command`` is the command that installs it."""
    return skip_unless(path.is_file(), f"{path.name} is not installed: {install_command}")


def needs_python_package(name: str) -> pytest.MarkDecorator:
    """Skip unless a Python client can be imported."""
    install_command = "pip install -r tests/live/requirements.txt"
    is_installed = importlib.util.find_spec(name) is not None
    return skip_unless(is_installed, f"{name} is not installed: {install_command}")


def skip_unless(is_installed: bool, reason: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(not is_installed and not _REQUIRED, reason=reason)
