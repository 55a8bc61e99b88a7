"""Estimates token counts; exact counts would need the tokenizer of each model.

All parts of the forwarder use this estimate: ``/v1/responses/input_tokens``, the threshold of
``context_management``, and the usage of answers that the forwarder cuts. Current models average
about four characters of English text per token, and one to two characters of Chinese or Japanese.
Images and files count as much as the API documentation states for average ones.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from typing import Any

from forwarder.core.types import Json
from forwarder.protocols.input_items import read_input_items

CHARACTERS_PER_TOKEN = 4.0
"""ASCII characters per token."""

WIDE_CHARACTERS_PER_TOKEN = 1.5
"""Non-ASCII characters per token."""

TOKENS_PER_ITEM = 4
"""Overhead of each message or item, in tokens."""

IMAGE_TOKENS = {"low": 85, "high": 765, "auto": 765, "original": 1105}
FILE_TOKENS = 1000
"""Assumed tokens of a file or recording, because the content is not inspected."""

_IMAGE_TYPES = ("input_image", "image_url", "computer_screenshot", "image_generation_call")
_FILE_TYPES = ("input_file", "file", "input_audio")

_COUNTED_PARAMETERS = ("instructions", "tools", "text", "response_format")
"""Parameters that providers put into the prompt, besides messages and items."""

_UNCOUNTED_FIELDS = ("content", "output", "id", "type", "status")
"""Fields of an item that are counted otherwise or not sent to the model."""


def estimate_request_tokens(request: Json) -> int:
    """Return the input tokens of a Chat or Responses request.

    Raises InvalidRequest if ``input`` is neither a string nor a list.
    """
    messages = request.get("messages")
    items = messages if isinstance(messages, list) else read_input_items(request.get("input"))
    parameters = (request.get(name) for name in _COUNTED_PARAMETERS)
    return sum(map(estimate_text_tokens, parameters)) + sum(
        TOKENS_PER_ITEM + estimate_item_tokens(item) for item in items
    )


def estimate_item_tokens(item: Any) -> int:
    """Return the tokens of a message or an input item."""
    if not isinstance(item, dict) or item.get("type") in _IMAGE_TYPES:
        return estimate_content_tokens(item)
    rest = {k: v for k, v in item.items() if k not in _UNCOUNTED_FIELDS}
    contents = item.get("content"), item.get("output")
    return estimate_text_tokens(rest) + sum(map(estimate_content_tokens, contents))


def estimate_content_tokens(content: Any) -> int:
    """Return the tokens of a content: a text, a part or a list of parts."""
    if isinstance(content, list):
        return sum(map(estimate_content_tokens, content))
    if not isinstance(content, dict):
        return estimate_text_tokens(content)
    kind = content.get("type")
    if kind in _IMAGE_TYPES:
        image = content.get("image_url")  # Chat has the detail in an object
        detail = image.get("detail") if isinstance(image, dict) else content.get("detail")
        return IMAGE_TOKENS.get(str(detail), IMAGE_TOKENS["auto"])
    if kind in _FILE_TYPES:
        return FILE_TOKENS
    return estimate_text_tokens(content.get("text", content.get("refusal")))


def estimate_text_tokens(value: Any) -> int:
    """Return the tokens of a string, or of any other value as JSON; empty values have none."""
    if not value:
        return 0
    if not isinstance(value, str):
        value = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return sum_text_tokens((value,))


def sum_text_tokens(texts: Iterable[str]) -> int:
    """Return the tokens of several texts that belong together, such as the deltas of an answer."""
    plain = wide = 0
    for text in texts:
        ascii_count = len(text) if text.isascii() else len(text.encode("ascii", "ignore"))
        plain += ascii_count
        wide += len(text) - ascii_count
    return math.ceil(plain / CHARACTERS_PER_TOKEN + wide / WIDE_CHARACTERS_PER_TOKEN)
