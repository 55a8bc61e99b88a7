from __future__ import annotations

from typing import Any

from forwarder.translation.responses_over_chat.citations import (
    CitationBuffer,
    flatten_annotation,
    move_annotation,
)
from tests.helpers.check_cases import check_each

Json = dict[str, Any]

URL = {"start_index": 4, "end_index": 7, "title": "One", "url": "https://example.org/1"}
FLAT = {"type": "url_citation", **URL}


@check_each(
    ("nested", "expected"),
    [
        ({"type": "url_citation", "url_citation": URL}, FLAT),
        (FLAT, FLAT),
        ({"type": "url_citation", "url_citation": {"url": "u", "title": None, "start_index": "4"}},
         {"type": "url_citation", "start_index": 0, "end_index": 0, "title": "", "url": "u"}),
        ({"type": "url_citation", "url_citation": {**URL, "content": "long"}}, FLAT),
        ({"type": "file_path", "file_path": {"file_id": "f", "index": 3}},
         {"type": "file_path", "file_id": "f", "index": 3}),
        ({"type": "file", "file": {"hash": "x"}}, None),
        ({"type": ["x"]}, None),
        ({}, None),
        ("u", None),
        (None, None),
    ],
)  # fmt: skip
def test_annotation_is_flattened_and_completed(nested: Any, expected: Any) -> None:
    assert flatten_annotation(nested) == expected


@check_each(("offset", "positions"), [(0, (4, 7)), (3, (1, 4)), (6, (0, 1)), (9, (0, 0))])
def test_positions_are_shifted_to_the_start_of_the_text(
    offset: int, positions: tuple[int, int]
) -> None:
    annotation = move_annotation(FLAT, offset)
    assert (annotation["start_index"], annotation["end_index"]) == positions
    assert move_annotation({"type": "file_path", "file_id": "f", "index": 3}, offset)["index"] == 3


def test_repeated_annotation_is_emitted_once() -> None:
    citations = CitationBuffer()
    other = {**FLAT, "start_index": 9}
    citations.add_annotations([FLAT, {"type": "telepathy"}])
    citations.add_annotations([{"type": "url_citation", "url_citation": URL}])
    assert citations.pop_annotations(0) == [FLAT]
    assert citations.waiting == []
    citations.add_annotations([FLAT, other])
    citations.add_annotations("odd")
    assert citations.pop_annotations(1) == [{**other, "start_index": 8, "end_index": 6}]
