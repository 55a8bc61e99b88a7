"""Text of clients and remote servers made safe for terminals and pages."""

from __future__ import annotations

import re

_CONTROL_CHARACTERS = re.compile(
    r"[^\n\t\x20-\x7e\xa0-\U0010ffff]|[\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]"
)
"""Control characters, and characters that change the direction of text or break lines."""

_LINE_CONTROL_CHARACTERS = re.compile(rf"[\n\t]|{_CONTROL_CHARACTERS.pattern}")


def escape_control_characters(text: str) -> str:
    """Write control characters as ``\\x1b`` or ``\\u202e``; line feeds and tabs stay.

    So they cannot control a terminal, and text is read in the order in which it was sent.
    """
    if text.isprintable():
        return text
    return _CONTROL_CHARACTERS.sub(_escape_match, text)


def escape_line(text: str) -> str:
    """Like `escape_control_characters`, and escape line breaks and tabs too."""
    return _LINE_CONTROL_CHARACTERS.sub(_escape_match, text)


def _escape_match(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode()
