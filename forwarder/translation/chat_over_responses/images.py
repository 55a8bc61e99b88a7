"""Images that a model made: Responses items -> ``images`` of a chat message, and back.

Chat has no such field of its own; this is the one that clients of OpenRouter read.  An entry is
``{"type": "image_url", "index": 0, "image_url": {"url": "data:image/png;base64,…"}}``, with the
``id`` of the call that made it, by which it can go back.
"""

from __future__ import annotations

from typing import Any

from forwarder.core.types import Event, Json
from forwarder.core.validate import DICT, STR, check_type, read_field
from forwarder.translation import content_parts
from forwarder.translation import images as pictures

IMAGE_CALL_TYPE = "image_generation_call"


class ImageDeltaWriter:
    """The images of one answer, each told once when it is finished."""

    def __init__(self) -> None:
        self.sent_indexes: set[Any] = set()  # the output indexes of those that were told
        self._draft_count = 0

    def write_image(self, index: Any, item: Json) -> list[Json]:
        """The delta that tells a finished image; none when there is no image, or it was told."""
        result = item.get("result")
        if not isinstance(result, str) or not result or index in self.sent_indexes:
            return []
        entry = make_image_entry(len(self.sent_indexes), result, item)
        self.sent_indexes.add(index)
        if item.get("id"):
            entry["id"] = item["id"]
        return [{"images": [entry]}]

    def write_draft(self, event: Event) -> list[Json]:
        """The delta that tells a draft: apart from the images, for it is no part of the answer.

        Drafts are numbered through, since clients add up what comes under one index.
        """
        data = event.get("partial_image_b64")
        if not isinstance(data, str) or not data:
            return []
        entry = make_image_entry(self._draft_count, data, event)
        self._draft_count += 1
        return [{"metadata": {"partial_images": [{**entry, "id": event.get("item_id")}]}}]


def make_image_entry(number: int, data: str, described: Json) -> Json:
    url = pictures.make_data_url(data, described.get("output_format"))
    return {"type": "image_url", "index": number, "image_url": {"url": url}}


# -- coming back in the history -----------------------------------------------------------------


class ImageHistory:
    """The images of assistant messages as input items; an id may come up only once."""

    def __init__(self) -> None:
        self._ids: set[str] = set()

    def convert_images(self, images: list[Any], path: str) -> list[Json]:
        """Each as the call that made it; without its id, as something that the user shows."""
        made: list[Json] = []
        shown: list[Json] = []
        for i, image in enumerate(images):
            where = f"{path}[{i}]"
            part = content_parts.convert_part(
                check_type(image, DICT, where), _IMAGE_CONVERTERS, where
            )
            call = self._make_call(image, part["image_url"], where)
            (made if call else shown).append(call or part)
        user = {"type": "message", "role": "user", "content": shown}
        return [*made, user] if shown else made

    def _make_call(self, image: Json, url: str, path: str) -> Json | None:
        own_id = read_field(image, "id", STR, f"{path}.id")
        read = pictures.parse_data_url(url)
        if not own_id or not read or own_id in self._ids:
            return None
        self._ids.add(own_id)
        return {"type": IMAGE_CALL_TYPE, "id": own_id, "status": "completed", "result": read[0]}


_IMAGE_CONVERTERS = {"image_url": content_parts.USER_TO_RESPONSES["image_url"]}
"""An assistant's content has no room for images."""
