"""The ``forwarder`` command: subcommands and invalid settings."""

from __future__ import annotations

import json
import sqlite3
import sys
import threading
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import CliRunner
from flask.cli import FlaskGroup

from forwarder import __version__
from forwarder.app import create_app
from forwarder.cli.main import main
from forwarder.config import gunicorn_conf
from forwarder.config.settings import Settings
from forwarder.server.extension import get_extension
from forwarder.services import Services
from tests.helpers.empty_database import copy_empty_database
from tests.helpers.waiting import wait_until


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("os.environ", {"FORWARDER_DATABASE_URL": "none"})
    monkeypatch.chdir(tmp_path)


def test_help_lists_every_command_and_leaves_no_file(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["--help"])

    assert result.exit_code == 0
    commands = (
        *("serve", "check", "probe", "translate", "models", "keys", "secrets"),
        *("usage", "openapi", "replay"),
    )
    for command in commands:
        assert f"\n  {command} " in result.stdout
    assert list(tmp_path.iterdir()) == []


def test_serve_leaves_the_import_of_the_application_to_gunicorn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delitem(sys.modules, "forwarder.app")
    monkeypatch.setattr("os.execv", lambda program, arguments: None)

    assert CliRunner().invoke(main, ["serve", "--port", "1"]).exit_code == 0
    assert "forwarder.app" not in sys.modules


def test_an_unknown_command_is_reported() -> None:
    result = CliRunner().invoke(main, ["sevre"])

    assert result.exit_code == 2
    assert "No such command 'sevre'" in result.stderr


def test_the_version_is_the_package_s() -> None:
    assert CliRunner().invoke(main, ["--version"]).stdout == f"forwarder, version {__version__}\n"


def test_a_command_uses_the_settings_of_the_current_directory(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("CHAT_BASE_URL=http://up.test/v1\n")

    result = CliRunner().invoke(main, ["translate"], input='{"model": "m", "input": "hi"}')

    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["upstream"]["url"] == "http://up.test/v1/chat/completions"


def test_a_command_lists_all_mistakes_in_the_settings(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("CHAT_BASE_URL=nonsense\nFORWARDER_STRICT=maybe\n")

    result = CliRunner().invoke(main, ["models", "list"])

    assert (result.exit_code, result.stdout) == (2, "")
    assert "\nCHAT_BASE_URL must be" in result.stderr
    assert "\nFORWARDER_STRICT must be" in result.stderr


def test_a_command_reports_a_database_of_an_unreleased_version(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    copy_empty_database(tmp_path / "state.db")
    with closing(sqlite3.connect(tmp_path / "state.db")) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = '0009'")
    url = f"sqlite:///{tmp_path}/state.db"
    monkeypatch.setattr("os.environ", {"FORWARDER_DATABASE_URL": url})
    threads = threading.active_count()

    result = CliRunner().invoke(main, ["keys", "list"])

    assert (result.exit_code, result.stdout) == (1, "")
    assert "The database has schema version 0009" in result.stderr
    assert "Traceback" not in result.stderr
    wait_until(lambda: threading.active_count() <= threads)


def test_a_command_starts_no_background_loop_and_closes_what_it_opens(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ended: list[Services] = []
    close = Services.close
    monkeypatch.setattr(Services, "start", lambda self: pytest.fail("loops were started"))
    monkeypatch.setattr(Services, "close", lambda self: (close(self), ended.append(self))[0])
    (tmp_path / ".env").write_text("FORWARDER_HEALTH_INTERVAL=1\nFORWARDER_CAPTURE=memory\n")
    threads = threading.active_count()

    result = CliRunner().invoke(main, ["models", "list"])

    assert result.exit_code == 0, result.output
    assert len(ended) == 1
    assert threading.active_count() == threads


@pytest.mark.parametrize(
    ("arguments", "is_started"), [(["models", "list"], False), (["--help"], False), (["run"], True)]
)
def test_flask_starts_background_loops_only_to_serve(
    arguments: list[str], is_started: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[Services] = []
    monkeypatch.setattr(Services, "start", lambda self: started.append(self))
    monkeypatch.setattr("flask.cli.run_simple", lambda *_, **options: None)
    settings = Settings.from_env({"FORWARDER_DATABASE_URL": "none"})
    group = FlaskGroup(create_app=lambda: create_app(settings))

    result = CliRunner().invoke(group, arguments)

    assert result.exit_code == 0, result.output
    assert bool(started) is is_started


@pytest.mark.parametrize("level", ["INFO", "DEBUG"])
def test_a_command_writes_warnings_but_no_other_records(level: str, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(f"FORWARDER_SECRET_KEY=short\nFORWARDER_LOG_LEVEL={level}\n")

    result = CliRunner().invoke(main, ["models", "list"])

    logged = [json.loads(line) for line in result.stderr.splitlines()]
    assert [line["event"] for line in logged] == ["demo_upstream", "weak_secret_key"]


def test_a_command_of_flask_uses_the_services_of_its_application(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    app = create_app(Settings.from_env({"FORWARDER_DATABASE_URL": "none"}))
    monkeypatch.setattr(Services, "build", lambda *_: pytest.fail("services were built"))

    result = app.test_cli_runner().invoke(args=["models", "list"])

    assert result.exit_code == 0, result.output
    assert get_extension(app).services._is_closed is False


GUNICORN = [sys.executable, "-m", "gunicorn", "--config", gunicorn_conf.__file__]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], []),
        (["--port", "9000"], ["--bind", "127.0.0.1:9000"]),
        (["--host", "0.0.0.0"], ["--bind", "0.0.0.0:8000"]),
        (["--host", "::1", "--port", "0"], ["--bind", "[::1]:0"]),
        (["--workers", "3"], ["--workers", "3"]),
    ],
)
def test_serve_passes_options_to_gunicorn(
    options: list[str], expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[tuple[str, list[str]]] = []
    monkeypatch.setattr("os.execv", lambda path, command: started.append((path, command)))

    result = CliRunner().invoke(main, ["serve", *options])

    assert result.exit_code == 0, result.output
    assert started == [(sys.executable, [*GUNICORN, *expected, "forwarder.wsgi:app"])]


@pytest.mark.parametrize("options", [["--port", "70000"], ["--workers", "0"], ["stray"]])
def test_serve_refuses_bad_options(options: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.execv", lambda *_: pytest.fail("gunicorn was started"))

    assert CliRunner().invoke(main, ["serve", *options]).exit_code == 2
