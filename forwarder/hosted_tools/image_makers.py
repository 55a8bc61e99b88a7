"""Makers of images: an upstream's images API, or a model that makes images in its answers."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from typing import IO, Any, NamedTuple, Protocol

from forwarder.core.data_urls import Blob
from forwarder.core.types import Json
from forwarder.hosted_tools.greenlet_call import ToolFailure
from forwarder.hosted_tools.tool_context import GeneratedImage, GetUpstreams
from forwarder.protocols.framing import SseDecoder
from forwarder.translation.images import detect_format, is_url, parse_data_url
from forwarder.upstream.files import MultipartForm, PassthroughResponse

MAX_IMAGE_LENGTH = 24 * 2**20
"""Characters of the Base64 of an image."""

MAX_ANSWER_BYTES = 48 * 2**20
"""Size of an answer with its drafts."""

IMAGE_SECONDS = 180.0
"""Seconds for one image, unless calls of tools may take longer."""

BASE64_ONLY_MODELS = ("gpt-image*", "chatgpt-image*")
"""Models that always answer with Base64 and reject ``response_format``."""

SHOWN_FIELDS: dict[str, tuple[str, ...]] = {
    "background": ("transparent", "opaque", "auto"),
    "output_format": ("png", "webp", "jpeg", "gif", "svg"),
    "quality": ("low", "medium", "high", "xhigh", "max", "auto"),
}
"""Fields of an answer that the item shows if they have one of these values."""

MAX_REASON_LENGTH = 300


class ImageFailure(ToolFailure):
    """No image was made; the message is for the model and the client."""


class ImageRequest(NamedTuple):
    """The description of an image to make or edit.

    ``images`` are those to edit; without any, a new one is made. ``options`` are the fields of the
    tool that the images API has too. ``partial_images`` is the number of drafts.
    """

    prompt: str
    images: list[Blob] = []
    mask: Blob | None = None
    options: Json = {}
    partial_images: int = 0


class ImageProgress(Protocol):
    """The call for which an image is made."""

    cancel_callbacks: set[Callable[[], None]]

    @property
    def is_cancelled(self) -> bool: ...

    def add_partial_image(self, data: str, fields: Json) -> None:
        """Receive a draft, as Base64."""


class ImageMaker(Protocol):
    def make_image(
        self, request: ImageRequest, client: str, progress: ImageProgress
    ) -> GeneratedImage:
        """Make an image. ``client`` pays for it. Raises ToolFailure or ForwarderError."""


# -- the images API -------------------------------------------------------------------------------


class ApiImageMaker:
    """Uses ``/images/generations`` and ``/images/edits`` of an upstream."""

    def __init__(self, upstream: str, model: str, get_upstreams: GetUpstreams) -> None:
        self._upstream = upstream
        self._model = model
        self._get_upstreams = get_upstreams

    def make_image(
        self, request: ImageRequest, client: str, progress: ImageProgress
    ) -> GeneratedImage:
        path = "/images/edits" if request.images else "/images/generations"
        content = self._make_content(request)

        def read(response: PassthroughResponse) -> GeneratedImage:
            return read_answer(response, progress)

        upstreams = self._get_upstreams()
        return upstreams.send_images(self._upstream, path, content, client, progress, read)

    def _make_content(self, request: ImageRequest) -> Json | MultipartForm:
        body: Json = {"model": self._model, "prompt": request.prompt, "n": 1, **request.options}
        if not any(fnmatchcase(self._model, pattern) for pattern in BASE64_ONLY_MODELS):
            body["response_format"] = "b64_json"
        if request.partial_images:
            body |= {"stream": True, "partial_images": request.partial_images}
        if not request.images:
            return {name: value for name, value in body.items() if name != "input_fidelity"}
        field = "image" if len(request.images) == 1 else "image[]"
        files = [(field, make_file(image)) for image in request.images]
        if request.mask is not None:
            files.append(("mask", make_file(request.mask)))
        fields = {name: value if isinstance(value, str) else json.dumps(value)
                  for name, value in body.items()}  # fmt: skip
        return MultipartForm(fields, files)


def make_file(image: Blob) -> tuple[str, IO[bytes], str]:
    suffix = image.type.rpartition("/")[2].partition("+")[0]
    return f"image.{suffix}", io.BytesIO(image.data), image.type


def read_answer(response: PassthroughResponse, progress: ImageProgress) -> GeneratedImage:
    """Read an answer of the images API, whole or as a stream. Raises ImageFailure."""
    kind = response.headers.get("content-type", "")
    if "text/event-stream" in kind:
        return read_stream(limit_chunks(response.chunks), progress)
    try:
        answer = json.loads(b"".join(limit_chunks(response.chunks)))
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        raise ImageFailure("The upstream's answer is not JSON.")
    entries = answer.get("data")
    entry = entries[0] if isinstance(entries, list) and entries else None
    if not isinstance(entry, dict):
        raise ImageFailure("The upstream's answer has no image.")
    return parse_image({**answer, **entry})


def read_stream(chunks: Iterator[bytes], progress: ImageProgress) -> GeneratedImage:
    for event in decode_events(chunks):
        kind = str(event.get("type"))
        if kind.endswith(".partial_image"):
            image = parse_image(event)
            progress.add_partial_image(image.data, image.fields)
        elif kind.endswith(".completed"):
            return parse_image(event)
        elif event.get("error"):
            raise ImageFailure(f"The upstream has failed: {read_reason(event['error'])}")
    raise ImageFailure("The upstream's stream has ended without an image.")


def decode_events(chunks: Iterator[bytes]) -> Iterator[Json]:
    """Yield the events of a stream, also one without the blank line at its end."""
    decoder = SseDecoder()
    for chunk in chunks:
        yield from decoder.feed(chunk)
    yield from decoder.flush()


def read_reason(error: Any) -> str:
    message = error.get("message") if isinstance(error, dict) else error
    return str(message)[:MAX_REASON_LENGTH]


def limit_chunks(chunks: Iterator[bytes]) -> Iterator[bytes]:
    left = MAX_ANSWER_BYTES
    for chunk in chunks:
        left -= len(chunk)
        if left < 0:
            raise ImageFailure("The upstream's answer is too large.")
        yield chunk


def parse_image(answer: Json) -> GeneratedImage:
    """Return the image of an answer or an event. Raises ImageFailure if it has no Base64."""
    data = answer.get("b64_json")
    if not isinstance(data, str) or not data:
        has_url = isinstance(answer.get("url"), str)
        reason = "the image only as a URL" if has_url else "no image"
        raise ImageFailure(f"The upstream's answer has {reason}.")
    check_length(data)
    fields: Json = {name: answer[name] for name, values in SHOWN_FIELDS.items()
                    if answer.get(name) in values}  # fmt: skip
    fields |= {name: answer[name] for name in ("size", "revised_prompt")
               if isinstance(answer.get(name), str)}  # fmt: skip
    fields.setdefault("output_format", detect_format(data))
    usage = answer.get("usage")
    return GeneratedImage(data, fields, usage if isinstance(usage, dict) else None)


def check_length(data: str) -> None:
    if len(data) > MAX_IMAGE_LENGTH:
        raise ImageFailure("The image is too large.")


# -- models that make images ----------------------------------------------------------------------


class ChatImageMaker:
    """Asks a model for an image; ``model`` is its name for clients."""

    def __init__(self, model: str, get_upstreams: GetUpstreams) -> None:
        self._model = model
        self._get_upstreams = get_upstreams

    def make_image(
        self, request: ImageRequest, client: str, progress: ImageProgress
    ) -> GeneratedImage:
        images = [{"type": "image_url", "image_url": {"url": image.data_url}} for image in
                  request.images]  # fmt: skip
        body: Json = {
            "model": self._model,
            "messages": [
                {
                    "role": "user",
                    "content": [{"type": "text", "text": make_prompt(request)}, *images],
                }
            ],
            "modalities": ["image", "text"],
            "stream": False,
        }
        completion = self._get_upstreams().ask_chat(body, client, progress)
        choices = completion.get("choices")
        message = choices[0].get("message") if choices else None
        return find_image(message if isinstance(message, dict) else {})


def make_prompt(request: ImageRequest) -> str:
    """Return the prompt with the options, for a model that has no parameters for them."""
    options = [f"{name}: {value}" for name, value in request.options.items()
              if name in ("size", "quality", "background") and value != "auto"]  # fmt: skip
    return "\n".join([request.prompt, *options])


def find_image(message: Json) -> GeneratedImage:
    """Return the first image of a message. Raises ImageFailure."""
    for entry in message.get("images") or ():
        value = entry.get("image_url") if isinstance(entry, dict) else None
        url = value.get("url") if isinstance(value, dict) else value
        parsed = parse_data_url(url) if isinstance(url, str) else None
        if parsed is not None:
            check_length(parsed[0])
            return GeneratedImage(parsed[0], make_format_field(parsed[1]))
        if isinstance(url, str) and is_url(url):
            raise ImageFailure("The model has sent the image only as a URL.")
    text = str(message.get("content") or message.get("refusal") or "")[:MAX_REASON_LENGTH]
    raise ImageFailure(f"The model has made no image. It said: {text}")


def make_format_field(name: str) -> Json:
    return {"output_format": name} if name in SHOWN_FIELDS["output_format"] else {}
