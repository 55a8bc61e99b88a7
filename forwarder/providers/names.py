"""Names of tools and ids of calls, in the length and the letters that a provider takes.

The short form is made of the long one alone, so every turn of a conversation has the same; the
way back for names is found again from the request.
"""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Callable
from typing import Any

from forwarder.core.types import Json
from forwarder.providers.profile import Profile

_INVALID_CHARACTERS = re.compile(r"[^A-Za-z0-9_-]")
_ALPHANUMERIC = re.compile(r"[A-Za-z0-9]+")
_HASH_SUFFIX_LENGTH = 9
"""Characters that keep shortened names apart: an underscore and eight digits of a hash."""


def map_long_names(body: Json, limit: int) -> dict[str, str]:
    """Short name -> the client's, for every tool on offer whose name does not fit."""
    if not limit:
        return {}
    names = (read_name(tool) for tool in as_list(body.get("tools")))
    return {short: name for name in names if (short := shorten_name(name, limit)) != name}


def fit_names(body: Json, profile: Profile) -> None:
    """Put short names and ids into a chat request of its own."""
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


@functools.lru_cache(1024)
def shorten_name(name: str, limit: int) -> str:
    plain = _INVALID_CHARACTERS.sub("_", name)
    if plain == name and len(name) <= limit:
        return name
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


# -- where they stand ---------------------------------------------------------------------------


def read_name(holder: object) -> str:
    """The name in a tool, or in a call; an empty one when there is none."""
    inner = (holder.get("function") or holder.get("custom")) if isinstance(holder, dict) else None
    name = inner.get("name") if isinstance(inner, dict) else None
    return name if isinstance(name, str) else ""


def collect_call_ids(messages: list[Json], calls: list[Any]) -> set[str]:
    found = [call.get("id") for call in calls if isinstance(call, dict)]
    found += [message["tool_call_id"] for message in messages if "tool_call_id" in message]
    return {call_id for call_id in found if isinstance(call_id, str)}


def as_list(value: object) -> list[Any]:
    """The value when it is a list, else nothing: who sent something else is told elsewhere."""
    return value if isinstance(value, list) else []


def replace_names(value: object, names: dict[str, str]) -> object:
    """The value with every ``name`` in it replaced, but for what stands in a schema."""
    if isinstance(value, list):
        return [replace_names(inner, names) for inner in value]
    if not isinstance(value, dict):
        return value
    made = {k: v if k in _OPAQUE_FIELDS else replace_names(v, names) for k, v in value.items()}
    return replace_value(made, "name", names)


_OPAQUE_FIELDS = ("parameters", "arguments")
"""In these, ``name`` is somebody else's word."""


def replace_value(holder: Json, key: str, table: dict[str, str]) -> Json:
    value = holder.get(key)
    return {**holder, key: table[value]} if isinstance(value, str) and value in table else holder


def rename_in_message(message: Json, names: dict[str, str], ids: dict[str, str]) -> Json:
    if message.get("role") == "tool":
        return replace_value(replace_value(message, "tool_call_id", ids), "name", names)
    if not as_list(message.get("tool_calls")):
        return message
    calls = [replace_names(call, names) for call in message["tool_calls"]]
    swapped = [replace_value(call, "id", ids) if isinstance(call, dict) else call for call in calls]
    return {**message, "tool_calls": swapped}


# -- the way back -------------------------------------------------------------------------------


def make_name_restorer(names: dict[str, str]) -> Callable[[Json], Json]:
    """What gives the calls in a chunk, or in a whole answer, the client's names again."""

    def restore_names(event: Json) -> Json:
        choices = event.get("choices")
        if not choices or not any(_calls(choice) for choice in choices):
            return event
        return {**event, "choices": [restore_choice(choice, names) for choice in choices]}

    return restore_names


def _calls(choice: Json) -> list[Json]:
    return (choice.get("delta") or choice.get("message") or {}).get("tool_calls") or []


def restore_choice(choice: Json, names: dict[str, str]) -> Json:
    key = "delta" if choice.get("delta") else "message"
    holder = choice.get(key)
    if not holder or not holder.get("tool_calls"):
        return choice
    return {**choice, key: {**holder, "tool_calls": replace_names(holder["tool_calls"], names)}}
