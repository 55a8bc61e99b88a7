from __future__ import annotations

from typing import Any

from forwarder.translation.responses_over_chat.images import (
    AnswerImage,
    ImageItem,
    make_markdown_image,
    read_image,
)
from tests.helpers import sdk
from tests.helpers.check_cases import check_each

Json = dict[str, Any]

PNG = "data:image/png;base64,iVBORw0KGgo="
DRAWN = AnswerImage("iVBORw0KGgo=", "png")


@check_each(
    ("part", "expected"),
    [
        ({"type": "image_url", "image_url": {"url": PNG}}, DRAWN),
        ({"image_url": PNG}, DRAWN),
        ({"inline_data": {"mime_type": "image/png", "data": "iVBORw0KGgo="}}, DRAWN),
        ({"inlineData": {"mimeType": "image/jpg", "data": "AAAA"}}, AnswerImage("AAAA", "jpeg")),
        ({"inlineData": {"data": "iVBORw0KGgo="}}, DRAWN),
        ({"b64_json": "iVBORw0KGgo="}, DRAWN),
        ({"image": {"url": PNG}}, DRAWN),
        (PNG, DRAWN),
        ({"image": "https://example.org/a.png"}, AnswerImage("", url="https://example.org/a.png")),
        ("data:image/svg+xml;utf8,<svg/>", AnswerImage("", url="data:image/svg+xml;utf8,<svg/>")),
        ("data:image/svg+xml;base64,PHN2", AnswerImage("PHN2", "svg")),
        ("data:image/heic;base64,UklGRg==", AnswerImage("UklGRg==", "webp")),
        ("data:;base64,/9j/4AAQ", AnswerImage("/9j/4AAQ", "jpeg")),
        ("DATA:IMAGE/GIF;charset=x;BASE64,AAAA", AnswerImage("AAAA", "gif")),
        ("data:image/png;base64,", None),
        ({"type": "text", "text": "a"}, None),
        ({"image_url": {"url": 1}}, None),
        ({"image_url": {}}, None),
        ({"inline_data": "x"}, None),
        ({"inline_data": {"data": None}}, None),
        ("", None),
        (None, None),
    ],
)
def test_image_is_read_from_all_vendor_formats(part: Any, expected: Any) -> None:
    assert read_image(part) == expected


@check_each(
    ("url", "text"),
    [
        ("https://example.org/a.png?b=c", "![image](https://example.org/a.png?b=c)"),
        ("https://example.org/a (1).png", "![image](<https://example.org/a (1).png>)"),
        ("data:,<svg>", "![image](<data:,%3Csvg%3E>)"),
    ],
)
def test_image_url_becomes_markdown(url: str, text: str) -> None:
    assert make_markdown_image(url) == text


def event_names(events: list[Json]) -> list[str]:
    numbered = [{**event, "sequence_number": i} for i, event in enumerate(events)]
    assert [m for event in numbered for m in sdk.event_mistakes(event)] == []
    return [event["type"].rpartition(".")[2] for event in events]


@check_each(
    ("status", "item_status", "closing"),
    [("completed", "completed", ["completed", "done"]), ("incomplete", "generating", ["done"])],
)
def test_image_item_emits_its_events(status: str, item_status: str, closing: list[str]) -> None:
    image = ImageItem("ig_1", 3, DRAWN)
    assert event_names(image.open()) == ["added", "in_progress", "generating"]
    more = AnswerImage(DRAWN.data + "AAAA", "png")
    assert image.is_prefix_of(more)
    assert not image.is_prefix_of(AnswerImage("AAAA", "png"))
    [partial] = image.replace_image(more)
    assert (partial["partial_image_b64"], partial["partial_image_index"]) == (DRAWN.data, 0)
    assert event_names(image.close(status)) == closing
    assert image.final_item == {
        "id": "ig_1",
        "type": "image_generation_call",
        "status": item_status,
        "result": more.data,
        "output_format": "png",
    }
