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
        *arguments: str, stdin: str = "", key: str | None = None, **environment: str
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
        result = runner.invoke(args=arguments, input=stdin, env=env)
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result.exit_code, result.output

    return command


def create(run: Run, upstream: ScriptedUpstream, name: str = "mine") -> None:
    code, output = run("models", "create", name, "--from=scripted", "--host", upstream.url, key=KEY)
    assert code == 0, output


def test_models_are_created_listed_and_deleted(run: Run, upstream: ScriptedUpstream) -> None:
    code, output = run(
        *("models", "create", "mine", "--from=scripted", "--host", upstream.url),
        *("--parameter", "temperature=0.5", "--parameter", "stop=END", "--system", "Be kind."),
        "--key-stdin",
        stdin=f"{KEY}\n",
    )
    assert (code, output.partition(", ")[0]) == (0, "mine: reachable")
    assert "key accepted, model known" in output

    code, output = run("models", "list")
    assert [line.split() for line in output.splitlines()[1:]] == [
        ["mine", "scripted", upstream.url]
    ]
    code, output = run("models", "show", "mine:latest")
    details = json.loads(output)
    assert (details["system"], details["remote_model"]) == ("Be kind.", "scripted")
    assert details["parameters"].split() == ["temperature", "0.5", "stop", '"END"']
    assert KEY not in output

    assert run("models", "rm", "mine") == (0, "removed mine\n")
    code, output = run("models", "rm", "mine")
    assert (code, "model 'mine' not found" in output) == (1, True)
    assert run("models", "list")[1].splitlines() == ["NAME  REMOTE MODEL  HOST"]

    code, printed = run("models", "rm", "configured", CHAT_MODELS="configured")
    assert (code, "cannot be deleted here" in printed) == (1, True)


def test_a_key_in_the_command_line_is_refused(run: Run, upstream: ScriptedUpstream) -> None:
    arguments = ("models", "create", "mine", "--from=x", "--host", upstream.url, "--key", KEY)
    code, output = run(*arguments)

    assert code == 2
    assert "REMOTE_API_KEY" in output
    assert KEY not in output
    assert "--key " not in run("models", "create", "--help")[1]


def test_key_is_prompted_for_in_a_terminal(
    run: Run, upstream: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "is_terminal", lambda: True)
    code, output = run(
        *("models", "create", "mine", "--from=scripted", "--host", upstream.url), stdin=f"{KEY}\n"
    )

    assert code == 0, output
    assert "key" in output
    assert KEY not in output


def test_errors_are_printed(run: Run, upstream: ScriptedUpstream) -> None:
    arguments = ("models", "create", "mine", "--from=scripted", "--host", upstream.url)
    code, output = run(*arguments, key="sk-another-key")
    assert code == 1
    assert "does not accept 'remote_api_key'" in output
    assert "sk-another-key" not in output

    assert run(*arguments, "--no-verify", key="sk-another-key")[0] == 0


def test_alias_needs_no_host(run: Run) -> None:
    assert run("models", "create", "kind", "--from=fast", "--system=x") == (0, "kind: registered\n")
    assert json.loads(run("models", "show", "kind")[1])["remote_model"] == "quick"
    assert run("models", "list")[1].splitlines()[1].split() == ["kind", "fast", "-"]
    code, output = run("models", "create", "kinder", "--from=fast", "--type=ollama")
    assert (code, "'remote_type' requires 'remote_host'" in output) == (1, True)


def test_check_reports_failing_remotes(run: Run, upstream: ScriptedUpstream) -> None:
    create(run, upstream)
    code, output = run("models", "check", "mine")
    assert (code, output.startswith("mine: reachable, key accepted, model known")) == (0, True)

    code, output = run("models", "check")
    lines = output.splitlines()
    assert code == 1
    assert lines[0].startswith("chat: host wrong: ")
    assert lines[1].startswith("mine: reachable")
    assert run("models", "check", "gone")[0] == 1
    code, output = run("models", "check", "mine", FORWARDER_SECRET_KEY="another")
    assert (code, output) == (1, "mine: key wrong: its key cannot be decrypted\n")


def test_rotate_re_encrypts_all_keys(run: Run, upstream: ScriptedUpstream, tmp_path: Path) -> None:
    create(run, upstream)
    code, output = run("secrets", "rotate")
    assert (code, "beside the database" in output) == (1, True)
    old_secret = (tmp_path / "state.db.key").read_text().strip()

    code, output = run("secrets", "rotate", FORWARDER_SECRET_KEY=f"new,{old_secret}")
    assert (code, output) == (0, "re-encrypted: the keys of 1 models, 0 other rows\n")

    assert run("models", "check", "mine", FORWARDER_SECRET_KEY="new")[0] == 0
    assert run("models", "check", "mine", FORWARDER_SECRET_KEY=old_secret)[0] == 1
    code, output = run("secrets", "rotate", FORWARDER_SECRET_KEY=old_secret)
    assert (code, "no secret decrypts the keys of: mine" in output) == (1, True)


def test_commands_fail_without_a_database(run: Run) -> None:
    for arguments in (("models", "rm", "x"), ("secrets", "rotate")):
        code, output = run(*arguments, FORWARDER_DATABASE_URL="none", FORWARDER_SECRET_KEY="s")
        assert code == 1
        assert "FORWARDER_DATABASE_URL" in output
