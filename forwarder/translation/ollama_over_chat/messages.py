"""Ollama's messages -> chat messages.

Calls of tools have ids in Chat and often none here: most clients lose those that they are given.
Ids are made by counting, so that a conversation which has grown keeps those that it had, and
results find their calls by id, by the tool's name, or in their order.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from forwarder.core.errors import InvalidRequest, shorten
from forwarder.core.translation_context import Ledger
from forwarder.core.types import Json
from forwarder.core.validate import DICT, LIST, STR, choose, expect, optional, require
from forwarder.translation import images as pictures

_TEXT = frozenset({"role", "content"})
_ROLES = {
    "system": _TEXT,
    "developer": _TEXT,
    "user": _TEXT | {"images"},
    "assistant": _TEXT | {"thinking", "images", "tool_calls"},
    "tool": _TEXT | {"images", "tool_name", "tool_call_id", "name"},
}
"""A role -> what is read of its messages."""

_BASE64 = re.compile(r"[A-Za-z0-9+/\s]+(?:=\s*){0,2}")  # no two parts take the same: it is long


def seen(text: str, images: list[Any], path: str) -> str | list[Json]:
    """The content of a message: its text, and its images if there are any."""
    shown = [_picture(image, f"{path}[{i}]") for i, image in enumerate(images)]
    said = [{"type": "text", "text": text}] if text else []
    return [*said, *shown] if shown else text


def _picture(image: Any, path: str) -> Json:
    data = expect(image, STR, path)
    if not pictures.is_link(data) and not _BASE64.fullmatch(data):
        raise InvalidRequest(
            f"Invalid value for '{path}': it is not valid base64.", param=path, code="invalid_value"
        )
    return {"type": "image_url", "image_url": {"url": pictures.data_url(data)}}


def arguments_text(arguments: Any) -> str:
    """A call's arguments as models write them, with nothing between what stands in them."""
    if isinstance(arguments, str):
        return arguments
    return json.dumps(arguments, ensure_ascii=False, separators=(",", ":"))


class History:
    """Walks the messages once; remembers which calls have no result yet."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._calls = 0
        self._given: set[str] = set()  # ids that the client has for calls
        self._waiting: dict[str, str] = {}  # id of a call -> name of its tool

    def read(self, messages: list[Any]) -> list[Json]:
        """Chat messages for a list of Ollama's."""
        self._given = set(_given_ids(messages))
        return [self._message(each, f"messages[{i}]") for i, each in enumerate(messages)]

    def _message(self, given: Any, path: str) -> Json:
        message = expect(given, DICT, path)
        role = require(message, "role", STR, f"{path}.role").lower()
        read = _ROLES[choose(role, tuple(_ROLES), f"{path}.role")]
        for name in message.keys() - read:
            if message[name]:
                self._ledger.drop(f"messages.{name}", f"nothing reads it in the role '{role}'")
        text = optional(message, "content", STR, f"{path}.content") or ""
        images = optional(message, "images", LIST, f"{path}.images") or []
        if role == "assistant":
            return self._spoken(message, text, images, path)
        content = seen(text, images, f"{path}.images") if "images" in read else text
        if role == "tool":
            return self._result(message, content, path)
        return {"role": role, "content": content}

    def _spoken(self, message: Json, text: str, images: list[Any], path: str) -> Json:
        made: Json = {"role": "assistant", "content": text}
        thinking = optional(message, "thinking", STR, f"{path}.thinking")
        calls = optional(message, "tool_calls", LIST, f"{path}.tool_calls") or []
        if thinking:
            made["reasoning_content"] = thinking
        if images:
            made["images"] = seen("", images, f"{path}.images")
        if calls:
            made["content"] = text or None
            made["tool_calls"] = [
                self._call(call, f"{path}.tool_calls[{i}]") for i, call in enumerate(calls)
            ]
        return made

    def _call(self, given: Any, path: str) -> Json:
        call = expect(given, DICT, path)
        function = require(call, "function", DICT, f"{path}.function")
        name = require(function, "name", STR, f"{path}.function.name")
        where = f"{path}.function.arguments"
        arguments = optional(function, "arguments", (dict, str), where) or {}
        call_id = optional(call, "id", STR, f"{path}.id") or self._new_id()
        self._waiting[call_id] = name
        function = {"name": name, "arguments": arguments_text(arguments)}
        return {"id": call_id, "type": "function", "function": function}

    def _new_id(self) -> str:
        self._calls += 1
        made = f"call_{self._calls}"
        return self._new_id() if made in self._given else made

    def _result(self, message: Json, content: str | list[Json], path: str) -> Json:
        call_id = self._answered(message, path)
        del self._waiting[call_id]
        return {"role": "tool", "tool_call_id": call_id, "content": content}

    def _answered(self, message: Json, path: str) -> str:
        """The id of the call that a result is of."""
        own: str | None = optional(message, "tool_call_id", STR, f"{path}.tool_call_id")
        if own is not None and own in self._waiting:
            return own
        name = optional(message, "tool_name", STR, f"{path}.tool_name")
        name = name or optional(message, "name", STR, f"{path}.name")
        named = [call_id for call_id, tool in self._waiting.items() if tool == name]
        if not self._waiting or (name and not named):
            of = f" of '{shorten(name)}'" if name else ""
            raise InvalidRequest(
                f"'{path}' is the result of a tool, but no call{of} before it waits for one.",
                param=path,
                code="invalid_value",
            )
        return next(iter(named or self._waiting))


def _given_ids(messages: list[Any]) -> Iterator[str]:
    for message in messages:
        calls = message.get("tool_calls") if isinstance(message, dict) else None
        for call in calls if isinstance(calls, list) else ():
            if isinstance(call, dict) and isinstance(call.get("id"), str):
                yield call["id"]
