from __future__ import annotations

from typing import Any

import pytest

from forwarder.protocols.annotations import nest_annotation, shift_annotation

Json = dict[str, Any]


@pytest.mark.parametrize(
    ("annotation", "wrapped"),
    [
        (
            {"type": "url_citation", "url": "u", "title": "t"},
            {"type": "url_citation", "url_citation": {"url": "u", "title": "t"}},
        ),
        (
            {"type": "url_citation", "url_citation": {"url": "u"}},
            {"type": "url_citation", "url_citation": {"url": "u"}},
        ),
        ({"url": "u"}, {"url": "u"}),
    ],
)
def test_nest_annotation(annotation: Json, wrapped: Json) -> None:
    assert nest_annotation(annotation) == wrapped


def spot(start: int, end: int) -> Json:
    return {"type": "url_citation", "start_index": start, "end_index": end, "url": "u"}


@pytest.mark.parametrize("wrap", [nest_annotation, dict])
@pytest.mark.parametrize(
    "insertions", [[], [(0, 5)], [(2, 3)], [(0, 1), (3, 2), (6, 4)], [(4, 1)], [(9, 9)]]
)
def test_shift_annotation_keeps_the_same_words(
    wrap: Any, insertions: list[tuple[int, int]]
) -> None:
    text = "abcdefgh"
    whole = "".join(
        "".join("-" * size for at, size in insertions if at == i) + c for i, c in enumerate(text)
    )
    for start in range(len(text)):
        for end in range(start + 1, len(text) + 1):
            shifted = shift_annotation(wrap(spot(start, end)), insertions)
            inner = shifted.get("url_citation", shifted)
            span = whole[inner["start_index"] : inner["end_index"]]
            assert span.replace("-", "") == text[start:end]
            assert span[0] != "-"
            assert span[-1] != "-"


def test_shift_annotation_keeps_empty_span() -> None:
    shifted = shift_annotation(spot(2, 2), [(2, 3)])
    assert (shifted["start_index"], shifted["end_index"]) == (5, 5)
    assert shift_annotation(spot(0, 0), [(0, 4)])["end_index"] == 4


def test_shift_annotation_without_positions() -> None:
    for odd in (
        {"type": "url_citation", "url": "u"},
        {"start_index": "1"},
        "odd",
        None,
        {"type": 1},
    ):
        assert shift_annotation(odd, [(0, 3)]) == odd
