"""Checks of base64, which let other requests run between the steps on a large text."""

from __future__ import annotations

import pytest

from forwarder.core import base64_text, paced_iteration
from tests.helpers.check_cases import check_each


@check_each(
    ("text", "expected"),
    [
        ("AAAA", True),
        ("A+/9\nAA==", True),
        (" AA = =\n", True),
        ("A", True),  # only the characters are checked
        ("", False),
        ("====", False),
        ("AA===", False),
        ("AA=A", False),
        ("AA-_", False),
        ("AÄAA", False),
    ],
)
def test_base64_is_detected_by_its_characters(text: str, expected: bool) -> None:
    assert base64_text.is_base64(text) is expected


@check_each("end", ["", "=", "!"])
def test_large_text_is_checked_in_pieces(end: str) -> None:
    pauses: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paced_iteration, "_pause", lambda: pauses.append(1))
        result = base64_text.is_base64("A" * (3 * paced_iteration.LARGE_BYTES) + end)

    assert result is (end != "!")
    assert len(pauses) >= 3


@check_each(
    ("text", "bare"),
    [(" A A\r\nA\tA\v\f", "AAAA"), ("AAAA", "AAAA"), ("Ä Ä", "Ä Ä"), ("A\x1cA", "A\x1cA")],
)
def test_white_space_in_base64_is_removed(text: str, bare: str) -> None:
    assert base64_text.remove_blanks(text) == bare
