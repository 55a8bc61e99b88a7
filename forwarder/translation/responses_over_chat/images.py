"""Images: how chat upstreams answer with them, and the item that a Responses client gets.

An image by value becomes an ``image_generation_call``.  One by URL cannot: an item holds the data
itself, and nothing is fetched in here.  It becomes a Markdown image in the text.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from forwarder.core.types import Batch, Event, Json
from forwarder.translation import images
from forwarder.translation.responses_over_chat.items import added, done


class Picture(NamedTuple):
    """An image of an answer: its base64 and format, or only its URL."""

    data: str
    format: str = ""
    url: str = ""


def picture(part: Any) -> Picture | None:
    """The image of a content part or of an entry of ``images``; ``None`` when it is none."""
    source = _source(part)
    if not source:
        return None
    read = images.read(source)
    if read is not None:
        return Picture(*read) if read[0] else None
    if images.is_link(source):
        return Picture("", url=source)
    return Picture(source, images.format_of(source))


def markdown(url: str) -> str:
    """An image by URL as text."""
    safe = url.replace("<", "%3C").replace(">", "%3E")
    return f"![image](<{safe}>)" if set(" ()") & set(url) or safe != url else f"![image]({url})"


def _source(part: Any) -> str:
    """Where the image is, or its base64, in any of the vendors' spellings."""
    if isinstance(part, str):
        return part
    if not isinstance(part, dict):
        return ""
    for name, read in _SPELLINGS.items():
        if part.get(name):
            return read(part[name])
    return ""


def _url_in(value: Any) -> str:
    url = value.get("url") if isinstance(value, dict) else value
    return url if isinstance(url, str) else ""


def _inline(value: Any) -> str:
    """Gemini's own form."""
    if not isinstance(value, dict) or not isinstance(value.get("data"), str):
        return ""
    kind = value.get("mime_type") or value.get("mimeType") or ""
    return f"data:{kind};base64,{value['data']}"


_SPELLINGS: dict[str, Callable[[Any], str]] = {
    "image_url": _url_in,
    "inline_data": _inline,
    "inlineData": _inline,
    "image": _url_in,
    "b64_json": _url_in,
}


class Image:
    """An image on its way.  It stays open, since the same one may come again with more of it."""

    def __init__(self, item_id: str, index: int, given: Picture) -> None:
        self._index = index
        self._given = given
        self._base: Json = {"id": item_id, "type": "image_generation_call"}
        self._where = {"item_id": item_id, "output_index": index}
        self._partial = 0
        self.done: Json = {}

    def open(self) -> Batch:
        item = {**self._base, "status": "in_progress", "result": None}
        return [added(self._index, item), self._event("in_progress"), self._event("generating")]

    def is_begun_by(self, given: Picture) -> bool:
        """Is ``given`` this same image with more of it?"""
        return given.data.startswith(self._given.data)

    def grow(self, given: Picture) -> Batch:
        """Only what comes after it tells that an image was but a part of it."""
        event = self._event("partial_image")
        before, self._given = self._given, given
        event |= {"partial_image_b64": before.data, "partial_image_index": self._partial}
        self._partial += 1
        return [event]

    def close(self, status: str) -> Batch:
        whole = status == "completed"
        said = {"result": self._given.data, "output_format": self._given.format}
        self.done = {**self._base, "status": "completed" if whole else "generating", **said}
        finished = [self._event("completed")] if whole else []
        return [*finished, done(self._index, self.done)]

    def _event(self, name: str) -> Event:
        return {"type": f"response.image_generation_call.{name}", **self._where}
