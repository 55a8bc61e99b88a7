"""``forwarder check``: lists all mistakes, or a summary without secrets."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from forwarder.cli.main import main


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("os.environ", {})
    monkeypatch.chdir(tmp_path)


def check(*settings: str) -> Result:
    if settings:
        Path(".env").write_text("\n".join(settings))
    return CliRunner().invoke(main, ["check"])


def test_without_settings_the_demo_is_reported_and_no_file_is_made(tmp_path: Path) -> None:
    result = check()

    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.splitlines() == [
        "The configuration is valid.",
        "  upstream  chat: built-in demo, speaks chat",
        "  upstream  responses: built-in demo, speaks responses",
        "  clients   need no key until one is made at run time",
        "  database  forwarder.db",
        "  serves    127.0.0.1:8000, 1 worker",
    ]
    assert list(tmp_path.iterdir()) == []


def test_the_summary_shows_no_secret() -> None:
    result = check(
        "CHAT_BASE_URL=https://api.deepseek.com/v1",
        "CHAT_API=both",
        "CHAT_API_KEY=hidden-1",
        "FORWARDER_API_KEYS=hidden-2,hidden-3",
        "FORWARDER_DATABASE_URL=postgresql://user:hidden-4@db.test/forwarder",
        "FORWARDER_SECRET_KEY=hidden-5",
        "GUNICORN_BIND=0.0.0.0:9",
        "WEB_CONCURRENCY=4",
    )

    assert result.exit_code == 0, result.stderr
    assert result.stdout.splitlines()[1:] == [
        "  upstream  chat: api.deepseek.com, speaks chat and responses",
        "  clients   need one of 2 keys, or one made at run time",
        "  database  postgresql",
        "  serves    0.0.0.0:9, 4 workers",
    ]
    assert "hidden" not in result.output


def test_the_summary_has_endpoints_and_groups() -> None:
    result = check(
        "CHAT_BASE_URL=http://a.test/v1,http://b.test/v1",
        "CHAT_API_KEY=hidden-1,hidden-2",
        "FORWARDER_GROUPS=fast=chat/one*2>chat/two",
    )

    assert result.exit_code == 0, result.stderr
    assert result.stdout.splitlines()[1:3] == [
        "  upstream  chat: a.test, 4 endpoints, speaks chat",
        "  group     fast: chat/one, chat/two",
    ]
    assert "hidden" not in result.output


def test_every_mistake_is_listed_once_and_the_exit_code_is_2() -> None:
    result = check(
        "CHAT_BASE_URL=nonsense",
        "FORWARDER_STRICT=maybe",
        "FORWARDER_STRIKT=true",
        "WEB_CONCURRENCY=0",
        "GUNICORN_TIMEOUT=soon",
    )

    assert (result.exit_code, result.stdout) == (2, "")
    head, *mistakes = result.stderr.splitlines()
    assert head == "Error: the configuration is invalid:"
    assert sorted(line.partition(" ")[0] for line in mistakes) == [
        "CHAT_BASE_URL",
        "FORWARDER_STRICT",
        "FORWARDER_STRIKT",
        "GUNICORN_TIMEOUT",
        "WEB_CONCURRENCY",
    ]


def test_a_settings_file_that_does_not_exist_is_a_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.environ", {"FORWARDER_DOTENV": "absent.env"})

    result = check()

    assert result.exit_code == 2
    assert "FORWARDER_DOTENV must be the path of a file" in result.stderr


def test_web_search_by_an_unknown_server_is_a_mistake() -> None:
    Path("mcp.json").write_text('{"mcpServers": {"web": {"command": "true"}}}')
    result = check("FORWARDER_MCP_SERVERS=mcp.json", "FORWARDER_WEB_SEARCH=mcp:other/search")

    assert result.exit_code == 2
    assert "must name a server in FORWARDER_MCP_SERVERS" in result.stderr
