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

from forwarder.core.errors import InvalidRequest, shorten_value
from forwarder.core.translation_context import LossReport
from forwarder.core.types import Json
from forwarder.core.validate import (
    DICT,
    LIST,
    STR,
    check_enum,
    check_type,
    read_field,
    require_field,
)
from forwarder.translation import images as pictures

_TEXT_FIELDS = frozenset({"role", "content"})
_ROLE_FIELDS = {
    "system": _TEXT_FIELDS,
    "developer": _TEXT_FIELDS,
    "user": _TEXT_FIELDS | {"images"},
    "assistant": _TEXT_FIELDS | {"thinking", "images", "tool_calls"},
    "tool": _TEXT_FIELDS | {"images", "tool_name", "tool_call_id", "name"},
}
"""A role -> what is read of its messages."""

_BASE64 = re.compile(r"[A-Za-z0-9+/\s]+(?:=\s*){0,2}")  # no two parts take the same: it is long


def make_content(text: str, images: list[Any], path: str) -> str | list[Json]:
    """The content of a message: its text, and its images if there are any."""
    shown = [convert_image(image, f"{path}[{i}]") for i, image in enumerate(images)]
    said = [{"type": "text", "text": text}] if text else []
    return [*said, *shown] if shown else text


def convert_image(image: Any, path: str) -> Json:
    data = check_type(image, STR, path)
    if not pictures.is_url(data) and not _BASE64.fullmatch(data):
        raise InvalidRequest(
            f"Invalid value for '{path}': it is not valid base64.", param=path, code="invalid_value"
        )
    return {"type": "image_url", "image_url": {"url": pictures.make_data_url(data)}}


def serialize_arguments(arguments: Any) -> str:
    """A call's arguments as models write them, with nothing between what stands in them."""
    if isinstance(arguments, str):
        return arguments
    return json.dumps(arguments, ensure_ascii=False, separators=(",", ":"))


class OllamaHistoryReader:
    """Walks the messages once; remembers which calls have no result yet."""

    def __init__(self, loss_report: LossReport) -> None:
        self._loss_report = loss_report
        self._call_count = 0
        self._client_ids: set[str] = set()  # ids that the client has for calls
        self._unanswered: dict[str, str] = {}  # id of a call -> name of its tool

    def read_messages(self, messages: list[Any]) -> list[Json]:
        """Chat messages for a list of Ollama's."""
        self._client_ids = set(iterate_call_ids(messages))
        return [self._read_message(each, f"messages[{i}]") for i, each in enumerate(messages)]

    def _read_message(self, given: Any, path: str) -> Json:
        message = check_type(given, DICT, path)
        role = require_field(message, "role", STR, f"{path}.role").lower()
        read = _ROLE_FIELDS[check_enum(role, tuple(_ROLE_FIELDS), f"{path}.role")]
        for name in message.keys() - read:
            if message[name]:
                self._loss_report.drop(f"messages.{name}", f"nothing reads it in the role '{role}'")
        text = read_field(message, "content", STR, f"{path}.content") or ""
        images = read_field(message, "images", LIST, f"{path}.images") or []
        if role == "assistant":
            return self._read_assistant_message(message, text, images, path)
        content = make_content(text, images, f"{path}.images") if "images" in read else text
        if role == "tool":
            return self._result(message, content, path)
        return {"role": role, "content": content}

    def _read_assistant_message(
        self, message: Json, text: str, images: list[Any], path: str
    ) -> Json:
        made: Json = {"role": "assistant", "content": text}
        thinking = read_field(message, "thinking", STR, f"{path}.thinking")
        calls = read_field(message, "tool_calls", LIST, f"{path}.tool_calls") or []
        if thinking:
            made["reasoning_content"] = thinking
        if images:
            made["images"] = make_content("", images, f"{path}.images")
        if calls:
            made["content"] = text or None
            made["tool_calls"] = [
                self._read_call(call, f"{path}.tool_calls[{i}]") for i, call in enumerate(calls)
            ]
        return made

    def _read_call(self, given: Any, path: str) -> Json:
        call = check_type(given, DICT, path)
        function = require_field(call, "function", DICT, f"{path}.function")
        name = require_field(function, "name", STR, f"{path}.function.name")
        where = f"{path}.function.arguments"
        arguments = read_field(function, "arguments", (dict, str), where) or {}
        call_id = read_field(call, "id", STR, f"{path}.id") or self._make_call_id()
        self._unanswered[call_id] = name
        function = {"name": name, "arguments": serialize_arguments(arguments)}
        return {"id": call_id, "type": "function", "function": function}

    def _make_call_id(self) -> str:
        self._call_count += 1
        made = f"call_{self._call_count}"
        return self._make_call_id() if made in self._client_ids else made

    def _result(self, message: Json, content: str | list[Json], path: str) -> Json:
        call_id = self._find_call_id(message, path)
        del self._unanswered[call_id]
        return {"role": "tool", "tool_call_id": call_id, "content": content}

    def _find_call_id(self, message: Json, path: str) -> str:
        """The id of the call that a result is of."""
        own: str | None = read_field(message, "tool_call_id", STR, f"{path}.tool_call_id")
        if own is not None and own in self._unanswered:
            return own
        name = read_field(message, "tool_name", STR, f"{path}.tool_name")
        name = name or read_field(message, "name", STR, f"{path}.name")
        named = [call_id for call_id, tool in self._unanswered.items() if tool == name]
        if not self._unanswered or (name and not named):
            of = f" of '{shorten_value(name)}'" if name else ""
            raise InvalidRequest(
                f"'{path}' is the result of a tool, but no call{of} before it waits for one.",
                param=path,
                code="invalid_value",
            )
        return next(iter(named or self._unanswered))


def iterate_call_ids(messages: list[Any]) -> Iterator[str]:
    for message in messages:
        calls = message.get("tool_calls") if isinstance(message, dict) else None
        for call in calls if isinstance(calls, list) else ():
            if isinstance(call, dict) and isinstance(call.get("id"), str):
                yield call["id"]
