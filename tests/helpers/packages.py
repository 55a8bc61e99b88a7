"""Imports packages that only tests with real clients need."""

from __future__ import annotations

import importlib
import os
from types import ModuleType

import pytest


def import_client(name: str) -> ModuleType:
    """Import a client's package; if it is missing, skip the test, or fail with REQUIRE_CLIENTS=1."""
    if os.environ.get("REQUIRE_CLIENTS") == "1":
        return importlib.import_module(name)
    package = name.partition(".")[0]
    install_command = "pip install -r tests/live/requirements.txt"
    module: ModuleType = pytest.importorskip(
        name, reason=f"{package} is not installed: {install_command}"
    )
    return module
