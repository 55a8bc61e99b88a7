"""Makers of images: requests to upstreams, and the images read from their answers."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from forwarder.core.data_urls import Blob
from forwarder.hosted_tools import image_makers
from forwarder.hosted_tools.image_makers import (
    ApiImageMaker,
    ChatImageMaker,
    ImageFailure,
    ImageRequest,
)
from forwarder.upstream.files import MultipartForm, PassthroughResponse

Json = dict[str, Any]
PIXEL = base64.b64encode(b"\x89PNG\r\n\x1a\n pixel").decode()
INPUT = Blob(b"\x89PNG\r\n\x1a\n input", "image/png")
USAGE = {"input_tokens": 3, "output_tokens": 4, "total_tokens": 7}


class Progress:
    def __init__(self) -> None:
        self.cancel_callbacks: set[Callable[[], None]] = set()
        self.is_cancelled = False
        self.drafts: list[tuple[str, Json]] = []

    def add_partial_image(self, data: str, fields: Json) -> None:
        self.drafts.append((data, fields))


class Upstreams:
    """Upstreams with one answer: the chunks of a response, or a completion."""

    def __init__(self, answer: Any, kind: str = "application/json") -> None:
        self.answer = answer
        self.kind = kind
        self.requests: list[Any] = []

    def send_images(
        self, upstream: str, path: str, content: Any, client: str, call: Any, read: Any
    ) -> Any:
        self.requests.append((upstream, path, content, client))
        chunks: Iterator[bytes] = iter(self.answer)
        return read(PassthroughResponse(200, {"content-type": self.kind}, chunks))

    def ask_chat(self, request: Json, client: str, call: Any) -> Json:
        self.requests.append((request, client))
        answer: Json = self.answer
        return answer


def encode_in_chunks(answer: Any) -> list[bytes]:
    body = json.dumps(answer).encode()
    return [body[:7], body[7:]]


def make_image_with_api(upstreams: Any, request: ImageRequest, model: str = "flux") -> Any:
    progress = Progress()
    image = ApiImageMaker("pics", model, lambda: upstreams).make_image(request, "client", progress)
    return image, progress.drafts


# -- the images API -------------------------------------------------------------------------------


def test_image_is_generated_with_the_options_of_the_tool() -> None:
    answer = {"data": [{"b64_json": PIXEL, "revised_prompt": "A cat."}], "size": "1x1",
              "quality": "hd", "background": "opaque", "usage": USAGE}  # fmt: skip
    upstreams = Upstreams(encode_in_chunks(answer))
    options = {"size": "1024x1024", "quality": "low", "input_fidelity": "high"}
    image, _ = make_image_with_api(upstreams, ImageRequest("a cat", options=options))
    assert upstreams.requests == [
        (
            "pics",
            "/images/generations",
            {
                "model": "flux",
                "prompt": "a cat",
                "n": 1,
                "size": "1024x1024",
                "quality": "low",
                "response_format": "b64_json",
            },
            "client",
        )
    ]
    assert (image.data, image.usage) == (PIXEL, USAGE)
    assert image.fields == {
        "background": "opaque",
        "size": "1x1",
        "revised_prompt": "A cat.",
        "output_format": "png",
    }


def test_newer_models_get_no_response_format() -> None:
    upstreams = Upstreams(encode_in_chunks({"data": [{"b64_json": PIXEL}]}))
    make_image_with_api(upstreams, ImageRequest("a cat"), "gpt-image-2")
    assert "response_format" not in upstreams.requests[0][2]


@pytest.mark.parametrize(("count", "name"), [(1, "image"), (2, "image[]")])
def test_edited_images_are_sent_as_a_form(count: int, name: str) -> None:
    upstreams = Upstreams(encode_in_chunks({"data": [{"b64_json": PIXEL}]}))
    options = {"input_fidelity": "high", "output_compression": 50}
    request = ImageRequest("darker", [INPUT] * count, INPUT, options)
    make_image_with_api(upstreams, request, "gpt-image-2")
    _, path, form, _ = upstreams.requests[0]
    assert (path, type(form)) == ("/images/edits", MultipartForm)
    assert form.fields == {
        "model": "gpt-image-2",
        "prompt": "darker",
        "n": "1",
        "input_fidelity": "high",
        "output_compression": "50",
    }
    assert [field for field, _ in form.files] == [name] * count + ["mask"]
    filename, content, kind = form.files[0][1]
    assert (filename, content.read(), kind) == ("image.png", INPUT.data, "image/png")


def make_stream(*events: Json) -> list[bytes]:
    return [f"data: {json.dumps(event)}\n\n".encode() for event in events]


def test_last_event_of_a_stream_needs_no_blank_line() -> None:
    [event] = make_stream({"type": "image_generation.completed", "b64_json": PIXEL})
    upstreams = Upstreams([event.rstrip(b"\n")], "text/event-stream")
    image, _ = make_image_with_api(upstreams, ImageRequest("a cat", partial_images=1))
    assert image.data == PIXEL


def test_drafts_of_a_stream_are_reported_as_progress() -> None:
    draft = {"type": "image_generation.partial_image", "b64_json": "iVBORdraft",
             "partial_image_index": 0, "quality": "low"}  # fmt: skip
    done = {"type": "image_generation.completed", "b64_json": PIXEL, "usage": USAGE}
    upstreams = Upstreams(make_stream(draft, done), "text/event-stream; charset=utf-8")
    image, drafts = make_image_with_api(upstreams, ImageRequest("a cat", partial_images=2))
    assert upstreams.requests[0][2]["stream"] is True
    assert upstreams.requests[0][2]["partial_images"] == 2
    assert drafts == [("iVBORdraft", {"quality": "low", "output_format": "png"})]
    assert (image.data, image.usage) == (PIXEL, USAGE)


@pytest.mark.parametrize(
    ("answer", "kind", "reason"),
    [
        ([b"{"], "application/json", "is not JSON"),
        ([b"[]"], "application/json", "is not JSON"),
        (encode_in_chunks({"data": []}), "application/json", "has no image"),
        (encode_in_chunks({"data": [{}]}), "application/json", "has no image"),
        (encode_in_chunks({"data": [{"url": "https://x/"}]}), "application/json", "only as a URL"),
        ([], "text/event-stream", "ended without an image"),
        (make_stream({"type": "error", "error": {"message": "no"}}), "text/event-stream", "no"),
    ],
)
def test_answer_without_an_image_is_a_failure(answer: Any, kind: str, reason: str) -> None:
    with pytest.raises(ImageFailure, match=reason):
        make_image_with_api(Upstreams(answer, kind), ImageRequest("a cat"))


def test_large_answers_and_images_are_failures(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = encode_in_chunks({"data": [{"b64_json": PIXEL}]})
    monkeypatch.setattr(image_makers, "MAX_IMAGE_LENGTH", 10)
    with pytest.raises(ImageFailure, match="image is too large"):
        make_image_with_api(Upstreams(answer), ImageRequest("a cat"))
    monkeypatch.setattr(image_makers, "MAX_ANSWER_BYTES", 10)
    with pytest.raises(ImageFailure, match="answer is too large"):
        make_image_with_api(Upstreams(answer), ImageRequest("a cat"))


# -- models that make images ----------------------------------------------------------------------


def make_image_with_model(message: Any, request: ImageRequest) -> Any:
    upstreams: Any = Upstreams({"choices": [{"message": message}] if message else []})
    maker = ChatImageMaker("pics/gemini-image", lambda: upstreams)
    return maker.make_image(request, "client", Progress()), upstreams.requests[0]


def test_chat_model_is_requested_to_make_an_image() -> None:
    url = f"data:image/png;base64,{PIXEL}"
    message = {"content": "Here.", "images": [{"type": "image_url", "image_url": {"url": url}}]}
    options = {"size": "1024x1024", "quality": "low", "moderation": "low"}
    image, (request, client) = make_image_with_model(
        message, ImageRequest("darker", [INPUT], options=options)
    )
    assert (image.data, image.fields) == (PIXEL, {"output_format": "png"})
    assert (client, request["model"]) == ("client", "pics/gemini-image")
    assert request["modalities"] == ["image", "text"]
    assert request["messages"][0]["content"] == [
        {"type": "text", "text": "darker\nsize: 1024x1024\nquality: low"},
        {"type": "image_url", "image_url": {"url": INPUT.data_url}},
    ]


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ({"content": "I cannot."}, "made no image. It said: I cannot."),
        ({"images": [{"image_url": {"url": "https://x/a.png"}}]}, "only as a URL"),
        ({"images": ["x"]}, "made no image"),
        (None, "made no image"),
    ],
)
def test_answer_of_a_model_without_an_image_is_a_failure(message: Any, reason: str) -> None:
    with pytest.raises(ImageFailure, match=reason):
        make_image_with_model(message, ImageRequest("a cat"))
