"""The conversation of a Messages request -> chat messages.

A turn of the assistant becomes one message with its reasoning, its text and its calls.
"""

from __future__ import annotations

from typing import Any

from forwarder.core.paced_iteration import iter_paced
from forwarder.core.translation_context import TranslationContext
from forwarder.core.types import Json
from forwarder.protocols.signatures import MESSAGE_FIELDS, attach_call_signatures
from forwarder.translation.messages_history import (
    AssistantBlock,
    Thinking,
    ToolCall,
    check_origin,
)
from forwarder.translation.messages_request_content import PathBlock


class ChatConversationBuilder:
    """Builds the chat messages of one conversation; see `ConversationBuilder`."""

    def __init__(self, system: str, context: TranslationContext) -> None:
        self.messages: list[Json] = [{"role": "system", "content": system}] if system else []
        self._context = context

    def add_system(self, text: str) -> None:
        if text:
            self.messages.append({"role": "system", "content": text})

    def add_user(self, parts: list[PathBlock]) -> None:
        content: Any = [part for part, _ in parts]
        if len(content) == 1 and content[0]["type"] == "text":
            content = content[0]["text"]
        self.messages.append({"role": "user", "content": content})

    def add_result(self, call_id: str, content: list[PathBlock]) -> None:
        """Add the result of a call; the provider's profile decides where its images go."""
        parts: Any = [part for part, _ in content]
        if all(part["type"] == "text" for part in parts):
            parts = "\n".join(part["text"] for part in parts)
        self.messages.append({"role": "tool", "tool_call_id": call_id, "content": parts})

    def add_assistant(self, blocks: list[AssistantBlock]) -> None:
        reasoning: dict[str, list[Any]] = {}
        signatures: dict[str, Json] = {}
        for block in iter_paced(blocks):
            if isinstance(block, Thinking):
                for name, value in self._read_thinking(block, signatures).items():
                    reasoning.setdefault(name, []).append(value)
        calls = [
            make_call(block, signatures.get(block.call_id, {}))
            for block in blocks
            if isinstance(block, ToolCall)
        ]
        texts = [block for block in blocks if isinstance(block, str)]
        message: Json = {"role": "assistant", "content": "".join(texts) or None}
        message |= {name: join_pieces(pieces) for name, pieces in reasoning.items()}
        if calls:
            message["tool_calls"] = calls
        if texts or calls:
            self.messages.append(message)

    def _read_thinking(self, block: Thinking, signatures: dict[str, Json]) -> Json:
        """Return the fields of a message with this reasoning, and collect signatures of calls."""
        sealed = block.sealed if isinstance(block.sealed, dict) else {}
        fields: Json = {}
        if check_origin(sealed, self._context):
            fields = {name: sealed[name] for name in MESSAGE_FIELDS if sealed.get(name)}
            signatures.update(sealed.get("calls") or {})
        text = block.text or sealed.get("reasoning_content") or read_item_text(sealed)
        return {**fields, "reasoning_content": text} if text else fields


def read_item_text(sealed: Json) -> str:
    """Return the text of the reasoning item in a seal from a Responses upstream."""
    item = sealed.get("item") or {}
    parts = item.get("content") or item.get("summary") or ()
    return "\n\n".join(str(part.get("text") or "") for part in parts)


def make_call(call: ToolCall, signatures: Json) -> Json:
    function = {"name": call.name, "arguments": call.arguments}
    made = {"id": call.call_id, "type": "function", "function": function}
    return attach_call_signatures(made, signatures) if signatures else made


def join_pieces(pieces: list[Any]) -> Any:
    """Join the values of a reasoning field: texts as paragraphs, lists, else the last value."""
    if all(isinstance(piece, str) for piece in pieces):
        return "\n\n".join(pieces)
    if all(isinstance(piece, list) for piece in pieces):
        return [entry for piece in pieces for entry in piece]
    if all(isinstance(piece, dict) for piece in pieces):
        return {name: value for piece in pieces for name, value in piece.items()}
    return pieces[-1]
