"""Log records as JSON and as text."""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import Any

import pytest

from forwarder.observability.log_formats import JsonFormatter, TextFormatter
from tests.helpers.check_cases import check_each


def format_line(message: Any, *args: Any, **more: Any) -> dict[str, Any]:
    record = logging.LogRecord("forwarder.x", logging.INFO, "x.py", 1, message, args, None)
    record.__dict__.update(more)
    text = JsonFormatter().format(record)
    assert "\n" not in text
    parsed: dict[str, Any] = json.loads(text)
    return parsed


def test_log_line_has_time_level_and_message() -> None:
    line = format_line("hello %s\nthere", "Zürich", created=0.25, msecs=250)

    assert line == {
        "time": "1970-01-01T00:00:00.250Z",
        "level": "info",
        "logger": "forwarder.x",
        "message": "hello Zürich\nthere",
    }


def test_a_dict_is_merged_into_the_line() -> None:
    line = format_line({"id": "req_1", "status": 200, "odd": {1}})

    assert (line["id"], line["status"], line["odd"]) == ("req_1", 200, "{1}")
    assert "message" not in line


def test_text_message_is_logged_with_its_event() -> None:
    logged = format_line("try %d", 2, event="upstream_retry")

    assert (logged["event"], logged["message"]) == ("upstream_retry", "try 2")


def test_dict_message_is_logged_with_its_event() -> None:
    logged = format_line({"event": "request_done", "status": 200})

    assert (logged["event"], logged["status"]) == ("request_done", 200)
    assert "message" not in logged


def test_values_of_clients_are_cut() -> None:
    body = {"input": "x" * 5000}
    names = ["n" * 5000, *"abc" * 20]
    line = format_line({"model": "m" * 10**6, "dropped": names, "status": 200, "request": body})

    assert line["model"] == "m" * 200 + "…"
    assert line["dropped"][0] == "n" * 200 + "…"
    assert line["dropped"][1:] == [*names[1:40], "and 21 more"]
    assert (line["status"], line["request"]) == (200, body)


@check_each("field", ["detail", "event"])
def test_own_messages_are_not_shortened(field: str) -> None:
    assert format_line({field: "x" * 5000})[field] == "x" * 5000


def test_exception_is_logged_with_its_traceback() -> None:
    try:
        raise KeyError("lost")
    except KeyError:
        line = format_line("broke", exc_info=sys.exc_info())

    assert "KeyError: 'lost'" in line["trace"]


# -- text ------------------------------------------------------------------------------------------

DONE = {
    "event": "request_done",
    "id": "req_1",
    "route": "chat",
    "method": "POST",
    "status": 200,
    "duration_ms": 1240.4,
}


@pytest.fixture(autouse=True)
def _utc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "localtime", time.gmtime)


def write(message: Any, *args: Any, color: bool = False, **more: Any) -> str:
    level = more.pop("level", logging.INFO)
    record = logging.LogRecord("forwarder.x", level, "x.py", 1, message, args, None)
    record.__dict__.update({"created": 0.25, **more})
    return TextFormatter(color).format(record)


def test_text_of_a_request_is_one_line_with_its_numbers() -> None:
    fields = {
        "client": "alice",
        "upstream": "qwen",
        "requested_model": "gpt-5",
        "model": "qwen-max",
        "first_event_ms": 310.0,
        "input_tokens": 12,
        "output_tokens": 34,
        "failed": ["chat"],
        "retries": 2,
        "dropped": ["seed", "user"],
    }

    assert write(DONE | fields) == (
        "00:00:00  POST chat       200  alice  gpt-5 → qwen-max at qwen  1.2 s (first 310 ms)"
        "  12 in, 34 out  failed at chat  2 retried  dropped seed, user"
    )


def test_text_of_a_failed_request_has_the_message_and_the_id() -> None:
    fields = {"status": 400, "duration_ms": 3.0, "error": "invalid_type", "requested_model": "m"}
    message = "Invalid type for 'model'."

    assert write(DONE | fields, error_message=message) == (
        "00:00:00  POST chat       400  m  3 ms  invalid_type: Invalid type for 'model'.  req_1"
    )
    assert "invalid_type: why  req_1" in write(DONE | fields | {"detail": "why"})
    assert "invalid_type  req_1" in write(DONE | fields)


@check_each(
    ("fields", "expected"),
    [
        ({"requested_model": "m", "model": "m", "upstream": "u"}, "m at u"),
        ({"model": "m"}, "m"),
        ({"upstream": "u"}, " at u"),
        ({"output_tokens": 0}, "0 out"),
        ({"route": "GET /no/such", "method": "GET"}, "GET /no/such    200"),
        ({"route": "background", "method": None}, "background      200"),
    ],
)
def test_text_of_a_request_leaves_out_unknown_values(fields: dict[str, Any], expected: str) -> None:
    text = write(DONE | fields)

    assert f"  {expected.strip()}" in text
    assert "None" not in text


@check_each("field", ["client", "requested_model", "model", "upstream", "error", "route"])
def test_text_escapes_what_clients_send(field: str) -> None:
    text = write(DONE | {"error": "e", field: "x\x1b[2J\n00:00:00 forged\t\u202e"})

    assert r"x\x1b[2J\n00:00:00 forged\t\u202e" in text
    assert text.isprintable()


def test_text_escapes_dropped_names_and_messages() -> None:
    fields = {"error": "e", "dropped": ["a\x1b]0;t\x07", "b\r\n"]}

    text = write(DONE | fields, error_message="m\x9b31m\n")

    assert r"dropped a\x1b]0;t\x07, b\r\n" in text
    assert r"e: m\x9b31m\n" in text
    assert text.isprintable()


def test_text_cuts_long_values() -> None:
    names = [f"n{number}" for number in range(30)]

    text = write(DONE | {"model": "m" * 5000, "dropped": names})

    assert "m" * 200 + "…" in text
    assert text.endswith("n10, n11 and 18 more")


@check_each(
    ("status", "code"), [(200, "32"), (304, "36"), (404, "33"), (499, "33"), (500, "31"), (101, "")]
)
def test_text_colors_the_status_by_its_class(status: int, code: str) -> None:
    text = write(DONE | {"status": status}, color=True)

    paint = f"\x1b[{code}m" if code else ""
    assert f"{paint}\x1b[1m{status}\x1b[0m" in text
    assert "\x1b" not in write(DONE | {"status": status})


def test_text_of_other_records_has_level_and_fields() -> None:
    fields = {"event": "upstream_retry", "upstream": "a\nb", "retry_in": 0.5, "odd": {"k": {1}}}

    assert write(fields) == (
        '00:00:00  INFO upstream_retry  upstream=a\\nb  retry_in=0.5  odd={"k":"{1}"}'
    )
    assert write("no %s\x1b", "key", level=logging.WARNING) == "00:00:00  WARNING no key\\x1b"


def test_text_keeps_the_lines_of_a_traceback() -> None:
    try:
        raise KeyError("lost\x1b[2J")
    except KeyError:
        text = write("broke", exc_info=sys.exc_info(), level=logging.ERROR)

    first, *trace = text.splitlines()
    assert first == "00:00:00  ERROR broke"
    assert trace[0] == "    Traceback (most recent call last):"
    assert trace[-1].startswith("    KeyError: 'lost")
    assert "\x1b" not in text


STARTED = {
    "event": "started",
    "version": "1.2.3",
    "upstreams": [
        {
            "name": "qwen",
            "url": "https://up.test/v1",
            "protocols": ["chat", "responses"],
            "profile": "qwen",
            "key": "own",
        },
        {
            "name": "local",
            "url": "http://127.0.0.1:9/v1",
            "protocols": ["chat"],
            "profile": "generic",
            "key": "none",
        },
    ],
    "needs_keys": True,
    "capture": "off",
    "store": "sqlite",
    "addresses": ["http://0.0.0.0:8000"],
    "console": ["http://127.0.0.1:8000/console"],
}


def test_text_of_the_start_is_a_banner() -> None:
    assert write(STARTED).splitlines() == [
        "Forwarder 1.2.3",
        "  upstream   qwen  https://up.test/v1  (chat and responses, profile qwen, with a key)",
        "  upstream   local  http://127.0.0.1:9/v1  (chat, profile generic, no key)",
        "  clients    need a key",
        "  capture    off",
        "  store      sqlite",
        "  serves     http://0.0.0.0:8000",
        "  console    http://127.0.0.1:8000/console",
    ]


def test_banner_has_every_upstream() -> None:
    upstreams = STARTED["upstreams"] * 30

    assert write(STARTED | {"upstreams": upstreams}).count("  upstream   ") == 60
