"""Start of gunicorn from other directories and with wrong options."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from gunicorn.config import Config

from forwarder.server import gunicorn_check as under_test
from forwarder.server.gunicorn_check import (
    EXIT_WILL_NOT_LOAD,
    WORKER_CLASS,
    find_gunicorn_mistake,
    refuse_to_load,
)
from forwarder.server.gunicorn_worker import Worker
from tests.live.server import find_free_port

pytestmark = [pytest.mark.live, pytest.mark.slow]

ROOT = Path(__file__).parents[2]
GUNICORN = (sys.executable, "-m", "gunicorn")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout with its own ``.env`` file."""
    path = tmp_path / "checkout"
    path.mkdir()
    for name in ("wsgi.py", "gunicorn.conf.py"):
        shutil.copy(ROOT / name, path)
    (path / "forwarder").symlink_to(ROOT / "forwarder")
    (path / ".env").write_text(
        "FORWARDER_DATABASE_URL=none\nCHAT_BASE_URL=http://127.0.0.1:9/v1\nCHAT_API_KEY=k\n"
        "FORWARDER_API_KEYS=key-of-the-env-file\n"
    )
    return path


@pytest.fixture
def other_folder(tmp_path: Path) -> Path:
    path = tmp_path / "elsewhere"
    path.mkdir()
    return path


def make_environment() -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if k in ("PATH", "HOME", "LANG", "TMPDIR")}


def run(*options: str, cwd: Path, **more: str) -> tuple[int, str]:
    """Return exit code and output of a gunicorn that exits."""
    done = subprocess.run(
        [*GUNICORN, "-b", f"127.0.0.1:{find_free_port()}", *options, "wsgi:app"],
        cwd=cwd,
        env={**make_environment(), **more},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
    )
    return done.returncode, done.stdout


@contextlib.contextmanager
def serving(*options: str, cwd: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Start gunicorn; return its address and process."""
    url = f"http://127.0.0.1:{find_free_port()}"
    log_path = cwd / "log"
    command = [*GUNICORN, "-b", url.removeprefix("http://"), *options, "wsgi:app"]
    with log_path.open("wb") as log:
        process = subprocess.Popen(command, cwd=cwd, env=make_environment(), stdout=log, stderr=log)
    try:
        _wait(lambda: _get_status(f"{url}/health") == 200, log_path)
        yield url, process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait(is_done: Callable[[], bool], log_path: Path, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not is_done():
        assert time.monotonic() < deadline, log_path.read_text()
        time.sleep(0.05)


def _get_status(url: str, **headers: str) -> int:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=5) as got:
            return int(got.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code
    except OSError:
        return 0


def test_no_mistake_is_found_outside_of_gunicorn() -> None:
    assert find_gunicorn_mistake() is None


def test_the_worker_is_found_under_its_name() -> None:
    assert f"{Worker.__module__}.{Worker.__qualname__}" == WORKER_CLASS


class LoadingWorker:
    """One of three workers that gunicorn starts together."""

    def __init__(self, age: int, ends_after: int | None) -> None:
        self.age = age
        self.cfg = Config()
        self.cfg.set("workers", 3)
        self._looks_left = ends_after

    @property
    def alive(self) -> bool:
        """False after SIGTERM."""
        if self._looks_left is None:
            return True
        self._looks_left -= 1
        return self._looks_left > 0

    def load(self) -> None:
        refuse_to_load("The forwarder did not start: why.")


@pytest.mark.parametrize("ends_after", [None, 0, 3])
def test_one_worker_stops_gunicorn(
    ends_after: int | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(under_test, "MAX_WAIT_SECONDS", 0.3)
    codes = []
    for age in (4, 5, 6):
        with pytest.raises(SystemExit) as raised:
            LoadingWorker(age, ends_after).load()
        codes.append(raised.value.code)

    expected_code = 0 if ends_after is not None else EXIT_WILL_NOT_LOAD
    assert codes == [EXIT_WILL_NOT_LOAD, expected_code, expected_code]
    assert capsys.readouterr().err == "The forwarder did not start: why.\n" * 3


def test_refusal_exits_at_once_without_gunicorn() -> None:
    with pytest.raises(SystemExit) as raised:
        refuse_to_load("why")

    assert raised.value.code == EXIT_WILL_NOT_LOAD


def test_several_workers_with_a_wrong_setting_end_without_a_traceback(checkout: Path) -> None:
    code, output = run("-w", "2", cwd=checkout, FORWARDER_MAX_BODY="x")

    assert code == EXIT_WILL_NOT_LOAD, output
    assert "The configuration of the forwarder is invalid" in output
    assert "Traceback" not in output


@pytest.mark.parametrize("options", [(), ("--preload",), ("--check-config",), ("-w", "2")])
def test_gunicorn_does_not_start_without_the_settings_file(
    options: tuple[str, ...], checkout: Path, other_folder: Path
) -> None:
    code, output = run(*options, cwd=other_folder, PYTHONPATH=str(checkout))

    assert code != 0
    lines = [line for line in output.splitlines() if line.startswith("The forwarder")]
    assert len(set(lines)) == 1, output
    assert "'sync'" in lines[0]
    assert "-c /path/to/gunicorn.conf.py" in lines[0]
    assert "Traceback" not in output


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (("-k", "gthread"), "'gthread'"),
        (("--threads", "4", "-k", "sync"), "'gthread'"),
        (("-k", "gevent"), "'gevent'"),
        (("-k", "sync", "--preload"), "'sync'"),
        (("--preload",), "without --preload"),
    ],
)
def test_options_that_change_the_worker_are_refused(
    options: tuple[str, ...], word: str, checkout: Path
) -> None:
    code, output = run(*options, cwd=checkout)

    assert code == 4, output
    assert output.count("The forwarder did not start: ") >= 1
    assert word in output
    assert "Traceback" not in output


def test_gunicorn_settings_can_be_used_from_another_directory(
    checkout: Path, other_folder: Path
) -> None:
    conf = os.path.relpath(checkout / "gunicorn.conf.py", other_folder)
    (other_folder / ".env").write_text("FORWARDER_API_KEYS=other\n")
    with serving("-c", conf, cwd=other_folder) as (url, process):
        log = (other_folder / "log").read_text()
        assert f"Using worker: {WORKER_CLASS}" in log

        def models(key: str) -> int:
            return _get_status(f"{url}/v1/models", Authorization=f"Bearer {key}")

        assert (models("key-of-the-env-file"), models("other")) == (200, 401)

        (checkout / ".env").write_text(
            "FORWARDER_DATABASE_URL=none\nFORWARDER_API_KEYS=key-of-the-next-env-file\n"
        )
        process.send_signal(signal.SIGHUP)
        _wait(lambda: models("key-of-the-next-env-file") == 200, other_folder / "log")
        _wait(lambda: models("key-of-the-env-file") == 401, other_folder / "log")


def test_gunicorn_settings_can_be_checked_from_another_directory(
    checkout: Path, other_folder: Path
) -> None:
    conf = str(checkout / "gunicorn.conf.py")
    for options, cwd in (((), checkout), (("-c", conf), other_folder)):
        code, output = run(*options, "--check-config", cwd=cwd)
        assert (code, "The forwarder did not start" in output) == (0, False)
