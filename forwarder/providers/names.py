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

_STRANGE = re.compile(r"[^A-Za-z0-9_-]")
_LETTERS = re.compile(r"[A-Za-z0-9]+")
_MARK = 9
"""Characters that keep shortened names apart: an underscore and eight digits of a hash."""


def long_names(body: Json, limit: int) -> dict[str, str]:
    """Short name -> the client's, for every tool on offer whose name does not fit."""
    if not limit:
        return {}
    names = (_name(tool) for tool in listed(body.get("tools")))
    return {short: name for name in names if (short := _short(name, limit)) != name}


def fit(body: Json, profile: Profile) -> None:
    """Put short names and ids into a chat request of its own."""
    calls = [
        call
        for message in body["messages"]
        if "tool_calls" in message
        for call in listed(message["tool_calls"])
    ]
    limit = profile.tool_name_limit
    called = {name: _short(name, limit) for name in set(map(_name, calls))} if limit else {}
    offered = {name: short for short, name in long_names(body, limit).items()}
    names = offered | {name: short for name, short in called.items() if name != short}
    ids = {i: _id(i, profile) for i in _ids(body["messages"], calls) if _is_odd(i, profile)}
    if names:
        for key in ("tools", "tool_choice", "functions", "function_call"):
            if key in body:
                body[key] = _renamed(body[key], names)
    if names or ids:
        body["messages"] = [_message(message, names, ids) for message in body["messages"]]


@functools.lru_cache(1024)
def _short(name: str, limit: int) -> str:
    plain = _STRANGE.sub("_", name)
    if plain == name and len(name) <= limit:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[: _MARK - 1]
    return f"{plain[: max(0, limit - _MARK)]}_{digest}"[:limit]


def _is_odd(call_id: str, profile: Profile) -> bool:
    limit = profile.call_id_limit
    if profile.call_id_exact:
        return len(call_id) != limit or not _LETTERS.fullmatch(call_id)
    return bool(limit) and len(call_id) > limit


def _id(call_id: str, profile: Profile) -> str:
    head = "" if profile.call_id_exact else "call_"
    return (head + hashlib.sha256(call_id.encode()).hexdigest())[: profile.call_id_limit]


# -- where they stand ---------------------------------------------------------------------------


def _name(holder: object) -> str:
    """The name in a tool, or in a call; an empty one when there is none."""
    inner = (holder.get("function") or holder.get("custom")) if isinstance(holder, dict) else None
    name = inner.get("name") if isinstance(inner, dict) else None
    return name if isinstance(name, str) else ""


def _ids(messages: list[Json], calls: list[Any]) -> set[str]:
    found = [call.get("id") for call in calls if isinstance(call, dict)]
    found += [message["tool_call_id"] for message in messages if "tool_call_id" in message]
    return {call_id for call_id in found if isinstance(call_id, str)}


def listed(value: object) -> list[Any]:
    """The value when it is a list, else nothing: who sent something else is told elsewhere."""
    return value if isinstance(value, list) else []


def _renamed(value: object, names: dict[str, str]) -> object:
    """The value with every ``name`` in it replaced, but for what stands in a schema."""
    if isinstance(value, list):
        return [_renamed(inner, names) for inner in value]
    if not isinstance(value, dict):
        return value
    made = {k: v if k in _FOREIGN else _renamed(v, names) for k, v in value.items()}
    return _swapped(made, "name", names)


_FOREIGN = ("parameters", "arguments")
"""In these, ``name`` is somebody else's word."""


def _swapped(holder: Json, key: str, table: dict[str, str]) -> Json:
    value = holder.get(key)
    return {**holder, key: table[value]} if isinstance(value, str) and value in table else holder


def _message(message: Json, names: dict[str, str], ids: dict[str, str]) -> Json:
    if message.get("role") == "tool":
        return _swapped(_swapped(message, "tool_call_id", ids), "name", names)
    if not listed(message.get("tool_calls")):
        return message
    calls = [_renamed(call, names) for call in message["tool_calls"]]
    swapped = [_swapped(call, "id", ids) if isinstance(call, dict) else call for call in calls]
    return {**message, "tool_calls": swapped}


# -- the way back -------------------------------------------------------------------------------


def restoring(names: dict[str, str]) -> Callable[[Json], Json]:
    """What gives the calls in a chunk, or in a whole answer, the client's names again."""

    def restore(event: Json) -> Json:
        choices = event.get("choices")
        if not choices or not any(_calls(choice) for choice in choices):
            return event
        return {**event, "choices": [_choice(choice, names) for choice in choices]}

    return restore


def _calls(choice: Json) -> list[Json]:
    return (choice.get("delta") or choice.get("message") or {}).get("tool_calls") or []


def _choice(choice: Json, names: dict[str, str]) -> Json:
    key = "delta" if choice.get("delta") else "message"
    holder = choice.get(key)
    if not holder or not holder.get("tool_calls"):
        return choice
    return {**choice, key: {**holder, "tool_calls": _renamed(holder["tool_calls"], names)}}
