"""Commands for client keys and the encryption of the database."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from forwarder.app import create_app
from forwarder.config.settings import Settings
from tests.helpers.check_cases import check_each

Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    def command(*arguments: str, **environment: str) -> Result:
        settings = {
            "FORWARDER_LOG_LEVEL": "ERROR",
            "FORWARDER_DATABASE_URL": f"sqlite:///{tmp_path}/state.db",
            **environment,
        }
        app = create_app(Settings.from_env(settings))
        result = app.test_cli_runner().invoke(args=arguments)
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return command


def send_chat(tmp_path: Path, key: str) -> int:
    """Return the status of a request to an application on the same database."""
    settings = {"FORWARDER_DATABASE_URL": f"sqlite:///{tmp_path}/state.db"}
    client = create_app(Settings.from_env(settings)).test_client()
    body = {"model": "demo", "messages": [{"role": "user", "content": "Hi"}]}
    headers = {"Authorization": f"Bearer {key}"}
    return client.post("/v1/chat/completions", json=body, headers=headers).status_code


def read_key(run: Run, name: str = "alice") -> Any:
    return json.loads(run("keys", "show", name).stdout)


def test_create_prints_only_the_key_to_standard_output(run: Run, tmp_path: Path) -> None:
    assert send_chat(tmp_path, "anything") == 200
    created = run("keys", "create", "alice", "--models", "demo,gpt-*", "--rpm", "5", "--tpm",
                  "1000", "--budget", "5 usd/month", "--expires", "30d", "--reasoning", "none")  # fmt: skip
    key = created.stdout.strip()
    assert created.exit_code == 0
    assert key.startswith("sk-fwd-")
    assert "every client needs a key" in created.stderr
    assert "every client" not in run("keys", "create", "bob").stderr
    assert (send_chat(tmp_path, key), send_chat(tmp_path, "anything")) == (200, 401)

    details = read_key(run)
    assert (details["models"], details["requests_per_minute"]) == (["demo", "gpt-*"], 5)
    assert (details["tokens_per_minute"], details["budget"]) == (1000, "5 usd/month")
    assert (details["reasoning"], details["budget_used"]) == (["none"], 0)
    assert key not in run("keys", "list").output + run("keys", "show", "alice").output


def test_create_warns_that_optional_keys_do_not_protect(run: Run) -> None:
    created = run("keys", "create", "alice", FORWARDER_CLIENT_KEYS="optional")
    assert "Clients need no key" in created.stderr


def test_list_shows_state_and_limits(run: Run) -> None:
    run("keys", "create", "alice", "--rpm", "5", "--budget", "9 tokens/day")
    run("keys", "create", "bob")
    assert run("keys", "revoke", "bob").output == "revoked bob\n"
    lines = run("keys", "list").output.splitlines()
    assert lines[0].split() == [
        "NAME", "STATE", "KEY", "MODELS", "LIMITS", "EXPIRES", "LAST", "USED",
    ]  # fmt: skip
    assert "alice  active" in lines[1]
    assert "5 rpm, 9 tokens/day" in lines[1]
    assert "bob    revoked" in lines[2]


def test_change_sets_and_removes_limits(run: Run) -> None:
    run("keys", "create", "alice", "--rpm", "5", "--models", "demo")
    changed = run("keys", "change", "alice", "--rpm", "none", "--tpm", "7", "--reasoning", "none")
    assert changed.output == "alice: 7 tpm\n"
    details = read_key(run)
    assert (details["requests_per_minute"], details["models"]) == (None, ["demo"])
    assert details["reasoning"] == ["none"]


def test_rotate_prints_a_new_key_and_keeps_the_previous_one_for_a_while(
    run: Run, tmp_path: Path
) -> None:
    first = run("keys", "create", "alice").stdout.strip()
    rotated = run("keys", "rotate", "alice", "--grace", "10m")
    assert "previous key stays valid until" in rotated.stderr
    assert (send_chat(tmp_path, first), send_chat(tmp_path, rotated.stdout.strip())) == (200, 200)
    third = run("keys", "rotate", "alice")
    assert (send_chat(tmp_path, first), send_chat(tmp_path, third.stdout.strip())) == (401, 200)


@check_each(
    ("arguments", "code", "message"),
    [
        (("keys", "revoke", "nobody"), 1, "There is no client key 'nobody'."),
        (("keys", "show", "nobody"), 1, "There is no client key 'nobody'."),
        (("keys", "create", "a b"), 1, "Invalid value for 'name'"),
        (("keys", "create", "a", "--budget", "much"), 1, "Invalid value for 'budget'"),
        (("keys", "create", "a", "--rpm", "many"), 2, "--rpm must be a number"),
        (("keys", "change", "a"), 2, "name a limit"),
    ],
)
def test_mistakes_are_printed(
    arguments: tuple[str, ...], code: int, message: str, run: Run
) -> None:
    result = run(*arguments)
    assert result.exit_code == code
    assert message in result.output


def test_without_a_database_there_are_no_keys(run: Run) -> None:
    result = run("keys", "list", FORWARDER_DATABASE_URL="none")
    assert result.exit_code == 1
    assert "no database" in result.output


def test_old_name_of_the_rotation_of_secrets_warns(run: Run) -> None:
    secrets = {"FORWARDER_SECRET_KEY": "a-long-and-random-secret"}
    old, new = run("keys", "rotate", **secrets), run("secrets", "rotate", **secrets)
    assert old.stdout == new.stdout == "re-encrypted: the keys of 0 models, 0 other rows\n"
    assert 'is now "forwarder secrets rotate"' in old.stderr
    assert new.stderr == ""
