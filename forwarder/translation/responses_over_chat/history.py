"""Responses input items -> chat messages.

Chat upstreams want one assistant message per turn, carrying its text, its reasoning and all its
calls, followed at once by one tool message per call.  Responses clients send the same things as
single items, sometimes with others between them.  A `AssistantTurn` gathers what belongs together.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from forwarder.core.errors import InvalidRequest, shorten_value
from forwarder.core.pacing import iter_paced
from forwarder.core.translation_context import TranslationContext
from forwarder.core.types import Json
from forwarder.core.validate import (
    DICT,
    LIST,
    STR,
    check_enum,
    check_type,
    missing_parameter,
    read_field,
    require_field,
)
from forwarder.protocols.signatures import MESSAGE_FIELDS, attach_call_signatures
from forwarder.translation import content_parts
from forwarder.translation import images as pictures
from forwarder.translation.responses_over_chat.tool_kinds import (
    CALL_TYPES,
    OUTPUT_TYPES,
    TOOL_SEARCH,
    ToolKind,
)
from forwarder.translation.responses_over_chat.toolbox import Toolbox, flatten_name

_ROLES = ("user", "assistant", "system", "developer")
_IMAGE_NOTE = "[You made this image:]"


@dataclass
class AssistantTurn:
    """One assistant message, the answers to its calls, and what has to wait for them."""

    message: Json = field(default_factory=lambda: {"role": "assistant", "content": None})
    reasoning: dict[str, list[Any]] = field(default_factory=dict)  # field -> its pieces
    calls: dict[str, Json] = field(default_factory=dict)
    own_ids: dict[str, str] = field(default_factory=dict)
    tool_messages: dict[str, Json] = field(default_factory=dict)
    images: list[Json] = field(default_factory=list)
    waiting: list[Json] = field(default_factory=list)

    @property
    def has_text(self) -> bool:
        """The message says something, be it only a refusal."""
        return self.message["content"] is not None or "refusal" in self.message

    @property
    def is_answered(self) -> bool:
        """All calls have their outputs: whatever comes now belongs to another turn."""
        return bool(self.calls) and len(self.tool_messages) == len(self.calls)

    @property
    def has_open_calls(self) -> bool:
        return len(self.tool_messages) < len(self.calls)

    def to_messages(self) -> list[Json]:
        """The turn as chat wants it: the call batch unbroken, then images, then the rest."""
        self.message |= {
            name: join_reasoning_pieces(pieces) for name, pieces in self.reasoning.items()
        }
        if self.calls:
            self.message["tool_calls"] = list(self.calls.values())
        made = [{"role": "user", "content": self.images}] if self.images else []
        own = [self.message] if self.has_text or self.calls else []
        return [*own, *(self.tool_messages[k] for k in self.calls), *made, *self.waiting]


class ResponsesHistoryReader:
    """Walks the input items once and gives the messages."""

    def __init__(self, toolbox: Toolbox, context: TranslationContext) -> None:
        self.messages: list[Json] = []
        self._turn = AssistantTurn()
        # Pieces of reasoning, until the message or call that it led to.
        self._reasoning: dict[str, list[Any]] = {}
        self._signatures: dict[str, Json] = {}  # of calls, until the call with that id
        self._toolbox = toolbox
        self._context = context

    def read_items(self, items: list[Any]) -> list[Json]:
        """Chat messages for a list of Responses input items."""
        for i, item in enumerate(iter_paced(items)):
            path = f"input[{i}]"
            self._read_item(check_type(item, DICT, path), path)
        self._end_turn()
        return self.messages

    def check_item(self, item: Json, path: str) -> None:
        """Read an item that stands alone; a call's output has its call before it elsewhere."""
        if read_item_type(item, path) in OUTPUT_TYPES:
            call_id = self._find_call_id(item, path)
            if not call_id:
                raise missing_parameter(f"{path}.call_id")
            self._turn.calls[call_id] = {}
        if item.get("type") != "compaction":  # it is opened before a history is read
            self._read_item(item, path)

    def _read_item(self, item: Json, path: str) -> None:
        kind = read_item_type(item, path)
        read_field(item, "id", STR, f"{path}.id")
        if kind == "message":
            self._read_message(item, path)
        elif kind in CALL_TYPES:
            self._read_call(item, path)
        elif kind in OUTPUT_TYPES:
            self._read_call_output(item, path)
        else:
            self._read_other_item(kind, item, path)

    def _read_other_item(self, kind: str, item: Json, path: str) -> None:
        reader = _ITEM_READERS.get(kind)
        if reader is None:
            raise InvalidRequest(
                f"Invalid value for '{path}.type': '{shorten_value(kind)}'.",
                param=f"{path}.type",
                code="invalid_value",
            )
        reader(self, item, path)

    # -- messages -------------------------------------------------------------------------------

    def _read_message(self, item: Json, path: str) -> None:
        role = check_enum(require_field(item, "role", STR, f"{path}.role"), _ROLES, f"{path}.role")
        content = item.get("content")
        if content is None:
            content = ""
        check_type(content, (str, list), f"{path}.content")
        if role == "assistant":
            self._add_assistant_content(content, f"{path}.content")
            return
        self._add_message(
            {"role": role, "content": convert_content(role, content, f"{path}.content")}
        )

    def _add_message(self, message: Json) -> None:
        """A message of anyone but the assistant."""
        if self._turn.has_open_calls:
            self._turn.waiting.append(message)
            return
        self._end_turn()
        self._reasoning = {}
        self.messages.append(message)

    def _add_assistant_content(self, content: Any, path: str) -> None:
        spoken = convert_assistant_content(content, path)
        if self._turn.has_open_calls and (self._turn.has_text or self._turn.waiting):
            self._turn.waiting.append({"role": "assistant", **spoken})
            return
        if self._turn.is_answered or self._turn.has_text:
            self._end_turn()
        self._turn.message.update(spoken)
        self._attach_reasoning()

    # -- calls and outputs ----------------------------------------------------------------------

    def _read_call(self, item: Json, path: str) -> None:
        _, kind = CALL_TYPES[item["type"]]
        if self._turn.is_answered:
            self._end_turn()
        own_id = read_field(item, "id", STR, f"{path}.id")
        call_id = read_field(item, "call_id", STR, f"{path}.call_id") or own_id
        if call_id is None:
            raise missing_parameter(f"{path}.call_id")
        if call_id in self._turn.calls:
            raise InvalidRequest(f"Two calls have the call_id {call_id}.", param=f"{path}.call_id")
        call = self._make_chat_call(item, kind, call_id, path)
        self._turn.calls[call_id] = attach_call_signatures(call, self._signatures.pop(call_id, {}))
        self._turn.own_ids[own_id or call_id] = call_id
        self._attach_reasoning()

    def _make_chat_call(self, item: Json, kind: ToolKind, call_id: str, path: str) -> Json:
        named = kind.call_type in ("function_call", "custom_tool_call")
        name = (
            require_field(item, "name", STR, f"{path}.name")
            if named
            else CALL_TYPES[kind.call_type][0]
        )
        chat_name = flatten_name(name, read_field(item, "namespace", STR, f"{path}.namespace"))
        field, types = kind.input_field
        read_field(item, field, types, f"{path}.{field}")
        if self._toolbox.is_native(kind):
            custom = {"name": chat_name, "input": item.get("input") or ""}
            return {"id": call_id, "type": "custom", "custom": custom}
        function = {"name": chat_name, "arguments": kind.make_arguments(item)}
        return {"id": call_id, "type": "function", "function": function}

    def _read_call_output(self, item: Json, path: str) -> None:
        kind = OUTPUT_TYPES[item["type"]]
        if kind is TOOL_SEARCH:
            self._add_tools(item, path)
        call_id = self._find_call_id(item, path)
        if call_id not in self._turn.calls or call_id in self._turn.tool_messages:
            raise InvalidRequest(
                "No tool call found for function call output with call_id "
                f"{shorten_value(call_id)}.",
                param="input",
            )
        content = join_tool_content(kind.read_result(item, path))
        self._turn.tool_messages[call_id] = {
            "role": "tool",
            "tool_call_id": call_id,
            "content": content,
        }

    def _find_call_id(self, item: Json, path: str) -> str:
        """Which call an output answers; a local shell's output says it by ``id``."""
        call_id = read_field(item, "call_id", STR, f"{path}.call_id")
        own_id = read_field(item, "id", STR, f"{path}.id") or ""
        return str(call_id or self._turn.own_ids.get(own_id, own_id))

    # -- the rest -------------------------------------------------------------------------------

    def _read_reasoning(self, item: Json, path: str) -> None:
        opened = self._open_reasoning(item, path)
        for call_id, fields in opened.pop("calls", {}).items():
            if call_id in self._turn.calls:
                self._turn.calls[call_id] = attach_call_signatures(
                    self._turn.calls[call_id], fields
                )
            else:
                self._signatures[call_id] = fields
        holder = self._turn.reasoning if opened.pop("ends_turn", False) else self._reasoning
        for name, value in opened.items():
            holder.setdefault(name, []).append(value)

    def _attach_reasoning(self) -> None:
        for name, pieces in self._reasoning.items():
            self._turn.reasoning.setdefault(name, []).extend(pieces)
        self._reasoning = {}

    def _open_reasoning(self, item: Json, path: str) -> Json:
        """The reasoning as chat fields: from our own seal, else from what can be read."""
        sealed = item.get("encrypted_content")
        opened = self._context.decrypt(sealed) if isinstance(sealed, str) else None
        if isinstance(opened, dict):
            return self._select_own_signatures(opened)
        text = read_reasoning_text(item, "content", path) or read_reasoning_text(
            item, "summary", path
        )
        if sealed and not text:
            reason = "only its maker can decrypt it"
            self._context.loss_report.drop("input.reasoning.encrypted_content", reason)
        return {"reasoning_content": text} if text else {}

    def _select_own_signatures(self, opened: Json) -> Json:
        """What a seal held, without signatures if they are for another upstream or model."""
        names: tuple[str, ...] = (*MESSAGE_FIELDS, "calls", "ends_turn")
        if opened.get("origin", self._context.origin) != self._context.origin:
            if any(opened.get(name) for name in names):
                reason = "the signatures in it are for the model that made them"
                self._context.loss_report.note("input.reasoning.encrypted_content", reason)
            names = ()
        return {k: v for k, v in opened.items() if k in ("reasoning_content", *names)}

    def _add_tools(self, item: Json, path: str) -> None:
        self._toolbox.add_tools(
            read_field(item, "tools", LIST, f"{path}.tools") or [], f"{path}.tools"
        )

    def _refuse_reference(self, item: Json, path: str) -> None:
        name = require_field(item, "id", STR, f"{path}.id")
        raise InvalidRequest(f"Item with id '{shorten_value(name)}' not found.", param=f"{path}.id")

    def _drop_hosted_record(self, item: Json, path: str) -> None:
        """What a hosted tool did elsewhere has no place in a chat history."""
        self._context.loss_report.drop(
            f"input.{item['type']}", "Chat Completions has no form for hosted tool calls"
        )

    def _add_image(self, item: Json, path: str) -> None:
        """An image that the assistant made: chat's assistants cannot have one, so a user shows it.

        It comes behind the message that it belongs to, and behind the answers to its calls.
        """
        result = read_field(item, "result", STR, f"{path}.result")
        if not result:
            self._context.loss_report.drop("input.image_generation_call", "it holds no image")
            return
        if self._turn.is_answered:
            self._end_turn()
        url = pictures.make_data_url(result, item.get("output_format"))
        note = {"type": "text", "text": _IMAGE_NOTE}
        self._turn.images += [note, {"type": "image_url", "image_url": {"url": url}}]

    def _add_audio(self, item: Json, path: str) -> None:
        """A part of a user's message that stands alone."""
        self._add_message(
            {"role": "user", "content": [content_parts.INPUT_TO_CHAT["input_audio"](item, path)]}
        )

    def _refuse_compaction(self, item: Json, path: str) -> None:
        raise InvalidRequest(
            f"'{path}': this compaction item was not made here and cannot be opened.", param=path
        )

    def _end_turn(self) -> None:
        turn = self._turn
        if turn.has_open_calls:
            missing = next(k for k in turn.calls if k not in turn.tool_messages)
            raise InvalidRequest(
                f"No tool output found for function call {shorten_value(missing)}.", param="input"
            )
        self.messages += turn.to_messages()
        self._turn = AssistantTurn()


def skip_item(history: ResponsesHistoryReader, item: Json, path: str) -> None:
    """An item that request.py has already read."""


_ITEM_READERS: dict[str, Callable[[ResponsesHistoryReader, Json, str], None]] = {
    "reasoning": ResponsesHistoryReader._read_reasoning,
    "additional_tools": ResponsesHistoryReader._add_tools,
    "item_reference": ResponsesHistoryReader._refuse_reference,
    "configuration_update": skip_item,
    "image_generation_call": ResponsesHistoryReader._add_image,
    "input_audio": ResponsesHistoryReader._add_audio,
    "compaction": ResponsesHistoryReader._refuse_compaction,
    "compaction_trigger": ResponsesHistoryReader._refuse_compaction,
    **dict.fromkeys(
        (
            "web_search_call",
            "file_search_call",
            "code_interpreter_call",
            "computer_call",
            "computer_call_output",
            "mcp_list_tools",
            "mcp_call",
            "mcp_approval_request",
            "mcp_approval_response",
            "program",
            "program_output",
        ),
        ResponsesHistoryReader._drop_hosted_record,
    ),
}


def read_item_type(item: Json, path: str) -> str:
    """The item's type; messages and references may leave it out."""
    kind = item.get("type")
    if kind is not None:
        return str(check_type(kind, STR, f"{path}.type"))
    if "role" in item:
        return "message"
    if "id" in item:
        return "item_reference"
    raise missing_parameter(f"{path}.type")


def convert_content(role: str, content: Any, path: str) -> Any:
    if isinstance(content, str):
        return content
    table = content_parts.INPUT_TO_CHAT if role == "user" else content_parts.TEXT_TO_CHAT
    return content_parts.convert_parts(content, table, path)


def convert_assistant_content(content: Any, path: str) -> Json:
    """An assistant's content and refusal as chat message fields."""
    if isinstance(content, str):
        return {"content": content}
    converted = content_parts.convert_parts(content, content_parts.OUTPUT_TO_CHAT, path)
    texts = [p["text"] for p in converted if p["type"] == "text"]
    refusals = [p["refusal"] for p in converted if p["type"] == "refusal"]
    fields: Json = {"content": "".join(texts) if texts or not refusals else None}
    return {**fields, "refusal": "".join(refusals)} if refusals else fields


def join_tool_content(result: Any) -> Any:
    """A text; media too, in a list, which a provider's profile then places."""
    if isinstance(result, str):
        return result
    only_text = all(part["type"] == "text" for part in result)
    return "".join(part["text"] for part in result) if only_text else result


def read_reasoning_text(item: Json, form: str, path: str) -> str:
    """The readable text of a reasoning item: its parts are paragraphs."""
    parts_of_it = read_field(item, form, LIST, f"{path}.{form}") or []
    return "\n\n".join(
        require_field(
            check_type(part, DICT, f"{path}.{form}[{i}]"), "text", STR, f"{path}.{form}[{i}].text"
        )
        for i, part in enumerate(parts_of_it)
    )


def join_reasoning_pieces(pieces: list[Any]) -> Any:
    """The reasoning of one turn: texts as paragraphs, lists end to end, objects as one."""
    filled = [piece for piece in pieces if piece] or pieces[:1]
    if all(isinstance(piece, str) for piece in filled):
        return "\n\n".join(filled)
    if all(isinstance(piece, list) for piece in filled):
        return [detail for piece in filled for detail in piece]
    if all(isinstance(piece, dict) for piece in filled):
        return {name: value for piece in filled for name, value in piece.items()}
    return filled[-1]
