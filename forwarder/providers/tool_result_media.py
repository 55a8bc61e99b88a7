"""Moves the images and files of tool results, and omits images that a provider does not take.

Most providers take only text as the result of a tool.  For these, media move into a user message
after the results of the same turn.
"""

from __future__ import annotations

from typing import Any

from forwarder.core.translation_context import LossReport
from forwarder.core.types import Json
from forwarder.providers.profile import Profile

MEDIA_MOVED_NOTE = "[The tool's media is attached in the next message.]"
IMAGE_OMITTED_NOTE = "[An image was left out: it cannot be shown here.]"

_MEDIA_TYPES = ("image_url", "file", "input_audio")


def place_media(messages: list[Json], profile: Profile, loss_report: LossReport) -> list[Json]:
    """Return the messages with media only where the provider takes them."""
    if profile.image_url == "none":
        messages = [omit_images(m, loss_report, "images", profile) for m in messages]
    if not any(map(is_result_with_media, messages)):
        return messages
    if profile.tool_image == "drop":
        messages = [
            omit_images(m, loss_report, "tool_images", profile) if is_result_with_media(m) else m
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


def omit_images(message: Json, loss_report: LossReport, name: str, profile: Profile) -> Json:
    """Replace each image of a message by a note and report the loss."""
    if not any(map(is_image_part, get_parts(message))):
        return message
    loss_report.drop(name, f"{profile.name} does not take them")
    note = {"type": "text", "text": IMAGE_OMITTED_NOTE}
    return {**message, "content": [note if is_image_part(p) else p for p in get_parts(message)]}


def move_media(messages: list[Json]) -> list[Json]:
    """Move the media of tool results into a user message after the last result of a turn."""
    moved: list[Json] = []
    media: list[Json] = []
    note = {"type": "text", "text": MEDIA_MOVED_NOTE}
    for message in messages:
        if message.get("role") != "tool" and media:
            moved.append({"role": "user", "content": media})
            media = []
        if is_result_with_media(message):
            parts = get_parts(message)
            media += [part for part in parts if is_media_part(part)]
            texts = [part for part in parts if not is_media_part(part)]
            message = {**message, "content": [*texts, note]}
        moved.append(message)
    return [*moved, {"role": "user", "content": media}] if media else moved
