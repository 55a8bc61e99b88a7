from __future__ import annotations

from typing import Any

import pytest

from forwarder.core.errors import InvalidRequest
from forwarder.translation.chat_over_responses.images import ImageDeltaWriter, ImageHistory
from tests.helpers.check_cases import check_each

Json = dict[str, Any]

PNG = "iVBORw0KGgo="


def get_image_url(item: Json) -> str:
    [delta] = ImageDeltaWriter().write_image(0, item)
    return str(delta["images"][0]["image_url"]["url"])


@check_each(
    ("item", "url"),
    [
        ({"result": PNG}, f"data:image/png;base64,{PNG}"),
        ({"result": "/9j/4AAQ"}, "data:image/jpeg;base64,/9j/4AAQ"),
        ({"result": "UklGRiIA"}, "data:image/webp;base64,UklGRiIA"),
        ({"result": "AAAA"}, "data:image/png;base64,AAAA"),
        ({"result": "PHN2", "output_format": "svg"}, "data:image/svg+xml;base64,PHN2"),
        ({"result": PNG, "output_format": "webp"}, f"data:image/webp;base64,{PNG}"),
        ({"result": "data:image/gif;base64,R0lG"}, "data:image/gif;base64,R0lG"),
        ({"result": "https://e.test/a.png"}, "https://e.test/a.png"),
    ],
)
def test_image_becomes_a_data_url(item: Json, url: str) -> None:
    assert get_image_url(item) == url


def test_image_is_sent_once() -> None:
    images = ImageDeltaWriter()
    assert images.write_image(3, {"result": None, "status": "failed"}) == []
    assert len(images.write_image(3, {"id": "ig_1", "result": PNG})) == 1
    assert images.write_image(3, {"id": "ig_1", "result": PNG}) == []
    [second] = images.write_image(5, {"result": PNG})
    assert second["images"][0]["index"] == 1
    assert "id" not in second["images"][0]


def test_drafts_are_separate_and_numbered() -> None:
    images = ImageDeltaWriter()
    drafts = [
        images.write_draft({"partial_image_b64": PNG, "partial_image_index": 0, "item_id": item})
        for item in ("ig_1", "ig_2")
    ]
    entries = [draft["metadata"]["partial_images"][0] for [draft] in drafts]
    assert [(entry["index"], entry["id"]) for entry in entries] == [(0, "ig_1"), (1, "ig_2")]
    assert images.write_draft({"partial_image_b64": None}) == []
    assert not images.sent_indexes


def make_image(url: str = f"data:image/png;base64,{PNG}", **more: Any) -> Json:
    return {"type": "image_url", "image_url": {"url": url}, **more}


GENERATED_IMAGE = {
    "type": "image_generation_call",
    "id": "ig_1",
    "status": "completed",
    "result": PNG,
}


def make_user_image_message(url: str = f"data:image/png;base64,{PNG}") -> Json:
    part = {"type": "input_image", "image_url": url, "detail": "auto"}
    return {"type": "message", "role": "user", "content": [part]}


@check_each(
    ("images", "items"),
    [
        ([], []),
        ([make_image(id="ig_1")], [GENERATED_IMAGE]),
        ([make_image()], [make_user_image_message()]),
        (
            [make_image("https://e.test/a.png", id="ig_1")],
            [make_user_image_message("https://e.test/a.png")],
        ),
        ([make_image(), make_image(id="ig_1")], [GENERATED_IMAGE, make_user_image_message()]),
        (
            [make_image(id="ig_1"), make_image(id="ig_1")],
            [GENERATED_IMAGE, make_user_image_message()],
        ),
    ],
)
def test_history_image_becomes_its_call_or_a_user_image(
    images: list[Json], items: list[Json]
) -> None:
    assert ImageHistory().convert_images(images, "images") == items


def test_image_id_is_used_once_per_history() -> None:
    history = ImageHistory()
    assert history.convert_images([make_image(id="ig_1")], "a") == [GENERATED_IMAGE]
    assert history.convert_images([make_image(id="ig_1")], "b") == [make_user_image_message()]


@check_each(
    ("entry", "param"),
    [
        ("odd", "images[0]"),
        ({"image_url": {"url": "u"}}, "images[0].type"),
        ({"type": "text", "text": "t"}, "images[0].type"),
        ({"type": "image_url"}, "images[0].image_url"),
        ({"type": "image_url", "image_url": {}}, "images[0].image_url.url"),
        (make_image(id=7), "images[0].id"),
    ],
)
def test_malformed_image_error_names_the_path(entry: Any, param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        ImageHistory().convert_images([entry], "images")
    assert caught.value.param == param
