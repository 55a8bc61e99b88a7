"""``forwarder serve``: the gunicorn command line."""

from __future__ import annotations

import sys

import pytest
from click.testing import CliRunner

from forwarder.cli.main import main
from forwarder.config import gunicorn_conf

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
def test_options_become_those_of_gunicorn(
    options: list[str], expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[tuple[str, list[str]]] = []
    monkeypatch.setattr("os.execv", lambda path, command: started.append((path, command)))

    result = CliRunner().invoke(main, ["serve", *options])

    assert result.exit_code == 0, result.output
    assert started == [(sys.executable, [*GUNICORN, *expected, "forwarder.wsgi:app"])]


@pytest.mark.parametrize("options", [["--port", "70000"], ["--workers", "0"], ["stray"]])
def test_bad_options_start_nothing(options: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.execv", lambda *_: pytest.fail("gunicorn was started"))

    assert CliRunner().invoke(main, ["serve", *options]).exit_code == 2
