"""Hostile text and JSON on pages."""

from __future__ import annotations

import json
import time
from typing import Any

from forwarder.console import exchange_text
from forwarder.console.exchange_text import (
    ReadableJsonFormatter,
    shorten_text,
)
from tests.helpers.check_cases import check_each


def format_json(value: Any) -> str:
    return ReadableJsonFormatter().format(value)


def test_shortened_text_has_the_number_of_missing_characters() -> None:
    assert shorten_text("x" * 10, 10) == "x" * 10
    assert shorten_text("x" * 1234, 10) == "x" * 10 + " … (1,224 more characters)"


def test_small_values_are_not_cut() -> None:
    value = {"a": [1, 2.5, None, True, "text", {}], "b": {"c": []}}

    assert json.loads(format_json(value)) == value


def test_data_urls_are_shortened_to_their_type() -> None:
    formatted = format_json({"image_url": "data:image/png;base64," + "A" * 500})

    assert '"data:image/png;base64, … (500 more characters)"' in formatted


def test_long_lists_show_their_first_and_last_entries() -> None:
    formatted = json.loads(format_json([f"message {number}" for number in range(1000)]))

    assert formatted[0] == "message 0"
    assert formatted[exchange_text.MAX_FIRST] == "… (940 more)"
    assert formatted[-1] == "message 999"


def nest(depth: int) -> Any:
    value: Any = "end"
    for _ in range(depth):
        value = [value]
    return value


@check_each(
    "value",
    [
        {f"name {number}": number for number in range(100_000)},
        [[["x"] * 200] * 200] * 200,
        "x" * 2_000_000,
        {"x" * 500_000: 1},
        ["x" * 5000] * 500,
        nest(900),
    ],
    ids=["names", "lists", "text", "long name", "texts", "deep"],
)
def test_huge_values_are_short(value: Any) -> None:
    assert len(format_json(value)) < 250_000


def test_all_documents_of_a_page_are_limited_together() -> None:
    formatter = ReadableJsonFormatter()
    value = ["x" * 1900] * 50
    started_at = time.process_time()

    total = sum(len(formatter.format(value)) for _ in range(1000))

    assert total < 1_000_000
    assert time.process_time() - started_at < 2
