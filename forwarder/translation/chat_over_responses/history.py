"""Chat messages -> Responses input items."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from forwarder.core.errors import InvalidRequest, shorten
from forwarder.core.pacing import iter_paced
from forwarder.core.translation_context import Terms
from forwarder.core.types import Json
from forwarder.core.validate import DICT, LIST, STR, choose, expect, optional, require
from forwarder.protocols import chat_reasoning
from forwarder.translation import content_parts
from forwarder.translation.chat_over_responses.images import SentBack

_CALL_SHAPES = ("function", "custom")


def replays(terms: Terms) -> bool:
    """Does the upstream take earlier reasoning as it reads?  OpenAI's takes only what is sealed."""
    return "reasoning_text" in terms.takes


class History:
    """Walks the messages once; remembers calls, since a tool message names only their id."""

    def __init__(self, terms: Terms) -> None:
        self.items: list[Json] = []
        self._terms = terms
        heard = "input_audio" in terms.takes
        self._spoken_to = (
            content_parts.HEARD_BY_RESPONSES if heard else content_parts.USER_TO_RESPONSES
        )
        self._images = SentBack()
        self._unanswered: dict[str, str] = {}  # call id -> item type of its output
        self._legacy_calls = 0

    def read(self, messages: list[Any]) -> list[Json]:
        """Input items for a list of chat messages."""
        for i, message in enumerate(iter_paced(messages)):
            path = f"messages[{i}]"
            role = require(expect(message, DICT, path), "role", STR, f"{path}.role")
            reader = _ROLES[choose(role, tuple(_ROLES), f"{path}.role")]
            if role not in ("tool", "function"):
                self._all_answered(path)
            reader(self, message, path)
        self._all_answered(f"messages[{len(messages) - 1}]")
        return self.items

    def _all_answered(self, path: str) -> None:
        if self._unanswered:
            ids = ", ".join(self._unanswered)
            raise InvalidRequest(
                "An assistant message with 'tool_calls' must be followed by tool messages "
                f"responding to each 'tool_call_id'. These had no response: {shorten(ids)}.",
                param=path,
            )

    def _plain(self, message: Json, path: str) -> None:
        """A user, system or developer message."""
        if message.get("name"):
            self._terms.ledger.drop("messages.name", "Responses messages have no names")
        content = require(message, "content", (str, list), f"{path}.content")
        if isinstance(content, list):
            content = content_parts.convert(content, self._spoken_to, f"{path}.content")
        else:
            content = [{"type": "input_text", "text": content}]
        self.items.append({"type": "message", "role": message["role"], "content": content})

    def _assistant(self, message: Json, path: str) -> None:
        if replays(self._terms):
            self._thought(chat_reasoning.read(message))
        content = self._spoken(message, path)
        if content:
            self.items.append({"type": "message", "role": "assistant", "content": content})
        images = optional(message, "images", LIST, f"{path}.images") or []
        self.items += self._images.items(images, f"{path}.images")
        for i, call in enumerate(optional(message, "tool_calls", LIST, f"{path}.tool_calls") or ()):
            call_path = f"{path}.tool_calls[{i}]"
            self._call(expect(call, DICT, call_path), call_path)
        legacy = optional(message, "function_call", DICT, f"{path}.function_call")
        if legacy and not message.get("tool_calls"):
            self._legacy_call(legacy, f"{path}.function_call")
        if message.get("audio"):
            self._terms.ledger.drop("messages.audio", "the Responses API has no earlier audio")

    def _thought(self, text: str) -> None:
        """The reasoning before what it led to; its id is the same on every turn."""
        if text:
            item = {"type": "reasoning", "id": f"rs_{len(self.items)}", "summary": []}
            self.items.append({**item, "content": [{"type": "reasoning_text", "text": text}]})

    def _spoken(self, message: Json, path: str) -> list[Json]:
        content = optional(message, "content", (str, list), f"{path}.content")
        refusal = optional(message, "refusal", STR, f"{path}.refusal")
        said: list[Json] = []
        if isinstance(content, list):
            said = content_parts.convert(
                content, content_parts.ASSISTANT_TO_RESPONSES, f"{path}.content"
            )
        elif content:
            said = [{"type": "output_text", "text": content, "annotations": []}]
        return [*said, {"type": "refusal", "refusal": refusal}] if refusal else said

    def _call(self, call: Json, path: str) -> None:
        call_id = require(call, "id", STR, f"{path}.id")
        kind = choose(call.get("type") or "function", _CALL_SHAPES, f"{path}.type")
        body = require(call, kind, DICT, f"{path}.{kind}")
        name = require(body, "name", STR, f"{path}.{kind}.name")
        item: Json = {"call_id": call_id, "name": name}
        if kind == "custom":
            given = optional(body, "input", STR, f"{path}.custom.input") or ""
            self.items.append({"type": "custom_tool_call", **item, "input": given})
            self._unanswered[call_id] = "custom_tool_call_output"
            return
        arguments = optional(body, "arguments", STR, f"{path}.function.arguments") or "{}"
        self.items.append({"type": "function_call", **item, "arguments": arguments})
        self._unanswered[call_id] = "function_call_output"

    def _tool(self, message: Json, path: str) -> None:
        call_id = require(message, "tool_call_id", STR, f"{path}.tool_call_id")
        kind = self._unanswered.pop(call_id, None)
        if kind is None:
            raise InvalidRequest(
                "Messages with role 'tool' must be a response to a preceding message with "
                f"'tool_calls'; '{shorten(call_id)}' is none.",
                param=f"{path}.tool_call_id",
            )
        content = optional(message, "content", (str, list), f"{path}.content") or ""
        if isinstance(content, list):
            content = content_parts.convert(
                content, content_parts.USER_TO_RESPONSES, f"{path}.content"
            )
        self.items.append({"type": kind, "call_id": call_id, "output": content})

    # -- the legacy function_call ---------------------------------------------------------------

    def _legacy_call(self, call: Json, path: str) -> None:
        """Legacy calls have no ids; the order makes one that is the same on every turn."""
        name = require(call, "name", STR, f"{path}.name")
        call_id = f"call_{name}_{self._legacy_calls}"
        self._legacy_calls += 1
        self._call({"id": call_id, "function": call}, path)

    def _function(self, message: Json, path: str) -> None:
        name = require(message, "name", STR, f"{path}.name")
        call_id = f"call_{name}_{self._legacy_calls - 1}"
        if call_id not in self._unanswered:
            raise InvalidRequest(
                "Messages with role 'function' must follow a message with 'function_call' "
                f"for the same function; '{shorten(name)}' was not called.",
                param=f"{path}.name",
            )
        self._tool({"tool_call_id": call_id, "content": message.get("content")}, path)


_ROLES: dict[str, Callable[[History, Json, str], None]] = {
    "system": History._plain,
    "developer": History._plain,
    "user": History._plain,
    "assistant": History._assistant,
    "tool": History._tool,
    "function": History._function,
}
