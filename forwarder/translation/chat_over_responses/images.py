"""Generated images: Responses items -> ``images`` of a chat message, and back in the history.

OpenAI's Chat API has no field for images; clients of OpenRouter read ``images``.  An entry is
``{"type": "image_url", "index": 0, "image_url": {"url": "data:image/png;base64,…"}}``, with the
``id`` of the call that made the image, so that the history can name this call.
"""

from __future__ import annotations

from typing import Any

from forwarder.core.types import Event, Json
from forwarder.core.validate import DICT, STR, check_type, read_field
from forwarder.translation import content_parts
from forwarder.translation import images as pictures

IMAGE_CALL_TYPE = "image_generation_call"


class ImageDeltaWriter:
    """Writes the deltas for the images of one answer, each image once when it is finished."""

    def __init__(self) -> None:
        self.sent_indexes: set[Any] = set()  # output indexes of the images sent
        self._draft_count = 0

    def write_image(self, index: Any, item: Json) -> list[Json]:
        """Return the delta for a finished image, nothing if it is missing or was already sent."""
        result = item.get("result")
        if not isinstance(result, str) or not result or index in self.sent_indexes:
            return []
        entry = make_image_entry(len(self.sent_indexes), result, item)
        self.sent_indexes.add(index)
        if item.get("id"):
            entry["id"] = item["id"]
        return [{"images": [entry]}]

    def write_draft(self, event: Event) -> list[Json]:
        """Return the delta for a draft, in ``metadata``: drafts are not part of the answer.

        Each draft of an answer has its own index, because clients merge entries of the same index.
        """
        data = event.get("partial_image_b64")
        if not isinstance(data, str) or not data:
            return []
        entry = make_image_entry(self._draft_count, data, event)
        self._draft_count += 1
        return [{"metadata": {"partial_images": [{**entry, "id": event.get("item_id")}]}}]


def make_image_entry(number: int, data: str, source: Json) -> Json:
    url = pictures.make_data_url(data, source.get("output_format"))
    return {"type": "image_url", "index": number, "image_url": {"url": url}}


# -- history ------------------------------------------------------------------------------------


class ImageHistory:
    """Converts images of assistant messages to input items, each call id at most once."""

    def __init__(self) -> None:
        self._ids: set[str] = set()

    def convert_images(self, images: list[Any], path: str) -> list[Json]:
        """Convert each image to the call that made it, or without an id to an image of the user."""
        calls: list[Json] = []
        parts: list[Json] = []
        for i, image in enumerate(images):
            image_path = f"{path}[{i}]"
            part = content_parts.convert_part(
                check_type(image, DICT, image_path), _IMAGE_CONVERTERS, image_path
            )
            call = self._make_call(image, part["image_url"], image_path)
            if call:
                calls.append(call)
            else:
                parts.append(part)
        user_message = {"type": "message", "role": "user", "content": parts}
        return [*calls, user_message] if parts else calls

    def _make_call(self, image: Json, url: str, path: str) -> Json | None:
        call_id = read_field(image, "id", STR, f"{path}.id")
        parsed = pictures.parse_data_url(url)
        if not call_id or not parsed or call_id in self._ids:
            return None
        self._ids.add(call_id)
        return {"type": IMAGE_CALL_TYPE, "id": call_id, "status": "completed", "result": parsed[0]}


_IMAGE_CONVERTERS = {"image_url": content_parts.USER_TO_RESPONSES["image_url"]}
"""``images`` takes only images; the user's table has the converter for them."""
