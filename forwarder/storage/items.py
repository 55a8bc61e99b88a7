"""Items as the API shows them: complete, whatever the client left out, and each with an id."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from forwarder.core.errors import InvalidRequest
from forwarder.core.ids import MINT
from forwarder.core.translation_context import Ledger, Terms
from forwarder.core.types import Json
from forwarder.core.validate import DICT, LIST, STR, choose, expect, missing, optional, require
from forwarder.middleware.media.locations import places, replaced
from forwarder.middleware.media.policy import check
from forwarder.protocols.items import INPUT_ITEMS, type_of
from forwarder.storage.db.ids import MAX_ID_BYTES, is_valid_id
from forwarder.translation.responses_over_chat.request import check_item

_KINDS = frozenset(map(type_of, INPUT_ITEMS)) - {"item_reference", "compaction_trigger"}
_ROLES = ("user", "assistant", "system", "developer")

_PREFIXES = {
    "message": "msg",
    "reasoning": "rs",
    "function_call": "fc",
    "function_call_output": "fco",
    "custom_tool_call": "ctc",
    "custom_tool_call_output": "ctco",
    "compaction": "cmp",
}
"""Type of an item -> how the ids of such items begin; others begin with ``item``."""

_ID = re.compile(r"[\w.:-]{1,256}", re.ASCII)
"""What can be an item's id, and be asked for by it."""

_HOLDER = "resp_"
_DERIVED = re.compile(r"[a-z]+_(.+)-(\d{1,9})")

_TEXT: Json = {"type": "input_text", "text": ""}
_WITH_STATUS = frozenset(
    {
        "message", "function_call", "function_call_output", "custom_tool_call",
        "custom_tool_call_output", "local_shell_call", "shell_call", "shell_call_output",
        "apply_patch_call", "apply_patch_call_output", "tool_search_call", "tool_search_output",
        "computer_call_output",
    }
)  # fmt: skip


def as_items(given: Any) -> list[Json]:
    """The ``input`` of a request as items; a text is what the user says.

    Raises InvalidRequest at the first item that is not an object, or has an id that cannot be
    stored.
    """
    if isinstance(given, str):
        return [{"type": "message", "role": "user", "content": given}]
    if not isinstance(given, list):
        return []
    for i, item in enumerate(given):
        if type(item) is not dict:
            expect(item, DICT, f"input[{i}]")
        if type(item.get("id")) is str:
            check_id(item["id"], f"input[{i}].id")
    return given


def check_id(name: str, param: str) -> None:
    """Raise InvalidRequest for an id that no store can have."""
    if not is_valid_id(name):
        raise InvalidRequest(
            f"Invalid value for '{param}': an id has at most {MAX_ID_BYTES} bytes, and no NUL.",
            param=param,
            code="invalid_value",
        )


def shown(item: Json, fallback_id: str) -> Json:
    """An item as it is told of; one without an id gets ``fallback_id``."""
    kind = kind_of(item)
    whole = {**item, "type": kind, "id": item.get("id") or fallback_id}
    if kind in _WITH_STATUS:
        whole["status"] = item.get("status") or "completed"
    if kind == "message":
        whole["content"] = _parts(item)
    elif kind == "reasoning":
        whole["summary"] = item.get("summary") or []
    return whole


def kind_of(item: Json) -> str:
    """The item's type, which messages may leave out."""
    return str(item.get("type") or ("message" if "role" in item else "item_reference"))


def _parts(item: Json) -> list[Json]:
    content, own = item.get("content"), item.get("role") == "assistant"
    if isinstance(content, str):
        content = [{"type": "output_text" if own else "input_text", "text": content}]
    return [_part(part) for part in content or ()]


def _part(part: Json) -> Json:
    if part.get("type") == "output_text":
        return {"annotations": [], "logprobs": [], **part}
    if part.get("type") == "input_image":
        return {"detail": "auto", "file_id": None, "image_url": None, **part}
    return part


def derived_id(item: Json, holder: str, place: int) -> str:
    """The id of an item that came without: always the same for one place in one holder.

    It says which, so that the item can be found by it.
    """
    prefix = _PREFIXES.get(kind_of(item), "item")
    return f"{prefix}_{holder.removeprefix(_HOLDER)}-{place}"


def derived_from(item_id: str) -> tuple[list[str], int]:
    """The holders that an id may be derived from, and the place; no holders for other ids."""
    found = _DERIVED.fullmatch(item_id)
    return ([_HOLDER + found[1], found[1]], int(found[2])) if found else ([], 0)


def checked(given: Any, path: str, most: int) -> list[Json]:
    """Items that a client wants to be kept; raises InvalidRequest for what can be no item."""
    items: list[Json] = expect(given, LIST, path)
    if len(items) > most:
        raise InvalidRequest(
            f"'{path}' may hold {most} items at once.", param=path, code="array_above_max_length"
        )
    for i, item in enumerate(items):
        _check(item, f"{path}[{i}]")
    nowhere = Terms(MINT, Ledger(), seal=str, unseal=lambda sealed: None)
    for i, item in enumerate(_without_media(items, path)):
        check_item(item, f"{path}[{i}]", nowhere)
    return items


def _without_media(items: list[Json], path: str) -> list[Json]:
    """The items with texts for the images and files, whose data has been read.

    What becomes of one that is elsewhere is its upstream's matter.
    """
    request: Json = {"input": items}
    found = [place for place in places(request, "responses") if _may_show(items[place.entry])]
    for place in found:
        check(replace(place, steps=(path, *place.steps[1:])))
    whole: list[Json] = replaced(request, [(place, _TEXT) for place in found])["input"]
    return whole


def _may_show(item: Json) -> bool:
    return item.get("role") not in ("assistant", "system", "developer")


def _check(item: Any, path: str) -> None:
    expect(item, DICT, path)
    kind = item.get("type")
    if kind is None and "role" not in item:
        raise missing(f"{path}.type")
    choose(kind or "message", tuple(sorted(_KINDS)), f"{path}.type")
    own_id = optional(item, "id", STR, f"{path}.id")
    if own_id is not None and not _ID.fullmatch(own_id):
        raise InvalidRequest(
            f"Invalid value for '{path}.id': it is no id of an item.",
            param=f"{path}.id",
            code="invalid_value",
        )
    if kind in (None, "message"):
        choose(item.get("role"), _ROLES, f"{path}.role")
        content = require(item, "content", (str, list), f"{path}.content")
        for i, part in enumerate(content if isinstance(content, list) else ()):
            expect(part, DICT, f"{path}.content[{i}]")
            require(part, "type", STR, f"{path}.content[{i}].type")
    if kind == "compaction":
        require(item, "encrypted_content", STR, f"{path}.encrypted_content")
