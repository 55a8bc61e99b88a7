"""Packages of clients: found, skipped and required."""

from __future__ import annotations

import json

import pytest

from tests.helpers.packages import import_client

MISSING = "no_such_package_at_all"


def test_import_client_returns_the_module() -> None:
    assert import_client("json") is json


def test_import_client_skips_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REQUIRE_CLIENTS", raising=False)

    with pytest.raises(pytest.skip.Exception, match=f"{MISSING} is not installed: pip install"):
        import_client(f"{MISSING}.types")


def test_import_client_fails_if_clients_are_required(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REQUIRE_CLIENTS", "1")

    with pytest.raises(ModuleNotFoundError, match=MISSING):
        import_client(MISSING)
