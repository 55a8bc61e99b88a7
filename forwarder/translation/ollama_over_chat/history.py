"""Ollama messages -> chat messages.

Chat requires ids of tool calls, but most Ollama clients drop them.  Missing ids are numbered from
the start of the history, so they stay the same when the conversation grows.  A tool result is
matched to its call by id, else by the tool's name, else by order.

Chat also requires the results of all calls directly after them, and most upstreams refuse other
histories.  Ollama accepts any order and calls without a result, so results move to their calls, and
a note replaces those that are missing.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterator
from typing import Any

from forwarder.core.base64_text import is_base64
from forwarder.core.errors import InvalidRequest, shorten_value
from forwarder.core.paced_iteration import iter_paced
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
"""A role -> the fields that are read from its messages."""


def make_content(text: str, images: list[Any], path: str) -> str | list[Json]:
    """Return the content of a chat message: the text alone, or parts if there are images."""
    image_parts = [
        convert_image(image, f"{path}[{i}]") for i, image in enumerate(iter_paced(images))
    ]
    text_parts = [{"type": "text", "text": text}] if text else []
    return [*text_parts, *image_parts] if image_parts else text


def convert_image(image: Any, path: str) -> Json:
    data = check_type(image, STR, path)
    if not pictures.is_url(data) and not is_base64(data):
        raise InvalidRequest(
            f"Invalid value for '{path}': it is not valid base64.", param=path, code="invalid_value"
        )
    return {"type": "image_url", "image_url": {"url": pictures.make_data_url(data)}}


def serialize_arguments(arguments: Any) -> str:
    """Serialize a call's arguments as models write them: compact and without ASCII escapes."""
    if isinstance(arguments, str):
        return arguments
    return json.dumps(arguments, ensure_ascii=False, separators=(",", ":"))


NO_RESULT_NOTE = "[The tool call has no result.]"
"""The result of a call for which the history has none."""


class OllamaHistoryReader:
    """Reads one history, message by message, and tracks the calls that have no result yet."""

    def __init__(self, loss_report: LossReport) -> None:
        self._loss_report = loss_report
        self._chat_messages: list[Json] = []
        self._call_count = 0
        self._client_ids: set[str] = set()  # call ids that the client sent
        self._unanswered: dict[str, Json] = {}  # id of a call -> its result, which is a note so far
        # Ids of calls of the assistant's last turn with calls, to match results that have no id.
        self._turn_calls: deque[str] = deque()
        self._turn_calls_by_tool: dict[str, deque[str]] = {}
        self._is_turn_over = False

    def read_messages(self, messages: list[Any]) -> list[Json]:
        """Return the chat messages for a list of Ollama messages."""
        self._client_ids = set(iterate_call_ids(messages))
        for i, message in enumerate(iter_paced(messages)):
            self._read_message(message, f"messages[{i}]")
        return self._chat_messages

    def _read_message(self, value: Any, path: str) -> None:
        message = check_type(value, DICT, path)
        role = require_field(message, "role", STR, f"{path}.role").lower()
        field_names = _ROLE_FIELDS[check_enum(role, tuple(_ROLE_FIELDS), f"{path}.role")]
        for name in message.keys() - field_names:
            if message[name]:
                self._loss_report.drop(
                    f"messages.{name}", f"messages with role '{role}' have no such field"
                )
        text = read_field(message, "content", STR, f"{path}.content") or ""
        images = read_field(message, "images", LIST, f"{path}.images") or []
        if role == "assistant":
            self._read_assistant_message(message, text, images, path)
            return
        content = make_content(text, images, f"{path}.images") if "images" in field_names else text
        if role == "tool":
            self._pop_result(message, path)["content"] = content
            return
        self._is_turn_over = True
        self._chat_messages.append({"role": role, "content": content})

    def _read_assistant_message(
        self, message: Json, text: str, images: list[Any], path: str
    ) -> None:
        converted: Json = {"role": "assistant", "content": text}
        thinking = read_field(message, "thinking", STR, f"{path}.thinking")
        calls = read_field(message, "tool_calls", LIST, f"{path}.tool_calls") or []
        if thinking:
            converted["reasoning_content"] = thinking
        if images:
            converted["images"] = make_content("", images, f"{path}.images")
        self._chat_messages.append(converted)
        if calls:
            if self._is_turn_over:
                self._is_turn_over = False
                self._turn_calls.clear()
                self._turn_calls_by_tool.clear()
            converted["content"] = text or None
            converted["tool_calls"] = [
                self._read_call(call, f"{path}.tool_calls[{i}]")
                for i, call in enumerate(iter_paced(calls))
            ]
            self._add_results(converted["tool_calls"])

    def _read_call(self, value: Any, path: str) -> Json:
        call = check_type(value, DICT, path)
        function = require_field(call, "function", DICT, f"{path}.function")
        name = require_field(function, "name", STR, f"{path}.function.name")
        arguments_path = f"{path}.function.arguments"
        arguments = read_field(function, "arguments", (dict, str), arguments_path) or {}
        call_id = read_field(call, "id", STR, f"{path}.id") or self._make_call_id()
        function = {"name": name, "arguments": serialize_arguments(arguments)}
        return {"id": call_id, "type": "function", "function": function}

    def _make_call_id(self) -> str:
        while True:
            self._call_count += 1
            call_id = f"call_{self._call_count}"
            if call_id not in self._client_ids:
                return call_id

    def _add_results(self, calls: list[Json]) -> None:
        """Add a note as the result of each call; the result replaces it if the history has one."""
        for call in iter_paced(calls):
            call_id, name = call["id"], call["function"]["name"]
            result = {"role": "tool", "tool_call_id": call_id, "content": NO_RESULT_NOTE}
            self._chat_messages.append(result)
            self._unanswered[call_id] = result
            self._turn_calls.append(call_id)
            self._turn_calls_by_tool.setdefault(name, deque()).append(call_id)

    def _pop_result(self, message: Json, path: str) -> Json:
        """Return the result of the call that a tool message answers."""
        sent_id: str | None = read_field(message, "tool_call_id", STR, f"{path}.tool_call_id")
        if sent_id is not None and sent_id in self._unanswered:
            return self._unanswered.pop(sent_id)
        name = read_field(message, "tool_name", STR, f"{path}.tool_name")
        name = name or read_field(message, "name", STR, f"{path}.name")
        candidates = self._turn_calls_by_tool.get(name, deque()) if name else self._turn_calls
        while candidates:
            call_id = candidates.popleft()
            if call_id in self._unanswered:
                return self._unanswered.pop(call_id)
        of_tool = f" of '{shorten_value(name)}'" if name else ""
        raise InvalidRequest(
            f"'{path}' is a tool result, but no earlier call{of_tool} is missing a result.",
            param=path,
            code="invalid_value",
        )


def iterate_call_ids(messages: list[Any]) -> Iterator[str]:
    for message in iter_paced(messages):
        calls = message.get("tool_calls") if isinstance(message, dict) else None
        for call in iter_paced(calls if isinstance(calls, list) else ()):
            if isinstance(call, dict) and isinstance(call.get("id"), str):
                yield call["id"]
