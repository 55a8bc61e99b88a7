"""The load of the scale-out test names errors and reads logs."""

from __future__ import annotations

import httpx2

from bench import scale_out
from bench.promises import KILL_ERRORS
from tests.helpers.check_cases import check_each


@check_each(
    ("body", "name"),
    [
        (b'{"error": {"code": "conversation_locked"}}', "502 conversation_locked"),
        (b"<html>", "502 of nginx/1"),
    ],
)
def test_errors_have_names(body: bytes, name: str) -> None:
    response = httpx2.Response(502, content=body, headers={"server": "nginx/1"})
    assert scale_out.name_error(response) == name


def test_a_broken_connection_is_a_cut_answer() -> None:
    assert scale_out.name_failure(httpx2.ReadError("gone")).startswith(KILL_ERRORS)
    assert not scale_out.name_failure(KeyError("x")).startswith(KILL_ERRORS)


def test_log_events_are_counted() -> None:
    lines = ["[INFO] Starting gunicorn", '{"event": "a"}', '{"event": "a"}', '{"message": "b"}']
    assert scale_out.count_log_events(lines) == {"a": 2, "b": 1}
