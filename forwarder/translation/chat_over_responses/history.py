"""Chat messages -> Responses input items."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from forwarder.core.errors import InvalidRequest, shorten_value
from forwarder.core.paced_iteration import iter_paced
from forwarder.core.translation_context import TranslationContext
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
from forwarder.protocols import chat_reasoning
from forwarder.translation import content_parts
from forwarder.translation.chat_over_responses.images import ImageHistory

_TOOL_CALL_SHAPES = ("function", "custom")

_PLAIN_FIELDS = frozenset({"role", "content"})


def make_input_part(text: str) -> Json:
    return {"type": "input_text", "text": text}


def make_output_part(text: str) -> Json:
    return {"type": "output_text", "text": text, "annotations": []}


_PLAIN_PARTS: dict[str, Callable[[str], Json]] = {
    "user": make_input_part,
    "system": make_input_part,
    "developer": make_input_part,
    "assistant": make_output_part,
}
"""The role of a message -> the function that makes the part for its text."""


def accepts_reasoning_text(context: TranslationContext) -> bool:
    """Whether the upstream accepts earlier reasoning as text.  OpenAI accepts it only encrypted."""
    return "reasoning_text" in context.extensions


class ChatHistoryReader:
    """Reads one history, message by message, and builds the input items.

    It tracks the unanswered calls: a tool message names only the id of its call, but the type of
    the output item depends on the type of the call.
    """

    def __init__(self, context: TranslationContext) -> None:
        self.items: list[Json] = []
        self._context = context
        self._user_converters = (
            content_parts.USER_WITH_AUDIO_TO_RESPONSES
            if "input_audio" in context.extensions
            else content_parts.USER_TO_RESPONSES
        )
        self._image_history = ImageHistory()
        self._unanswered: dict[str, str] = {}  # call id -> item type of its output
        self._legacy_calls = 0

    def read_messages(self, messages: list[Any]) -> list[Json]:
        """Return the input items for a list of chat messages.

        Raises InvalidRequest for malformed messages and for calls without a tool message.
        """
        for i, message in enumerate(iter_paced(messages)):
            if self._add_plain_message(message):
                continue
            path = f"messages[{i}]"
            role = require_field(check_type(message, DICT, path), "role", STR, f"{path}.role")
            reader = _ROLE_READERS[check_enum(role, tuple(_ROLE_READERS), f"{path}.role")]
            if role not in ("tool", "function"):
                self._check_all_answered(path)
            reader(self, message, path)
        self._check_all_answered(f"messages[{len(messages) - 1}]")
        return self.items

    def _add_plain_message(self, message: Any) -> bool:
        """Add a message that is only a role and a text, as most messages of a long history.

        Returns False, without a change, for all other messages.
        """
        if self._unanswered or type(message) is not dict or message.keys() != _PLAIN_FIELDS:
            return False
        role, content = message["role"], message["content"]
        if type(role) is not str or role not in _PLAIN_PARTS or type(content) is not str:
            return False
        if content or role != "assistant":
            self.items.append(
                {"type": "message", "role": role, "content": [_PLAIN_PARTS[role](content)]}
            )
        return True

    def _check_all_answered(self, path: str) -> None:
        if self._unanswered:
            ids = ", ".join(self._unanswered)
            raise InvalidRequest(
                "An assistant message with 'tool_calls' must be followed by tool messages "
                f"responding to each 'tool_call_id'. These had no response: {shorten_value(ids)}.",
                param=path,
            )

    def _read_plain_message(self, message: Json, path: str) -> None:
        """Read a user, system or developer message."""
        if message.get("name"):
            self._context.loss_report.drop("messages.name", "Responses messages have no names")
        content = require_field(message, "content", (str, list), f"{path}.content")
        if isinstance(content, list):
            content = content_parts.convert_parts(content, self._user_converters, f"{path}.content")
        else:
            content = [make_input_part(content)]
        self.items.append({"type": "message", "role": message["role"], "content": content})

    def _read_assistant_message(self, message: Json, path: str) -> None:
        if accepts_reasoning_text(self._context):
            self._add_reasoning(chat_reasoning.read_text(message))
        content = self._convert_content(message, path)
        if content:
            self.items.append({"type": "message", "role": "assistant", "content": content})
        images = read_field(message, "images", LIST, f"{path}.images")
        if images:
            self.items += self._image_history.convert_images(images, f"{path}.images")
        for i, call in enumerate(
            read_field(message, "tool_calls", LIST, f"{path}.tool_calls") or ()
        ):
            call_path = f"{path}.tool_calls[{i}]"
            self._read_call(check_type(call, DICT, call_path), call_path)
        legacy = read_field(message, "function_call", DICT, f"{path}.function_call")
        if legacy and not message.get("tool_calls"):
            self._read_function_call(legacy, f"{path}.function_call")
        if message.get("audio"):
            self._context.loss_report.drop(
                "messages.audio", "the Responses API has no earlier audio"
            )

    def _add_reasoning(self, text: str) -> None:
        """Add a reasoning item with an id that is the same on every turn of the conversation."""
        if text:
            item = {"type": "reasoning", "id": f"rs_{len(self.items)}", "summary": []}
            self.items.append({**item, "content": [{"type": "reasoning_text", "text": text}]})

    def _convert_content(self, message: Json, path: str) -> list[Json]:
        content = read_field(message, "content", (str, list), f"{path}.content")
        refusal = read_field(message, "refusal", STR, f"{path}.refusal")
        parts: list[Json] = []
        if isinstance(content, list):
            parts = content_parts.convert_parts(
                content, content_parts.ASSISTANT_TO_RESPONSES, f"{path}.content"
            )
        elif content:
            parts = [make_output_part(content)]
        return [*parts, {"type": "refusal", "refusal": refusal}] if refusal else parts

    def _read_call(self, call: Json, path: str) -> None:
        call_id = require_field(call, "id", STR, f"{path}.id")
        kind = check_enum(call.get("type") or "function", _TOOL_CALL_SHAPES, f"{path}.type")
        body = require_field(call, kind, DICT, f"{path}.{kind}")
        name = require_field(body, "name", STR, f"{path}.{kind}.name")
        item: Json = {"call_id": call_id, "name": name}
        if kind == "custom":
            custom_input = read_field(body, "input", STR, f"{path}.custom.input") or ""
            self.items.append({"type": "custom_tool_call", **item, "input": custom_input})
            self._unanswered[call_id] = "custom_tool_call_output"
            return
        arguments = read_field(body, "arguments", STR, f"{path}.function.arguments") or "{}"
        self.items.append({"type": "function_call", **item, "arguments": arguments})
        self._unanswered[call_id] = "function_call_output"

    def _read_tool_message(self, message: Json, path: str) -> None:
        call_id = require_field(message, "tool_call_id", STR, f"{path}.tool_call_id")
        kind = self._unanswered.pop(call_id, None)
        if kind is None:
            raise InvalidRequest(
                "Messages with role 'tool' must be a response to a preceding message with "
                f"'tool_calls'; no call with the id '{shorten_value(call_id)}' awaits one.",
                param=f"{path}.tool_call_id",
            )
        content = read_field(message, "content", (str, list), f"{path}.content") or ""
        if isinstance(content, list):
            content = content_parts.convert_parts(
                content, content_parts.USER_TO_RESPONSES, f"{path}.content"
            )
        self.items.append({"type": kind, "call_id": call_id, "output": content})

    # -- the legacy function_call ---------------------------------------------------------------

    def _read_function_call(self, call: Json, path: str) -> None:
        """Read a legacy call.  Its id is made from its position, so every turn has the same id."""
        name = require_field(call, "name", STR, f"{path}.name")
        call_id = f"call_{name}_{self._legacy_calls}"
        self._legacy_calls += 1
        self._read_call({"id": call_id, "function": call}, path)

    def _read_function_message(self, message: Json, path: str) -> None:
        name = require_field(message, "name", STR, f"{path}.name")
        call_id = f"call_{name}_{self._legacy_calls - 1}"
        if call_id not in self._unanswered:
            raise InvalidRequest(
                "Messages with role 'function' must follow a message with 'function_call' "
                f"for the same function; '{shorten_value(name)}' was not called.",
                param=f"{path}.name",
            )
        self._read_tool_message({"tool_call_id": call_id, "content": message.get("content")}, path)


_ROLE_READERS: dict[str, Callable[[ChatHistoryReader, Json, str], None]] = {
    "system": ChatHistoryReader._read_plain_message,
    "developer": ChatHistoryReader._read_plain_message,
    "user": ChatHistoryReader._read_plain_message,
    "assistant": ChatHistoryReader._read_assistant_message,
    "tool": ChatHistoryReader._read_tool_message,
    "function": ChatHistoryReader._read_function_message,
}
