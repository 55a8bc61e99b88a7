"""Where the images and files of tool results go, and images that a provider cannot see at all.

Most providers take nothing but text as the result of a tool.  What else there is moves into a
user message, behind all the results that belong together.
"""

from __future__ import annotations

from typing import Any

from forwarder.core.translation_context import Ledger
from forwarder.core.types import Json
from forwarder.providers.profile import Profile

NEXT = "[The tool's media is attached in the next message.]"
LEFT_OUT = "[An image was left out: it cannot be shown here.]"

_MEDIA = ("image_url", "file", "input_audio")


def placed(messages: list[Json], profile: Profile, ledger: Ledger) -> list[Json]:
    """The messages with media only where the provider takes them."""
    if profile.image_url == "none":
        messages = [_blind(m, ledger, "images", profile) for m in messages]
    if not any(map(_is_result_with_media, messages)):
        return messages
    if profile.tool_image == "drop":
        messages = [
            _blind(m, ledger, "tool_images", profile) if _is_result_with_media(m) else m
            for m in messages
        ]
    return messages if profile.tool_image == "inline" else _moved(messages)


def _is_result_with_media(message: Json) -> bool:
    return message.get("role") == "tool" and any(map(_is_media, _parts(message)))


def _is_media(part: Any) -> bool:
    return isinstance(part, dict) and part.get("type") in _MEDIA


def _is_image(part: Any) -> bool:
    return isinstance(part, dict) and part.get("type") == "image_url"


def _parts(message: Json) -> list[Any]:
    content = message.get("content")
    return content if isinstance(content, list) else []


def _blind(message: Json, ledger: Ledger, name: str, profile: Profile) -> Json:
    """The message with a note in the place of each image."""
    if not any(map(_is_image, _parts(message))):
        return message
    ledger.drop(name, f"{profile.name} does not take them")
    note = {"type": "text", "text": LEFT_OUT}
    return {**message, "content": [note if _is_image(p) else p for p in _parts(message)]}


def _moved(messages: list[Json]) -> list[Json]:
    """Media of tool results in a message of their own, behind the last result of a batch."""
    made: list[Json] = []
    media: list[Json] = []
    for message in messages:
        if message.get("role") != "tool" and media:
            made.append({"role": "user", "content": media})
            media = []
        found = [part for part in _parts(message) if _is_media(part)]
        if message.get("role") == "tool" and found:
            media += found
            message = {**message, "content": _told(message)}
        made.append(message)
    return [*made, {"role": "user", "content": media}] if media else made


def _told(message: Json) -> Any:
    """A result's own text, and where the rest of it is."""
    texts = [part for part in _parts(message) if not _is_media(part)]
    return [*texts, {"type": "text", "text": NEXT}]
