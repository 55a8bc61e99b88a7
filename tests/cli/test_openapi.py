"""The ``openapi`` command prints the document that the server has."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from forwarder.app import create_app
from forwarder.cli.main import main
from forwarder.config.settings import Settings

ENVIRONMENT = {"FORWARDER_DATABASE_URL": "none", "FORWARDER_PUBLIC_URL": "https://api.test"}


def test_command_prints_the_document_of_the_server(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("os.environ", ENVIRONMENT)
    monkeypatch.chdir(tmp_path)
    app = create_app(Settings.from_env(ENVIRONMENT))

    result = CliRunner().invoke(main, ["openapi"])

    assert result.exit_code == 0, result.output
    document = app.test_client().get("/openapi.json").json
    assert json.loads(result.stdout) == document
    assert document is not None
    assert document["servers"][0]["url"] == "https://api.test"


def test_command_of_flask_prints_it_too() -> None:
    app = create_app(Settings.from_env(ENVIRONMENT))

    result = app.test_cli_runner().invoke(args=["openapi"])

    assert json.loads(result.stdout)["openapi"] == "3.1.0"
