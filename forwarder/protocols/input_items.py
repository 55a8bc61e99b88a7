"""Reads the ``input`` of a Responses request: its items, and references to earlier ones.

A client refers to an earlier item by its id, and to an earlier response by
``previous_response_id``.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from forwarder.core.errors import InvalidRequest, shorten_value
from forwarder.core.types import Json
from forwarder.core.validate import LIST, check_type

CLIENT_CALLS: dict[str, str] = {
    "function_call": "function_call_output",
    "custom_tool_call": "custom_tool_call_output",
    "local_shell_call": "local_shell_call_output",
    "shell_call": "shell_call_output",
    "apply_patch_call": "apply_patch_call_output",
    "tool_search_call": "tool_search_output",
    "computer_call": "computer_call_output",
}
"""Item type of a call that the client has to answer -> item type of its output."""


def read_input_items(request_input: Any) -> list[Any]:
    """Return an ``input`` as a list of items: a string is one user message, null is no item.

    Raises InvalidRequest for any other type. The items are not checked.
    """
    if request_input is None:
        return []
    if isinstance(request_input, str):
        return [make_user_message(request_input)]
    items: list[Any] = check_type(request_input, LIST, "input")
    return items


def make_user_message(content: str | list[Json]) -> Json:
    """Return a message item of the user."""
    return {"type": "message", "role": "user", "content": content}


_PLAIN_MESSAGE_FIELDS = {"type", "id", "status", "role", "content"}
_PLAIN_PART_FIELDS = {"type", "text", "annotations", "logprobs"}
_PART_TYPES = {
    "user": "input_text",
    "system": "input_text",
    "developer": "input_text",
    "assistant": "output_text",
}
"""Role of a message -> type of its texts."""


def read_plain_text(item: Json) -> str | None:
    """Return the text of a message that has nothing but a text, else None.

    The content is the text, or one part with it. Most items of a long history are such messages,
    and they need no further checks.
    """
    role, content = item.get("role"), item.get("content")
    if (
        not item.keys() <= _PLAIN_MESSAGE_FIELDS
        or type(role) is not str
        or role not in _PART_TYPES
        or item.get("type", "message") != "message"
        or type(item.get("id", "")) is not str
    ):
        return None
    if type(content) is str:
        return content
    if type(content) is not list or len(content) != 1 or type(part := content[0]) is not dict:
        return None
    if (
        not part.keys() <= _PLAIN_PART_FIELDS
        or part.get("type") != _PART_TYPES[role]
        or part.get("annotations")
        or part.get("logprobs")
    ):
        return None
    text = part.get("text")
    return text if type(text) is str else None


def has_items_of(items: list[Any], types: Collection[str]) -> bool:
    """Return whether an input has an item of one of these types."""
    for item in items:
        if isinstance(item, dict):
            kind = item.get("type")
            if isinstance(kind, str) and kind in types:
                return True
    return False


def is_item_reference(item: Any) -> bool:
    """Return whether an item is a reference. Malformed references are rejected elsewhere."""
    if not isinstance(item, dict) or not isinstance(item.get("id"), str):
        return False
    return item.get("type") == "item_reference" or not (item.get("type") or "role" in item)


def list_item_references(items: Any) -> list[str]:
    """Return the ids of all item references; empty if ``items`` is not a list."""
    if type(items) is not list:
        return []
    return [item["id"] for item in items if is_item_reference(item)]


def replace_item_references(items: list[Any], found_items: Mapping[str, Json]) -> list[Any]:
    """Return the items with references replaced; references that were not found stay."""
    return [
        found_items.get(item["id"], item) if is_item_reference(item) else item for item in items
    ]


def make_previous_response_error(name: object, *reason: str) -> InvalidRequest:
    """Return the error for a ``previous_response_id`` that does not exist for this client."""
    return InvalidRequest(
        " ".join((f"Previous response with id '{shorten_value(name)}' not found.", *reason)),
        param="previous_response_id",
        code="previous_response_not_found",
    )
