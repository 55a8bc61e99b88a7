"""Where the images and files of tool results go, and images that a provider cannot see at all.

Most providers take nothing but text as the result of a tool.  What else there is moves into a
user message, behind all the results that belong together.
"""

from __future__ import annotations

from typing import Any

from forwarder.core.translation_context import LossReport
from forwarder.core.types import Json
from forwarder.providers.profile import Profile

MEDIA_MOVED_NOTE = "[The tool's media is attached in the next message.]"
IMAGE_OMITTED_NOTE = "[An image was left out: it cannot be shown here.]"

_MEDIA_TYPES = ("image_url", "file", "input_audio")


def place_media(messages: list[Json], profile: Profile, ledger: LossReport) -> list[Json]:
    """The messages with media only where the provider takes them."""
    if profile.image_url == "none":
        messages = [omit_images(m, ledger, "images", profile) for m in messages]
    if not any(map(is_result_with_media, messages)):
        return messages
    if profile.tool_image == "drop":
        messages = [
            omit_images(m, ledger, "tool_images", profile) if is_result_with_media(m) else m
            for m in messages
        ]
    return messages if profile.tool_image == "inline" else move_media(messages)


def is_result_with_media(message: Json) -> bool:
    return message.get("role") == "tool" and any(map(is_media_part, get_parts(message)))


def is_media_part(part: Any) -> bool:
    return isinstance(part, dict) and part.get("type") in _MEDIA_TYPES


def is_image_part(part: Any) -> bool:
    return isinstance(part, dict) and part.get("type") == "image_url"


def get_parts(message: Json) -> list[Any]:
    content = message.get("content")
    return content if isinstance(content, list) else []


def omit_images(message: Json, ledger: LossReport, name: str, profile: Profile) -> Json:
    """The message with a note in the place of each image."""
    if not any(map(is_image_part, get_parts(message))):
        return message
    ledger.drop(name, f"{profile.name} does not take them")
    note = {"type": "text", "text": IMAGE_OMITTED_NOTE}
    return {**message, "content": [note if is_image_part(p) else p for p in get_parts(message)]}


def move_media(messages: list[Json]) -> list[Json]:
    """Media of tool results in a message of their own, behind the last result of a batch."""
    made: list[Json] = []
    media: list[Json] = []
    for message in messages:
        if message.get("role") != "tool" and media:
            made.append({"role": "user", "content": media})
            media = []
        found = [part for part in get_parts(message) if is_media_part(part)]
        if message.get("role") == "tool" and found:
            media += found
            message = {**message, "content": add_media_note(message)}
        made.append(message)
    return [*made, {"role": "user", "content": media}] if media else made


def add_media_note(message: Json) -> Any:
    """A result's own text, and where the rest of it is."""
    texts = [part for part in get_parts(message) if not is_media_part(part)]
    return [*texts, {"type": "text", "text": MEDIA_MOVED_NOTE}]
