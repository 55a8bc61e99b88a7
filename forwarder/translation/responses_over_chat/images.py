"""Images in chat answers -> Responses items.

An image by value becomes an ``image_generation_call`` item.  Such an item needs the data of the
image, and the translation fetches nothing.  So an image by URL becomes Markdown in the text.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from forwarder.core.types import Batch, Event, Json
from forwarder.protocols.types import make_item_added, make_item_done
from forwarder.translation import images


class AnswerImage(NamedTuple):
    """An image of an answer: its base64 and its format, or only its URL."""

    data: str
    format: str = ""
    url: str = ""


def read_image(part: Any) -> AnswerImage | None:
    """Return the image of a content part or an entry of ``images``, ``None`` without an image."""
    source = find_image_source(part)
    if not source:
        return None
    parsed = images.parse_data_url(source)
    if parsed is not None:
        return AnswerImage(*parsed) if parsed[0] else None
    if images.is_url(source):
        return AnswerImage("", url=source)
    return AnswerImage(source, images.detect_format(source))


def make_markdown_image(url: str) -> str:
    """Return Markdown for an image, safe for URLs with spaces, parentheses or angle brackets."""
    safe = url.replace("<", "%3C").replace(">", "%3E")
    return f"![image](<{safe}>)" if set(" ()") & set(url) or safe != url else f"![image]({url})"


def find_image_source(part: Any) -> str:
    """Return the URL or base64 of an image in any vendor's format, ``""`` without an image."""
    if isinstance(part, str):
        return part
    if not isinstance(part, dict):
        return ""
    for name, reader in _SOURCE_READERS.items():
        if part.get(name):
            return reader(part[name])
    return ""


def read_url(value: Any) -> str:
    url = value.get("url") if isinstance(value, dict) else value
    return url if isinstance(url, str) else ""


def read_inline_data(value: Any) -> str:
    """Return Gemini's inline data as a data URL."""
    if not isinstance(value, dict) or not isinstance(value.get("data"), str):
        return ""
    kind = value.get("mime_type") or value.get("mimeType") or ""
    return f"data:{kind};base64,{value['data']}"


_SOURCE_READERS: dict[str, Callable[[Any], str]] = {
    "image_url": read_url,
    "inline_data": read_inline_data,
    "inlineData": read_inline_data,
    "image": read_url,
    "b64_json": read_url,
}


class ImageItem:
    """An image item.  It stays open because an upstream may resend the image with more data."""

    def __init__(self, item_id: str, index: int, image: AnswerImage) -> None:
        self._index = index
        self._image = image
        self._base: Json = {"id": item_id, "type": "image_generation_call"}
        self._location = {"item_id": item_id, "output_index": index}
        self._partial_count = 0
        self.final_item: Json = {}

    def open(self) -> Batch:
        item = {**self._base, "status": "in_progress", "result": None}
        return [
            make_item_added(item, self._index),
            self._make_event("in_progress"),
            self._make_event("generating"),
        ]

    def is_prefix_of(self, image: AnswerImage) -> bool:
        """Whether ``image`` is the same image with more data."""
        return image.data.startswith(self._image.data)

    def replace_image(self, image: AnswerImage) -> Batch:
        """Replace the image, and emit the previous one, now known to be partial."""
        event = self._make_event("partial_image")
        partial, self._image = self._image, image
        event |= {"partial_image_b64": partial.data, "partial_image_index": self._partial_count}
        self._partial_count += 1
        return [event]

    def close(self, status: str) -> Batch:
        is_complete = status == "completed"
        self.final_item = {
            **self._base,
            "status": "completed" if is_complete else "generating",
            "result": self._image.data,
            "output_format": self._image.format,
        }
        events = [self._make_event("completed")] if is_complete else []
        return [*events, make_item_done(self.final_item, self._index)]

    def _make_event(self, name: str) -> Event:
        return {"type": f"response.image_generation_call.{name}", **self._location}
