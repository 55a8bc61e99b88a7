"""Selection of the answer among the choices of a chat stream."""

from __future__ import annotations

from typing import Any

from forwarder.protocols.answer_choice import ChoiceSelector, read_delta
from tests.helpers.check_cases import check_each

Json = dict[str, Any]


@check_each(
    ("chunks", "expected"),
    [
        ([[0], [1], [0]], [0, None, 0]),
        ([[0, 1], [1, 0]], [0, 0]),
        ([[1, 0], [1], [0]], [0, None, 0]),
        ([[None], [0], [1]], [None, 0, None]),
        ([[2], [2], [0]], [2, 2, None]),
    ],
)
def test_choice_selector_finds_the_answer(
    chunks: list[list[int | None]], expected: list[int | None]
) -> None:
    answer = ChoiceSelector()
    choices = [[{"index": i} if i is not None else {} for i in chunk] for chunk in chunks]
    selected = [answer.find(chunk) for chunk in choices]
    assert [None if choice is None else choice.get("index") for choice in selected] == expected
    assert [choice is None for choice in selected] == [
        c is None and i > 0 for i, c in enumerate(expected)
    ]


MESSAGE = {"content": "a"}


@check_each(
    ("choice", "delta"),
    [
        ({"delta": {"content": "b"}, "message": MESSAGE}, {"content": "b"}),
        ({"delta": {}, "message": MESSAGE}, {}),
        ({"delta": None, "message": MESSAGE}, {}),
        ({"message": MESSAGE}, MESSAGE),
        ({"message": None}, {}),
        ({}, {}),
    ],
)
def test_read_delta_prefers_delta_to_message(choice: Json, delta: Json) -> None:
    assert read_delta(choice) == delta
