"""Commands for registered models."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from forwarder.app import create_app
from forwarder.cli import models
from forwarder.config.settings import Settings
from tests.fake_provider import ScriptedUpstream
from tests.helpers.loopback import find_unused_port

KEY = "sk-remote-secret"

Run = Callable[..., tuple[int, str]]


@pytest.fixture
def upstream() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream(keys={KEY}) as scripted:
        yield scripted


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Run a command on the test's database; return exit code and output."""

    def command(
        *arguments: str, given: str = "", key: str | None = None, **environment: str
    ) -> tuple[int, str]:
        settings = {
            "FORWARDER_LOG_LEVEL": "ERROR",
            "FORWARDER_DATABASE_URL": f"sqlite:///{tmp_path}/state.db",
            "FORWARDER_REMOTE_ALLOW": "127.0.0.1",
            "CHAT_BASE_URL": f"http://127.0.0.1:{find_unused_port()}/v1",
            "CHAT_MODELS": "fast=quick",
            **environment,
        }
        runner = create_app(Settings.from_env(settings)).test_cli_runner()
        env = {models.KEY_VARIABLE: key}
        result = runner.invoke(args=arguments, input=given, env=env)
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result.exit_code, result.output

    return command


def create(run: Run, upstream: ScriptedUpstream, name: str = "mine") -> None:
    code, told = run("models", "create", name, "--from=scripted", "--host", upstream.url, key=KEY)
    assert code == 0, told


def test_models_are_created_listed_and_deleted(run: Run, upstream: ScriptedUpstream) -> None:
    code, told = run(
        *("models", "create", "mine", "--from=scripted", "--host", upstream.url),
        *("--parameter", "temperature=0.5", "--parameter", "stop=END", "--system", "Be kind."),
        "--key-stdin",
        given=f"{KEY}\n",
    )
    assert (code, told.partition(", ")[0]) == (0, "mine: reachable")
    assert "key accepted, model known" in told

    code, told = run("models", "list")
    assert [line.split() for line in told.splitlines()[1:]] == [["mine", "scripted", upstream.url]]
    code, told = run("models", "show", "mine:latest")
    shown = json.loads(told)
    assert (shown["system"], shown["remote_model"]) == ("Be kind.", "scripted")
    assert shown["parameters"].split() == ["temperature", "0.5", "stop", '"END"']
    assert KEY not in told

    assert run("models", "rm", "mine") == (0, "removed mine\n")
    code, told = run("models", "rm", "mine")
    assert (code, "model 'mine' not found" in told) == (1, True)
    assert run("models", "list")[1].splitlines() == ["NAME  REMOTE MODEL  HOST"]

    code, printed = run("models", "rm", "configured", CHAT_MODELS="configured")
    assert (code, "cannot be deleted here" in printed) == (1, True)


def test_a_key_in_the_command_line_is_refused(run: Run, upstream: ScriptedUpstream) -> None:
    arguments = ("models", "create", "mine", "--from=x", "--host", upstream.url, "--key", KEY)
    code, told = run(*arguments)

    assert code == 2
    assert "REMOTE_API_KEY" in told
    assert KEY not in told
    assert "--key " not in run("models", "create", "--help")[1]


def test_key_is_prompted_for_in_a_terminal(
    run: Run, upstream: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "is_terminal", lambda: True)
    code, told = run(
        *("models", "create", "mine", "--from=scripted", "--host", upstream.url), given=f"{KEY}\n"
    )

    assert code == 0, told
    assert "key" in told
    assert KEY not in told


def test_errors_are_printed(run: Run, upstream: ScriptedUpstream) -> None:
    arguments = ("models", "create", "mine", "--from=scripted", "--host", upstream.url)
    code, told = run(*arguments, key="sk-another-key")
    assert code == 1
    assert "does not accept 'remote_api_key'" in told
    assert "sk-another-key" not in told

    assert run(*arguments, "--no-verify", key="sk-another-key")[0] == 0


def test_another_name_needs_no_host(run: Run) -> None:
    assert run("models", "create", "kind", "--from=fast", "--system=x") == (0, "kind: registered\n")
    assert json.loads(run("models", "show", "kind")[1])["remote_model"] == "quick"
    assert run("models", "list")[1].splitlines()[1].split() == ["kind", "fast", "-"]
    code, told = run("models", "create", "kinder", "--from=fast", "--type=ollama")
    assert (code, "'remote_type' requires 'remote_host'" in told) == (1, True)


def test_check_reports_failing_remotes(run: Run, upstream: ScriptedUpstream) -> None:
    create(run, upstream)
    code, told = run("models", "check", "mine")
    assert (code, told.startswith("mine: reachable, key accepted, model known")) == (0, True)

    code, told = run("models", "check")
    lines = told.splitlines()
    assert code == 1
    assert lines[0].startswith("chat: host wrong: ")
    assert lines[1].startswith("mine: reachable")
    assert run("models", "check", "gone")[0] == 1
    code, told = run("models", "check", "mine", FORWARDER_SECRET_KEY="another")
    assert (code, told) == (1, "mine: key wrong: its key cannot be decrypted\n")


def test_rotate_re_encrypts_all_keys(run: Run, upstream: ScriptedUpstream, tmp_path: Path) -> None:
    create(run, upstream)
    code, told = run("secrets", "rotate")
    assert (code, "beside the database" in told) == (1, True)
    kept = (tmp_path / "state.db.key").read_text().strip()

    code, told = run("secrets", "rotate", FORWARDER_SECRET_KEY=f"new,{kept}")
    assert (code, told) == (0, "re-encrypted: the keys of 1 models, 0 other rows\n")

    assert run("models", "check", "mine", FORWARDER_SECRET_KEY="new")[0] == 0
    assert run("models", "check", "mine", FORWARDER_SECRET_KEY=kept)[0] == 1
    code, told = run("secrets", "rotate", FORWARDER_SECRET_KEY=kept)
    assert (code, "no secret decrypts the keys of: mine" in told) == (1, True)


def test_commands_fail_without_a_database(run: Run) -> None:
    for arguments in (("models", "rm", "x"), ("secrets", "rotate")):
        code, told = run(*arguments, FORWARDER_DATABASE_URL="none", FORWARDER_SECRET_KEY="s")
        assert code == 1
        assert "FORWARDER_DATABASE_URL" in told
