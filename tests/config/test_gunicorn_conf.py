"""gunicorn's settings: defaults, environment, ``.env`` and mistakes."""

from __future__ import annotations

import ast
import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.check_cases import check_each

ROOT = Path(__file__).parents[2]
PATH = ROOT / "forwarder" / "config" / "gunicorn_conf.py"
IN_CHECKOUT = ROOT / "gunicorn.conf.py"
EXAMPLE = (ROOT / ".env.example").read_text(encoding="utf-8")


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An empty environment without the checkout's ``.env``."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))  # else the file creates a folder
    for name in ("FORWARDER_DOTENV", "PORT", *list_variables()):
        monkeypatch.delenv(name, raising=False)


def list_variables() -> list[str]:
    return re.findall(r'"((?:GUNICORN|WEB)_[A-Z_]+)"', PATH.read_text(encoding="utf-8"))


def run_config_file(path: Path = PATH) -> dict[str, Any]:
    """Return the variables that gunicorn reads after executing the file under this name."""
    return runpy.run_path(str(path), run_name="__config__")


def test_env_example_documents_every_setting() -> None:
    documented = dict(re.findall(r"^#((?:GUNICORN|WEB)_[A-Z_]+)=(.*)$", EXAMPLE, re.MULTILINE))

    assert documented == {row.variable: row.default for row in run_config_file()["SETTINGS"]}


def test_every_setting_exists_in_gunicorn() -> None:
    from gunicorn.config import KNOWN_SETTINGS

    known_names = {setting.name for setting in KNOWN_SETTINGS}

    names = [row.name for row in run_config_file()["SETTINGS"]]
    assert {*names, "chdir", "worker_class", "control_socket_disable"} <= known_names
    assert {"preload_app", "forwarder_headers"} <= known_names


def test_environment_overrides_file_and_file_overrides_defaults(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / ".env").write_text("WEB_CONCURRENCY=3\nGUNICORN_KEEPALIVE=5\nGUNICORN_TIMEOUT=\n")
    monkeypatch.setenv("GUNICORN_KEEPALIVE", " 7 ")

    settings = run_config_file()

    assert (settings["workers"], settings["keepalive"], settings["timeout"]) == (3, 7, 30)
    assert settings["bind"] == "127.0.0.1:8000"


def test_dotenv_file_is_read_on_every_execution(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "other"
    monkeypatch.setenv("FORWARDER_DOTENV", str(path))
    worker_counts = []
    for workers in ("2", "4"):
        path.write_text(f"WEB_CONCURRENCY={workers}\n")
        worker_counts.append(run_config_file()["workers"])
    monkeypatch.setenv("FORWARDER_DOTENV", "")

    assert [*worker_counts, run_config_file()["workers"]] == [2, 4, 1]


def test_checkout_reads_its_own_dotenv_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    shutil.copy(IN_CHECKOUT, checkout)
    (checkout / "forwarder").symlink_to(ROOT / "forwarder")
    (checkout / ".env").write_text("WEB_CONCURRENCY=3\n")
    (tmp_path / ".env").write_text("WEB_CONCURRENCY=5\n")

    settings = run_config_file(checkout / IN_CHECKOUT.name)
    assert (settings["workers"], settings["chdir"]) == (3, str(checkout.resolve()))

    monkeypatch.setenv("FORWARDER_DOTENV", ".env")
    assert run_config_file(checkout / IN_CHECKOUT.name)["workers"] == 5
    assert os.environ["FORWARDER_DOTENV"] == str(tmp_path / ".env")


def test_package_reads_the_dotenv_file_of_the_current_directory(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("WEB_CONCURRENCY=5\n")

    settings = run_config_file()

    assert (settings["workers"], settings["chdir"]) == (5, str(tmp_path))


def test_import_has_no_side_effects(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PROMETHEUS_MULTIPROC_DIR")
    monkeypatch.setenv("WEB_CONCURRENCY", "0")

    imported = runpy.run_path(str(PATH), run_name="forwarder.config.settings.gunicorn_conf")

    assert "workers" not in imported
    assert "PROMETHEUS_MULTIPROC_DIR" not in os.environ


def test_port_variable_sets_the_bind_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORT", "8080")
    assert run_config_file()["bind"] == "0.0.0.0:8080"

    monkeypatch.setenv("GUNICORN_BIND", "unix:/run/forwarder.sock")
    assert run_config_file()["bind"] == "unix:/run/forwarder.sock"


def test_all_mistakes_are_reported_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEB_CONCURRENCY", "0")
    monkeypatch.setenv("GUNICORN_TIMEOUT", "soon")

    with pytest.raises(SystemExit) as caught:
        run_config_file()

    assert caught.value.code == (
        "WEB_CONCURRENCY must be a whole number from 1\n"
        "GUNICORN_TIMEOUT must be a whole number from 0"
    )


SERVER = ROOT / "forwarder" / "server"


@check_each(
    "path",
    [
        *(PATH, IN_CHECKOUT, SERVER / "gunicorn_worker.py", SERVER / "client_socket.py"),
        *(SERVER / "__init__.py", SERVER.parent / "__init__.py"),
    ],
    ids=lambda path: f"{path.parent.name}/{path.name}",
)
def test_gunicorn_conf_imports_no_forwarder_module(path: Path) -> None:
    """Workers forked after a SIGHUP would run the modules that the master has imported."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    modules = [node.names[0].name for node in ast.walk(tree) if isinstance(node, ast.Import)]
    modules += [str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]

    forwarder_modules = {name for name in modules if name.partition(".")[0] == "forwarder"}
    assert forwarder_modules == (
        {"forwarder.server.client_socket"} if path.name == "gunicorn_worker.py" else set()
    )


@pytest.mark.live
def test_gunicorn_command_line_overrides_settings(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "gunicorn", "--print-config", "-w", "2", "wsgi:app"]
    env = {"PATH": "", "FORWARDER_DOTENV": "", "WEB_CONCURRENCY": "5", "GUNICORN_BACKLOG": "99"}
    env["GUNICORN_CMD_ARGS"] = "--backlog 77 --keep-alive 9"

    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=30)

    assert done.returncode == 0, done.stderr
    printed = dict(re.findall(r"^(\w+) += (.*)$", done.stdout, re.MULTILINE))
    assert [printed[name] for name in ("workers", "backlog", "keepalive")] == ["2", "77", "9"]
    assert printed["forwarder_headers"] == "[]"
    assert printed["worker_class"] == "forwarder.server.gunicorn_worker.Worker"
