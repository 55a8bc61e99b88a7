"""The conversation of a Messages request -> Responses input items."""

from __future__ import annotations

from forwarder.core.paced_iteration import iter_paced
from forwarder.core.translation_context import TranslationContext
from forwarder.core.types import Json
from forwarder.translation.content_parts import USER_TO_RESPONSES, convert_part
from forwarder.translation.messages_history import (
    AssistantBlock,
    Thinking,
    ToolCall,
    check_origin,
)
from forwarder.translation.messages_request_content import PathBlock

_NOT_ACCEPTED = "this upstream accepts no earlier reasoning as text"


class ResponsesConversationBuilder:
    """Builds the input items of one conversation; see `ConversationBuilder`."""

    def __init__(self, context: TranslationContext) -> None:
        self.items: list[Json] = []
        self._context = context

    def add_system(self, text: str) -> None:
        if text:
            part = {"type": "input_text", "text": text}
            self.items.append({"type": "message", "role": "developer", "content": [part]})

    def add_user(self, parts: list[PathBlock]) -> None:
        self.items.append({"type": "message", "role": "user", "content": convert_parts(parts)})

    def add_result(self, call_id: str, content: list[PathBlock]) -> None:
        converted = convert_parts(content)
        output: str | list[Json] = converted
        if all(part["type"] == "input_text" for part in converted):
            output = "\n".join(part["text"] for part in converted)
        self.items.append({"type": "function_call_output", "call_id": call_id, "output": output})

    def add_assistant(self, blocks: list[AssistantBlock]) -> None:
        """Add a turn, without reasoning at its end, which OpenAI refuses."""
        ends = [i for i, block in enumerate(blocks, 1) if not isinstance(block, Thinking)]
        for block in iter_paced(blocks[: ends[-1] if ends else 0]):
            if isinstance(block, Thinking):
                self._add_thinking(block)
            elif isinstance(block, ToolCall):
                call_id, name, arguments = block
                call = {"call_id": call_id, "name": name, "arguments": arguments}
                self.items.append({"type": "function_call", **call})
            else:
                part = {"type": "output_text", "text": block, "annotations": []}
                self.items.append({"type": "message", "role": "assistant", "content": [part]})

    def _add_thinking(self, block: Thinking) -> None:
        """Add the upstream's own reasoning item, or the text if this upstream accepts it."""
        sealed = block.sealed if isinstance(block.sealed, dict) else {}
        item = sealed.get("item")
        if isinstance(item, dict) and check_origin(sealed, self._context):
            self.items.append(item)
            return
        text = block.text or sealed.get("reasoning_content")
        if not text:
            return
        if "reasoning_text" not in self._context.extensions:
            self._context.loss_report.note("messages.thinking", _NOT_ACCEPTED)
            return
        # The id must be the same in every turn of the conversation.
        item = {"type": "reasoning", "id": f"rs_{len(self.items)}", "summary": []}
        self.items.append({**item, "content": [{"type": "reasoning_text", "text": text}]})


def convert_parts(parts: list[PathBlock]) -> list[Json]:
    return [convert_part(part, USER_TO_RESPONSES, path) for part, path in iter_paced(parts)]
