"""Validate new items, and render stored items as the API shows them: complete and with an id."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from forwarder.core.errors import InvalidRequest
from forwarder.core.ids import ID_SOURCE
from forwarder.core.translation_context import LossReport, TranslationContext
from forwarder.core.types import Json
from forwarder.core.validate import (
    DICT,
    LIST,
    STR,
    check_enum,
    check_type,
    make_missing_parameter_error,
    read_field,
    require_field,
)
from forwarder.middleware.media.locations import find_media, replace_media
from forwarder.middleware.media.stage import check_media
from forwarder.protocols.input_items import CLIENT_CALLS, read_input_items
from forwarder.protocols.item_dispositions import INPUT_ITEMS, parse_row_type
from forwarder.storage.db.tables import MAX_ID_BYTES, is_valid_id
from forwarder.translation.responses_over_chat.request import check_item

ITEM_TYPES = frozenset(map(parse_row_type, INPUT_ITEMS)) - {"item_reference", "compaction_trigger"}
MESSAGE_ROLES = ("user", "assistant", "system", "developer")

ID_PREFIXES = {
    "message": "msg",
    "reasoning": "rs",
    "function_call": "fc",
    "function_call_output": "fco",
    "custom_tool_call": "ctc",
    "custom_tool_call_output": "ctco",
    "compaction": "cmp",
}
"""Item type -> prefix of generated ids. Other types use ``item``."""

ITEM_ID = re.compile(r"[\w.:-]{1,256}", re.ASCII)
"""Ids that an item may have and that can be used in a URL."""

RESPONSE_ID_PREFIX = "resp_"
DERIVED_ID = re.compile(r"[a-z]+_(.+)-(\d{1,9})")

EMPTY_TEXT_PART: Json = {"type": "input_text", "text": ""}
TYPES_WITH_STATUS = frozenset({"message", *CLIENT_CALLS, *CLIENT_CALLS.values()})


def to_items(request_input: Any) -> list[Json]:
    """Return a request's ``input`` as items; a string becomes a user message.

    Raises InvalidRequest for an item that is not an object or has an id that cannot be stored.
    """
    if not isinstance(request_input, str | list):
        return []
    items = read_input_items(request_input)
    for i, item in enumerate(items):
        if type(item) is not dict:
            check_type(item, DICT, f"input[{i}]")
        if type(item.get("id")) is str:
            check_id(item["id"], f"input[{i}].id")
    return items


def check_id(name: str, param: str) -> None:
    """Raise InvalidRequest for an id that cannot be stored."""
    if not is_valid_id(name):
        raise InvalidRequest(
            f"Invalid value for '{param}': ids have up to {MAX_ID_BYTES} bytes and no NUL.",
            param=param,
            code="invalid_value",
        )


def render_item(item: Json, fallback_id: str) -> Json:
    """Return an item with all fields; an item without an id gets ``fallback_id``."""
    kind, own_id = read_item_type(item), item.get("id")
    name = own_id if isinstance(own_id, str) and own_id else fallback_id
    whole = {**item, "type": kind, "id": name}
    if kind in TYPES_WITH_STATUS:
        whole["status"] = item.get("status") or "completed"
    if kind == "message":
        whole["content"] = render_content(item)
    elif kind == "reasoning":
        whole["summary"] = item.get("summary") or []
    return whole


def read_item_type(item: Json) -> str:
    """Return the item's type; the API allows messages without one."""
    return str(item.get("type") or ("message" if "role" in item else "item_reference"))


def render_content(item: Json) -> list[Json]:
    """Return the parts of a message. Some upstreams accept and send malformed ones."""
    kind = "output_text" if item.get("role") == "assistant" else "input_text"
    content = item.get("content")
    parts = [content] if isinstance(content, str) else content
    if not isinstance(parts, list):
        return []
    known = [{"type": kind, "text": part} if isinstance(part, str) else part for part in parts]
    return [render_part(part) for part in known if isinstance(part, dict)]


def render_part(part: Json) -> Json:
    if part.get("type") == "output_text":
        return {"annotations": [], "logprobs": [], **part}
    if part.get("type") == "input_image":
        return {"detail": "auto", "file_id": None, "image_url": None, **part}
    return part


def derive_id(item: Json, holder: str, place: int) -> str:
    """Return a stable id for an item without one.

    The id encodes its holder (a response or conversation) and its position, so that it can be
    found.
    """
    prefix = ID_PREFIXES.get(read_item_type(item), "item")
    return f"{prefix}_{holder.removeprefix(RESPONSE_ID_PREFIX)}-{place}"


def parse_derived_id(item_id: str) -> tuple[list[str], int]:
    """Return the possible holders of a derived id, and the position; no holders for other ids."""
    match = DERIVED_ID.fullmatch(item_id)
    return ([RESPONSE_ID_PREFIX + match[1], match[1]], int(match[2])) if match else ([], 0)


def check_items(value: Any, path: str, limit: int) -> list[Json]:
    """Validate new items of a request. Raises InvalidRequest.

    ``path`` is their parameter in the request, ``limit`` their maximum number.
    """
    items: list[Json] = check_type(value, LIST, path)
    if len(items) > limit:
        raise InvalidRequest(
            f"'{path}' must have at most {limit} items.", param=path, code="array_above_max_length"
        )
    for i, item in enumerate(items):
        check_new_item(item, f"{path}[{i}]")
    context = TranslationContext(ID_SOURCE, LossReport(), encrypt=str, decrypt=lambda sealed: None)
    for i, item in enumerate(check_and_replace_media(items, path)):
        check_item(item, f"{path}[{i}]", context)
    return items


def check_and_replace_media(items: list[Json], path: str) -> list[Json]:
    """Check inline media, and replace all media with empty text parts.

    URLs and file ids are not checked; the upstream resolves them.
    """
    request: Json = {"input": items}
    places = [
        place
        for place in find_media(request, "responses")
        if items[place.entry_index].get("role") not in ("assistant", "system", "developer")
    ]
    for place in places:
        check_media(replace(place, steps=(path, *place.steps[1:])))
    whole: list[Json] = replace_media(request, [(place, EMPTY_TEXT_PART) for place in places])[
        "input"
    ]
    return whole


def check_new_item(item: Any, path: str) -> None:
    check_type(item, DICT, path)
    kind = item.get("type")
    if kind is None and "role" not in item:
        raise make_missing_parameter_error(f"{path}.type")
    check_enum(kind or "message", tuple(sorted(ITEM_TYPES)), f"{path}.type")
    own_id = read_field(item, "id", STR, f"{path}.id")
    if own_id is not None and not ITEM_ID.fullmatch(own_id):
        raise InvalidRequest(
            f"Invalid value for '{path}.id': it is not a valid item id.",
            param=f"{path}.id",
            code="invalid_value",
        )
    if kind in (None, "message"):
        check_enum(item.get("role"), MESSAGE_ROLES, f"{path}.role")
        content = require_field(item, "content", (str, list), f"{path}.content")
        for i, part in enumerate(content if isinstance(content, list) else ()):
            check_type(part, DICT, f"{path}.content[{i}]")
            require_field(part, "type", STR, f"{path}.content[{i}].type")
    if kind == "compaction":
        require_field(item, "encrypted_content", STR, f"{path}.encrypted_content")
