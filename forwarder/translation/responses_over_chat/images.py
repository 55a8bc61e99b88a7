"""Images: how chat upstreams answer with them, and the item that a Responses client gets.

An image by value becomes an ``image_generation_call``.  One by URL cannot: an item holds the data
itself, and nothing is fetched in here.  It becomes a Markdown image in the text.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from forwarder.core.types import Batch, Event, Json
from forwarder.translation import images
from forwarder.translation.responses_over_chat.items import make_added_event, make_done_event


class AnswerImage(NamedTuple):
    """An image of an answer: its base64 and format, or only its URL."""

    data: str
    format: str = ""
    url: str = ""


def read_image(part: Any) -> AnswerImage | None:
    """The image of a content part or of an entry of ``images``; ``None`` when it is none."""
    source = find_image_source(part)
    if not source:
        return None
    read = images.parse_data_url(source)
    if read is not None:
        return AnswerImage(*read) if read[0] else None
    if images.is_url(source):
        return AnswerImage("", url=source)
    return AnswerImage(source, images.detect_format(source))


def make_markdown_image(url: str) -> str:
    """An image by URL as text."""
    safe = url.replace("<", "%3C").replace(">", "%3E")
    return f"![image](<{safe}>)" if set(" ()") & set(url) or safe != url else f"![image]({url})"


def find_image_source(part: Any) -> str:
    """Where the image is, or its base64, in any of the vendors' spellings."""
    if isinstance(part, str):
        return part
    if not isinstance(part, dict):
        return ""
    for name, read in _SOURCE_READERS.items():
        if part.get(name):
            return read(part[name])
    return ""


def read_url(value: Any) -> str:
    url = value.get("url") if isinstance(value, dict) else value
    return url if isinstance(url, str) else ""


def read_inline_data(value: Any) -> str:
    """Gemini's own form."""
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
    """An image on its way.  It stays open, since the same one may come again with more of it."""

    def __init__(self, item_id: str, index: int, given: AnswerImage) -> None:
        self._index = index
        self._image = given
        self._base: Json = {"id": item_id, "type": "image_generation_call"}
        self._location = {"item_id": item_id, "output_index": index}
        self._partial_count = 0
        self.final_item: Json = {}

    def open(self) -> Batch:
        item = {**self._base, "status": "in_progress", "result": None}
        return [
            make_added_event(self._index, item),
            self._make_event("in_progress"),
            self._make_event("generating"),
        ]

    def is_prefix_of(self, given: AnswerImage) -> bool:
        """Is ``given`` this same image with more of it?"""
        return given.data.startswith(self._image.data)

    def replace_image(self, given: AnswerImage) -> Batch:
        """Only what comes after it tells that an image was but a part of it."""
        event = self._make_event("partial_image")
        before, self._image = self._image, given
        event |= {"partial_image_b64": before.data, "partial_image_index": self._partial_count}
        self._partial_count += 1
        return [event]

    def close(self, status: str) -> Batch:
        whole = status == "completed"
        said = {"result": self._image.data, "output_format": self._image.format}
        self.final_item = {**self._base, "status": "completed" if whole else "generating", **said}
        finished = [self._make_event("completed")] if whole else []
        return [*finished, make_done_event(self._index, self.final_item)]

    def _make_event(self, name: str) -> Event:
        return {"type": f"response.image_generation_call.{name}", **self._location}
