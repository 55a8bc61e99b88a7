"""Text from clients and remote servers cannot control a terminal."""

from __future__ import annotations

import pytest

from forwarder.core.terminal_text import escape_control_characters, escape_line


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain – ä 日本 😀\ttab\nline", "plain – ä 日本 😀\ttab\nline"),
        ("\x1b[2Jgone", r"\x1b[2Jgone"),
        ("\x1b]0;title\x07", r"\x1b]0;title\x07"),
        ("\x9b31m", r"\x9b31m"),
        ("over\rwritten", r"over\rwritten"),
        ("a\x7f\x08\x00b", r"a\x7f\x08\x00b"),
        ("\u202egpj.exe", r"\u202egpj.exe"),
        ("שלום 😀", "שלום 😀"),
        ("\u2028\u2066", r"\u2028\u2066"),
    ],
)
def test_control_characters_are_escaped(text: str, expected: str) -> None:
    assert escape_control_characters(text) == expected
    assert escape_line(text) == expected.replace("\t", r"\t").replace("\n", r"\n")
