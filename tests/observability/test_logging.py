"""JSON log lines."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from forwarder.observability import logging as logs
from tests.helpers.check_cases import check_each


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    """Restore the global logger after the test."""
    log = logging.getLogger("forwarder")
    before = log.handlers[:], log.level, log.propagate
    yield
    log.handlers[:], log.level, log.propagate = before[0], before[1], before[2]


def line(message: Any, *args: Any, **more: Any) -> dict[str, Any]:
    record = logging.LogRecord("forwarder.x", logging.INFO, "x.py", 1, message, args, None)
    record.__dict__.update(more)
    text = logs.JsonFormatter().format(record)
    assert "\n" not in text
    parsed: dict[str, Any] = json.loads(text)
    return parsed


def test_log_line_has_time_level_and_message() -> None:
    said = line("hello %s\nthere", "Zürich", created=0.25, msecs=250)

    assert said == {
        "time": "1970-01-01T00:00:00.250Z",
        "level": "info",
        "logger": "forwarder.x",
        "message": "hello Zürich\nthere",
    }


def test_a_dict_is_merged_into_the_line() -> None:
    said = line({"id": "req_1", "status": 200, "odd": {1}})

    assert (said["id"], said["status"], said["odd"]) == ("req_1", 200, "{1}")
    assert "message" not in said


def test_text_message_is_logged_with_its_event(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure_logging("INFO")
    logging.getLogger("forwarder.x").info("try %d", 2, extra={"event": "upstream_retry"})

    logged = json.loads(capsys.readouterr().err)
    assert (logged["event"], logged["message"]) == ("upstream_retry", "try 2")


def test_dict_message_is_logged_with_its_event() -> None:
    logged = line({"event": "request_done", "status": 200})

    assert (logged["event"], logged["status"]) == ("request_done", 200)
    assert "message" not in logged


def test_values_of_clients_are_cut() -> None:
    body = {"input": "x" * 5000}
    names = ["n" * 5000, *"abc" * 20]
    said = line({"model": "m" * 10**6, "dropped": names, "status": 200, "request": body})

    assert said["model"] == "m" * 200 + "…"
    assert said["dropped"][0] == "n" * 200 + "…"
    assert said["dropped"][1:] == [*names[1:40], "and 21 more"]
    assert (said["status"], said["request"]) == (200, body)


@check_each("field", ["detail", "event"])
def test_own_messages_are_not_shortened(field: str) -> None:
    assert line({field: "x" * 5000})[field] == "x" * 5000


def test_an_exception_leaves_its_trace() -> None:
    try:
        raise KeyError("lost")
    except KeyError:
        said = line("broke", exc_info=sys.exc_info())

    assert "KeyError: 'lost'" in said["trace"]


def test_records_go_to_standard_error_once(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure_logging("INFO")
    logs.configure_logging("WARNING")
    log = logging.getLogger("forwarder.anything")

    log.info("unheard")
    log.warning("heard")

    [text] = capsys.readouterr().err.splitlines()
    assert json.loads(text)["message"] == "heard"
