"""Images that a model made: Responses items -> ``images`` of a chat message, and back.

Chat has no such field of its own; this is the one that clients of OpenRouter read.  An entry is
``{"type": "image_url", "index": 0, "image_url": {"url": "data:image/png;base64,…"}}``, with the
``id`` of the call that made it, by which it can go back.
"""

from __future__ import annotations

from typing import Any

from forwarder.core.types import Event, Json
from forwarder.core.validate import DICT, STR, expect, optional
from forwarder.translation import content_parts
from forwarder.translation import images as pictures

CALL = "image_generation_call"


class Images:
    """The images of one answer, each told once when it is finished."""

    def __init__(self) -> None:
        self.told: set[Any] = set()  # the output indexes of those that were told
        self._drafts = 0

    def finished(self, index: Any, item: Json) -> list[Json]:
        """The delta that tells a finished image; none when there is no image, or it was told."""
        result = item.get("result")
        if not isinstance(result, str) or not result or index in self.told:
            return []
        entry = _entry(len(self.told), result, item)
        self.told.add(index)
        if item.get("id"):
            entry["id"] = item["id"]
        return [{"images": [entry]}]

    def draft(self, event: Event) -> list[Json]:
        """The delta that tells a draft: apart from the images, for it is no part of the answer.

        Drafts are numbered through, since clients add up what comes under one index.
        """
        data = event.get("partial_image_b64")
        if not isinstance(data, str) or not data:
            return []
        entry = _entry(self._drafts, data, event)
        self._drafts += 1
        return [{"metadata": {"partial_images": [{**entry, "id": event.get("item_id")}]}}]


def _entry(number: int, data: str, described: Json) -> Json:
    url = pictures.data_url(data, described.get("output_format"))
    return {"type": "image_url", "index": number, "image_url": {"url": url}}


# -- coming back in the history -----------------------------------------------------------------


class SentBack:
    """The images of assistant messages as input items; an id may come up only once."""

    def __init__(self) -> None:
        self._ids: set[str] = set()

    def items(self, images: list[Any], path: str) -> list[Json]:
        """Each as the call that made it; without its id, as something that the user shows."""
        made: list[Json] = []
        shown: list[Json] = []
        for i, image in enumerate(images):
            where = f"{path}[{i}]"
            part = content_parts.convert_one(expect(image, DICT, where), _SHOWN, where)
            call = self._call(image, part["image_url"], where)
            (made if call else shown).append(call or part)
        user = {"type": "message", "role": "user", "content": shown}
        return [*made, user] if shown else made

    def _call(self, image: Json, url: str, path: str) -> Json | None:
        own_id = optional(image, "id", STR, f"{path}.id")
        read = pictures.read(url)
        if not own_id or not read or own_id in self._ids:
            return None
        self._ids.add(own_id)
        return {"type": CALL, "id": own_id, "status": "completed", "result": read[0]}


_SHOWN = {"image_url": content_parts.USER_TO_RESPONSES["image_url"]}
"""An assistant's content has no room for images."""
