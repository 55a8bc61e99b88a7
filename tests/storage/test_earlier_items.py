"""Errors in requests with earlier items in front of their input."""

from __future__ import annotations

from typing import Any

import pytest

from forwarder.core.errors import InvalidRequest, MediaUnavailable, Unsupported, UpstreamRefused
from forwarder.core.translation_context import LossReport
from forwarder.core.types import EventStream, Json
from forwarder.storage.earlier_items import EarlierItems, call_with_earlier_items
from tests.helpers.check_cases import check_each

MISSING_URL = "https://x/gone.png"
OWN_MESSAGE: Json = {"role": "user", "content": "and now?"}


def make_image(url: str) -> Json:
    return {"type": "input_image", "image_url": url}


def make_message(*urls: str) -> Json:
    return {
        "role": "user",
        "content": [{"type": "input_text", "text": "look"}, *map(make_image, urls)],
    }


class RecordingHandler:
    """A handler that cannot fetch some URLs, and that records its requests."""

    def __init__(self, *missing_urls: str) -> None:
        self.missing_urls = missing_urls
        self.inputs: list[list[Any]] = []

    def __call__(self, request: Json) -> EventStream:
        self.inputs.append(request["input"])
        text = str(request["input"])
        missing = [url for url in self.missing_urls if url in text]
        if missing:
            position = next(i for i, item in enumerate(request["input"]) if missing[0] in str(item))
            path = f"input[{position}].content[1].image_url"
            raise MediaUnavailable(f"Invalid value for '{path}': no.", param=path, names=missing)
        return iter([[{"type": "x"}]])


def call_handler(
    handler: Any, *earlier: Any, message: Json = OWN_MESSAGE, strict: bool = False
) -> LossReport:
    loss_report = LossReport(strict)
    request = {"model": "m", "input": [message]}
    list(
        call_with_earlier_items(
            handler, request, EarlierItems(list(earlier), "conversation"), loss_report.drop
        )
    )
    return loss_report


def test_earlier_items_are_prepended() -> None:
    handler = RecordingHandler()
    assert call_handler(handler, make_message("https://x/a.png")).losses == {}
    assert handler.inputs == [[make_message("https://x/a.png"), OWN_MESSAGE]]


def test_unavailable_earlier_media_become_a_note() -> None:
    document = {"type": "input_file", "file_url": "https://x/gone.pdf"}
    result = {"type": "function_call_output", "call_id": "c", "output": [make_image(MISSING_URL)]}
    earlier = [
        make_message(MISSING_URL, "https://x/a.png"),
        result,
        {"role": "user", "content": [document]},
    ]
    handler = RecordingHandler(MISSING_URL, "https://x/gone.pdf")

    loss_report = call_handler(handler, *earlier)
    assert [*loss_report.losses] == ["conversation.input_file", "conversation.input_image"]
    note = {"type": "input_text", "text": "[image no longer available]"}
    message, got, read, own_message = handler.inputs[-1]
    assert message["content"][1:] == [note, make_image("https://x/a.png")]
    assert got == {**result, "output": [note]}
    assert read["content"] == [{"type": "input_text", "text": "[file no longer available]"}]
    assert (own_message, len(handler.inputs)) == (OWN_MESSAGE, 2)
    assert earlier[0] == make_message(MISSING_URL, "https://x/a.png")


def test_unavailable_earlier_files_become_a_note() -> None:
    image: Json = {"type": "input_image", "file_id": "file-1", "image_url": None}
    handler = RecordingHandler("file-1")

    loss_report = call_handler(handler, {"role": "user", "content": [image]})
    assert [*loss_report.losses] == ["conversation.input_image"]
    note = {"type": "input_text", "text": "[image no longer available]"}
    assert handler.inputs[-1] == [{"role": "user", "content": [note]}, OWN_MESSAGE]


def test_unavailable_earlier_media_are_an_error_in_strict_mode() -> None:
    handler = RecordingHandler(MISSING_URL)
    with pytest.raises(Unsupported) as refused:
        call_handler(handler, make_message(MISSING_URL), strict=True)
    assert (refused.value.param, len(handler.inputs)) == ("conversation.input_image", 1)


@check_each("earlier", [make_message("https://x/a.png"), make_message(MISSING_URL)])
def test_unavailable_media_of_the_request_are_an_error(earlier: Json) -> None:
    with pytest.raises(MediaUnavailable) as refused:
        call_handler(
            RecordingHandler(MISSING_URL),
            {"role": "user", "content": "hi"},
            message=make_message(MISSING_URL),
        )
    assert refused.value.param == "input[0].content[1].image_url"
    assert "'input[0].content[1].image_url'" in refused.value.message
    with pytest.raises(MediaUnavailable):
        call_handler(RecordingHandler(MISSING_URL), earlier, message=make_message(MISSING_URL))


def test_unavailable_earlier_screenshot_is_an_error() -> None:
    screenshot = {"type": "computer_screenshot", "image_url": MISSING_URL}
    with pytest.raises(MediaUnavailable) as refused:
        call_handler(
            RecordingHandler(MISSING_URL),
            {"type": "computer_call_output", "call_id": "c", "output": screenshot},
        )
    assert refused.value.param == "conversation"


@check_each(
    ("position", "param", "message"),
    [
        (0, "conversation", "In the history of 'conversation': Wrong: 'item[0].role'."),
        (1, "conversation", "In the history of 'conversation': Wrong: 'item[1].role'."),
        (2, "input[0].role", "Wrong: 'input[0].role'."),
        (12, "input[10].role", "Wrong: 'input[10].role'."),
    ],
)
@check_each("from_upstream", [True, False])
def test_error_position_is_corrected(
    position: int, param: str, message: str, from_upstream: bool
) -> None:
    path = f"input[{position}].role"
    error = InvalidRequest(f"Wrong: '{path}'.", param=path)

    def handler(request: Json) -> EventStream:
        raise UpstreamRefused(400, error.make_error_object()) if from_upstream else error

    with pytest.raises((InvalidRequest, UpstreamRefused)) as refused:
        call_handler(handler, OWN_MESSAGE, OWN_MESSAGE)
    assert (refused.value.param, refused.value.message) == (param, message)


def test_error_without_position_is_unchanged() -> None:
    def handler(request: Json) -> EventStream:
        raise InvalidRequest("No 'temperature'.", param="temperature")

    with pytest.raises(InvalidRequest) as refused:
        call_handler(handler, OWN_MESSAGE)
    assert (refused.value.param, refused.value.message) == ("temperature", "No 'temperature'.")
