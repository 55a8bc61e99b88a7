"""Where the real clients are, and what to say when one is missing.

``REQUIRE_CLIENTS=1`` makes a missing client a failure instead of a skip.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

NODE = Path(__file__).parent / "node"
CODEX = NODE / "node_modules" / ".bin" / "codex"

_REQUIRED = os.environ.get("REQUIRE_CLIENTS") == "1"


def plain() -> dict[str, Any]:
    """What Ollama's clients hand to their httpx: nobody closes them, so connections are not kept."""
    import httpx

    return {"limits": httpx.Limits(max_keepalive_connections=0), "timeout": 10, "trust_env": False}


def needs_node_package(name: str) -> pytest.MarkDecorator:
    """Skip unless node and an npm package are there (``npm ci`` in ``tests/live/node``)."""
    there = shutil.which("node") is not None and (NODE / "node_modules" / name).is_dir()
    how = "npm ci --prefix tests/live/node"
    return pytest.mark.skipif(not there and not _REQUIRED, reason=f"{name} is not installed: {how}")


def needs_python_package(name: str) -> pytest.MarkDecorator:
    """Skip unless a Python client can be imported."""
    there = importlib.util.find_spec(name) is not None
    how = "pip install -r tests/live/requirements.txt"
    return pytest.mark.skipif(not there and not _REQUIRED, reason=f"{name} is not installed: {how}")
