"""Destination, format and level of log records."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator

import pytest

from forwarder.config.settings import Settings
from forwarder.observability.log_formats import JsonFormatter, TextFormatter
from forwarder.observability.logging import configure_logging, log_configuration, make_formatter
from tests.helpers.check_cases import check_each

log = logging.getLogger("forwarder.anything")


@pytest.fixture(autouse=True)
def _restore_logger() -> Iterator[None]:
    """Restore the global logger after the test."""
    root = logging.getLogger("forwarder")
    before = root.handlers[:], root.level, root.propagate
    yield
    root.handlers[:], root.level, root.propagate = before


def read_settings(**environ: str) -> Settings:
    return Settings.from_env({f"FORWARDER_{name}": value for name, value in environ.items()})


def test_records_go_to_standard_error_once(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(read_settings())
    configure_logging(read_settings(LOG_LEVEL="WARNING"))

    log.info("unheard")
    log.warning("heard", extra={"event": "e"})

    [text] = capsys.readouterr().err.splitlines()
    logged = json.loads(text)
    assert (logged["event"], logged["message"]) == ("e", "heard")


def test_least_level_wins_over_a_lower_setting(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(read_settings(LOG_LEVEL="DEBUG"), min_level="WARNING")
    log.info("unheard")
    configure_logging(read_settings(LOG_LEVEL="ERROR"), min_level="WARNING")
    log.warning("unheard")

    assert capsys.readouterr().err == ""


@check_each(
    ("name", "terminal", "is_text"),
    [
        ("auto", True, True),
        ("auto", False, False),
        ("text", False, True),
        ("json", True, False),
    ],
)
def test_format_is_text_on_a_terminal_or_by_the_setting(
    name: str, terminal: bool, is_text: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal, raising=False)

    formatter = make_formatter(read_settings(LOG_FORMAT=name))

    assert type(formatter) is (TextFormatter if is_text else JsonFormatter)


@check_each(
    ("variables", "terminal", "has_color"),
    [
        ({}, True, True),
        ({}, False, False),
        ({"NO_COLOR": "1"}, True, False),
        ({"NO_COLOR": ""}, True, True),
        ({"TERM": "dumb"}, True, False),
        ({"FORCE_COLOR": "1"}, False, True),
        ({"FORCE_COLOR": "1", "TERM": "dumb"}, False, True),
        ({"FORCE_COLOR": "1", "NO_COLOR": "1"}, True, False),
    ],
)
def test_text_has_colors_on_a_terminal_or_by_the_environment(
    variables: dict[str, str], terminal: bool, has_color: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal, raising=False)
    settings = Settings.from_env({"FORWARDER_LOG_FORMAT": "text", **variables})

    record = logging.LogRecord("forwarder.x", logging.WARNING, "x.py", 1, "m", (), None)

    assert ("\x1b[" in make_formatter(settings).format(record)) is has_color


def test_missing_upstreams_and_weak_secrets_are_warned_about(
    capsys: pytest.CaptureFixture[str],
) -> None:
    configure_logging(read_settings())

    log_configuration(read_settings(SECRET_KEY="short"))

    events = [json.loads(line)["event"] for line in capsys.readouterr().err.splitlines()]
    assert events == ["demo_upstream", "weak_secret_key"]
