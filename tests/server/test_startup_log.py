"""The record of the start: content, and which processes write it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import click
import pytest
from flask import Flask
from gunicorn.config import Config

from forwarder import __version__
from forwarder.app import create_app
from forwarder.config.settings import Settings
from forwarder.server import startup_log
from forwarder.server.startup_log import hide_path_secrets, log_start, make_local
from tests.helpers.check_cases import check_each


@pytest.fixture
def log_messages() -> Iterator[list[Any]]:
    """The messages of the application's logger during the test."""
    messages: list[Any] = []

    class RecordingHandler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            messages.append(record.msg)

    log, handler = logging.getLogger("forwarder.app"), RecordingHandler()
    log.addHandler(handler)
    yield messages
    log.removeHandler(handler)


def make_app(**environ: str) -> Flask:
    return create_app(Settings.from_env({"FORWARDER_DATABASE_URL": "none", **environ}))


class GunicornWorker:
    """A gunicorn worker as the application that it loads sees it."""

    def __init__(self, age: int = 1, names: tuple[Any, ...] = (("127.0.0.1", 8000),)) -> None:
        self.cfg = Config()
        self.cfg.set("workers", 2)
        self.age = age
        self.sockets = [SimpleNamespace(getsockname=lambda name=name: name) for name in names]

    def load(self, app: Flask) -> None:
        log_start(app)


def test_start_is_logged_with_upstreams_and_addresses(log_messages: list[Any]) -> None:
    app = make_app(
        FORWARDER_UPSTREAMS="chat,other,open",
        CHAT_BASE_URL="https://api.deepseek.com/v1",
        CHAT_API_KEY="sk-secret-of-the-upstream",
        CHAT_QUERY="token=query-secret",
        OTHER_BASE_URL="https://up.test/a1b2c3d4e5f6a7b8c9d0e1f2/v1",
        OTHER_API_KEY="passthrough",
        OTHER_API="both",
        OPEN_BASE_URL="http://127.0.0.1:9/v1",
        FORWARDER_API_KEYS="client-secret",
        FORWARDER_CAPTURE="memory",
    )
    log_messages.clear()

    GunicornWorker(names=(("0.0.0.0", 8000), ("::", 8000, 0, 0), "/run/forwarder")).load(app)

    [started] = log_messages
    addresses = ["http://0.0.0.0:8000", "http://[::]:8000", "unix:/run/forwarder"]
    assert started.pop("console") == startup_log.list_console_urls(
        app, Settings.from_env({}), addresses
    )
    assert started == {
        "event": "started",
        "version": __version__,
        "upstreams": [
            {
                "name": "chat",
                "url": "https://api.deepseek.com/v1",
                "protocols": ["chat"],
                "profile": "deepseek",
                "key": "own",
            },
            {
                "name": "other",
                "url": "https://up.test/***/v1",
                "protocols": ["chat", "responses"],
                "profile": "generic",
                "key": "client",
            },
            {
                "name": "open",
                "url": "http://127.0.0.1:9/v1",
                "protocols": ["chat"],
                "profile": "generic",
                "key": "none",
            },
        ],
        "needs_keys": True,
        "capture": "memory",
        "store": "none",
        "addresses": addresses,
    }
    assert "secret" not in str(started)


@check_each(
    ("log_format", "age", "is_logged"),
    [
        ("json", 1, True),
        ("json", 2, True),
        ("text", 1, True),
        ("text", 2, False),
        ("text", 3, True),  # the first one after a reload
    ],
)
def test_text_log_has_the_start_once_for_all_workers(
    log_format: str, age: int, is_logged: bool, log_messages: list[Any]
) -> None:
    app = make_app(FORWARDER_LOG_FORMAT=log_format)
    log_messages.clear()

    GunicornWorker(age).load(app)

    assert bool(log_messages) is is_logged


@check_each(
    ("parameters", "addresses"),
    [
        ({"host": "127.0.0.1", "port": 5000, "cert": None}, [["http://127.0.0.1:5000"]]),
        ({"host": "::1", "port": 5000, "cert": "adhoc"}, [["https://[::1]:5000"]]),
        (None, []),
    ],
)
def test_start_of_flask_run_is_logged_and_other_commands_are_silent(
    parameters: dict[str, Any] | None, addresses: list[list[str]], log_messages: list[Any]
) -> None:
    app = make_app()
    log_messages.clear()
    context = click.Context(click.Command("x"), info_name="models" if parameters is None else "run")
    context.params = parameters or {}

    with context:
        log_start(app)

    assert [each["addresses"] for each in log_messages] == addresses


def test_application_without_a_server_is_not_announced(log_messages: list[Any]) -> None:
    app = make_app()
    log_messages.clear()
    log_start(app)

    assert log_messages == []


def test_console_is_named_if_the_application_has_one() -> None:
    app, bare = Flask("with"), Flask("without")
    app.add_url_rule("/console", view_func=lambda: "")
    addresses = ["http://0.0.0.0:8000", "unix:/run/forwarder"]
    public = Settings.from_env({"FORWARDER_PUBLIC_URL": "https://f.example"})

    assert startup_log.list_console_urls(bare, Settings.from_env({}), addresses) == []
    assert startup_log.list_console_urls(app, Settings.from_env({}), addresses) == [
        "http://127.0.0.1:8000/console"
    ]
    assert startup_log.list_console_urls(app, public, addresses) == ["https://f.example/console"]


@check_each(
    ("address", "expected"),
    [
        ("http://0.0.0.0:80", "http://127.0.0.1:80"),
        ("http://[::]:80", "http://[::1]:80"),
        ("http://10.0.0.1:80", "http://10.0.0.1:80"),
    ],
)
def test_wildcard_addresses_become_local(address: str, expected: str) -> None:
    assert make_local(address) == expected


@check_each(
    ("url", "expected"),
    [
        ("https://u:p@h.test:8443/v1?key=k#f", "https://h.test:8443/v1"),
        ("https://h.test/openai/deployments/gpt-4o", "https://h.test/openai/deployments/gpt-4o"),
        ("https://h.test/v1/0123456789abcdef0123/x", "https://h.test/v1/***/x"),
    ],
)
def test_addresses_are_shown_without_secrets(url: str, expected: str) -> None:
    assert hide_path_secrets(url) == expected
