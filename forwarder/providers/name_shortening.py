"""Shortens tool names and call ids to the length and characters that a provider takes.

The short form depends only on the long one, so it is the same in every turn of a conversation.
The names in the answer are restored with a map that is rebuilt from the request.
"""

from __future__ import annotations

import hashlib
import re
from typing import Any

from forwarder.core.translation_context import LossReport
from forwarder.core.types import Json
from forwarder.providers.profile import Profile

_INVALID_CHARACTERS = re.compile(r"[^A-Za-z0-9_-]")
_ALPHANUMERIC = re.compile(r"[A-Za-z0-9]+")
_HASH_SUFFIX_LENGTH = 9
"""An underscore and eight hash digits make shortened names unique."""


def map_long_names(body: Json, limit: int) -> dict[str, str]:
    """Return short name -> client's name for all offered tools whose names must be shortened."""
    if not limit or not body.get("tools"):
        return {}
    names = (read_name(tool) for tool in as_list(body.get("tools")))
    return {short: name for name in names if (short := shorten_name(name, limit)) != name}


def fit_names(body: Json, profile: Profile, loss_report: LossReport) -> None:
    """Shorten tool names and call ids in a chat request."""
    calls = [
        call
        for message in body["messages"]
        if "tool_calls" in message
        for call in as_list(message["tool_calls"])
    ]
    limit = profile.tool_name_limit
    called = (
        {name: shorten_name(name, limit) for name in set(map(read_name, calls))} if limit else {}
    )
    offered = {name: short for short, name in map_long_names(body, limit).items()}
    names = offered | {name: short for name, short in called.items() if name != short}
    ids = {
        i: shorten_id(i, profile)
        for i in collect_call_ids(body["messages"], calls)
        if is_invalid_id(i, profile)
    }
    if names:
        for key in ("tools", "tool_choice", "functions", "function_call"):
            if key in body:
                body[key] = replace_names(body[key], names)
    if names or ids:
        body["messages"] = [rename_in_message(message, names, ids) for message in body["messages"]]


def shorten_name(name: str, limit: int) -> str:
    # Not cached: clients choose the names, which may have megabytes.
    if len(name) <= limit and not _INVALID_CHARACTERS.search(name):
        return name
    plain = _INVALID_CHARACTERS.sub("_", name[:limit])
    digest = hashlib.sha256(name.encode()).hexdigest()[: _HASH_SUFFIX_LENGTH - 1]
    return f"{plain[: max(0, limit - _HASH_SUFFIX_LENGTH)]}_{digest}"[:limit]


def is_invalid_id(call_id: str, profile: Profile) -> bool:
    limit = profile.call_id_limit
    if profile.call_id_exact:
        return len(call_id) != limit or not _ALPHANUMERIC.fullmatch(call_id)
    return bool(limit) and len(call_id) > limit


def shorten_id(call_id: str, profile: Profile) -> str:
    head = "" if profile.call_id_exact else "call_"
    return (head + hashlib.sha256(call_id.encode()).hexdigest())[: profile.call_id_limit]


# -- places of names and ids --------------------------------------------------------------------


def read_name(holder: object) -> str:
    """Return the name in a tool or call, or an empty string."""
    inner = (holder.get("function") or holder.get("custom")) if isinstance(holder, dict) else None
    name = inner.get("name") if isinstance(inner, dict) else None
    return name if isinstance(name, str) else ""


def collect_call_ids(messages: list[Json], calls: list[Any]) -> set[str]:
    ids = [call.get("id") for call in calls if isinstance(call, dict)]
    ids += [message["tool_call_id"] for message in messages if "tool_call_id" in message]
    return {call_id for call_id in ids if isinstance(call_id, str)}


def as_list(value: object) -> list[Any]:
    """Return a list unchanged and an empty list for other values, which fail validation later."""
    return value if isinstance(value, list) else []


def replace_names(value: object, names: dict[str, str]) -> object:
    """Replace all values of ``name`` inside a value, except in schemas and arguments."""
    if isinstance(value, list):
        return [replace_names(inner, names) for inner in value]
    if not isinstance(value, dict):
        return value
    fields = {k: v if k in _OPAQUE_FIELDS else replace_names(v, names) for k, v in value.items()}
    return replace_value(fields, "name", names)


_OPAQUE_FIELDS = ("parameters", "arguments")
"""Fields with the client's data, in which ``name`` is not a tool name."""


def replace_value(holder: Json, key: str, table: dict[str, str]) -> Json:
    value = holder.get(key)
    return {**holder, key: table[value]} if isinstance(value, str) and value in table else holder


def rename_in_message(message: Json, names: dict[str, str], ids: dict[str, str]) -> Json:
    if message.get("role") == "tool":
        return replace_value(replace_value(message, "tool_call_id", ids), "name", names)
    if not as_list(message.get("tool_calls")):
        return message
    calls = [replace_names(call, names) for call in message["tool_calls"]]
    calls = [replace_value(call, "id", ids) if isinstance(call, dict) else call for call in calls]
    return {**message, "tool_calls": calls}


# -- the answer ---------------------------------------------------------------------------------


def restore_names(event: Json, names: dict[str, str]) -> Json:
    """Restore the client's names, by short name, in the calls of a chunk or a complete answer."""
    restored, has_calls = [], False
    for choice in event.get("choices") or ():
        key = "delta" if choice.get("delta") else "message"
        holder = choice.get(key)
        if holder and holder.get("tool_calls"):
            has_calls = True
            calls = replace_names(holder["tool_calls"], names)
            choice = {**choice, key: {**holder, "tool_calls": calls}}
        restored.append(choice)
    return {**event, "choices": restored} if has_calls else event
