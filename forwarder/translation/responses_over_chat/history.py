"""Responses input items -> chat messages.

Chat upstreams require one assistant message per turn, with its text, its reasoning and all its
calls, followed immediately by one tool message per call.  Responses clients send the same data as
single items, sometimes with other items in between.  An ``AssistantTurn`` collects the items of
one turn.
"""

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
    make_missing_parameter_error,
    read_field,
    require_field,
)
from forwarder.protocols.input_items import read_plain_text
from forwarder.protocols.signatures import MESSAGE_FIELDS, attach_call_signatures
from forwarder.translation import content_parts
from forwarder.translation import images as pictures
from forwarder.translation.responses_over_chat.client_tool_kinds import (
    CALL_TYPES,
    OUTPUT_TYPES,
    TOOL_SEARCH,
    ClientToolKind,
)
from forwarder.translation.responses_over_chat.tools import Toolbox, flatten_name

_ROLES = ("user", "assistant", "system", "developer")
_IMAGE_NOTE = "[You made this image:]"


class AssistantTurn:
    """One assistant message, its tool messages, and the messages that must follow them."""

    def __init__(self) -> None:
        self.message: Json = {"role": "assistant", "content": None}
        self.reasoning: dict[str, list[Any]] = {}  # field -> its pieces
        self.calls: dict[str, Json] = {}
        self.call_ids: dict[str, str] = {}  # item id -> call id
        self.tool_messages: dict[str, Json] = {}
        self.images: list[Json] = []
        self.waiting: list[Json] = []

    @property
    def has_text(self) -> bool:
        """Whether the message has text or a refusal."""
        return self.message["content"] is not None or "refusal" in self.message

    @property
    def is_answered(self) -> bool:
        """Whether all calls have their outputs, so that the next item starts another turn."""
        return bool(self.calls) and len(self.tool_messages) == len(self.calls)

    @property
    def has_open_calls(self) -> bool:
        return len(self.tool_messages) < len(self.calls)

    def to_messages(self) -> list[Json]:
        """Return the assistant message, its tool messages, its images, then all other messages."""
        if not (self.reasoning or self.calls or self.images or self.waiting):
            return [self.message] if self.has_text else []
        self.message |= {
            name: join_reasoning_pieces(pieces) for name, pieces in self.reasoning.items()
        }
        if self.calls:
            self.message["tool_calls"] = list(self.calls.values())
        assistant = [self.message] if self.has_text or self.calls else []
        tools = [self.tool_messages[call_id] for call_id in self.calls]
        images = [{"role": "user", "content": self.images}] if self.images else []
        return [*assistant, *tools, *images, *self.waiting]


class ResponsesHistoryReader:
    """Reads one history, item by item, and builds the messages."""

    def __init__(self, toolbox: Toolbox, context: TranslationContext) -> None:
        self.messages: list[Json] = []
        self._turn = AssistantTurn()
        # Pieces of reasoning that wait for their message or call.
        self._reasoning: dict[str, list[Any]] = {}
        self._signatures: dict[str, Json] = {}  # call id -> signatures that wait for this call
        self._toolbox = toolbox
        self._context = context

    def read_items(self, items: list[Any]) -> list[Json]:
        """Return the chat messages for a list of Responses input items.

        Raises InvalidRequest for malformed items, calls without output and outputs without a call.
        """
        for i, item in enumerate(iter_paced(items)):
            if self._add_plain_message(item):
                continue
            path = f"input[{i}]"
            self._read_item(check_type(item, DICT, path), path)
        self._end_turn()
        return self.messages

    def _add_plain_message(self, item: Any) -> bool:
        """Add a message that has only a text, as most messages of a long history.

        Returns False, without a change, for all other items.
        """
        text = read_plain_text(item) if type(item) is dict else None
        if text is None:
            return False
        if item["role"] == "assistant":
            self._add_assistant_fields({"content": text})
        else:
            content = text if item["content"] is text else [{"type": "text", "text": text}]
            self._add_message({"role": item["role"], "content": content})
        return True

    def check_item(self, item: Json, path: str) -> None:
        """Check one item without its history: a call's output is accepted without its call."""
        if read_item_type(item, path) in OUTPUT_TYPES:
            call_id = self._find_call_id(item, path)
            if not call_id:
                raise make_missing_parameter_error(f"{path}.call_id")
            self._turn.calls[call_id] = {}
        if item.get("type") != "compaction":  # middleware expands it before the translation
            self._read_item(item, path)

    def _read_item(self, item: Json, path: str) -> None:
        kind = read_item_type(item, path)
        if "id" in item:
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
        role: Any = item.get("role")
        content = item.get("content")
        if role not in _ROLES:
            check_enum(require_field(item, "role", STR, f"{path}.role"), _ROLES, f"{path}.role")
        if content is None:
            content = ""
        elif type(content) is not str:
            check_type(content, (str, list), f"{path}.content")
        if role == "assistant":
            self._add_assistant_fields(convert_assistant_content(content, f"{path}.content"))
            return
        self._add_message(
            {"role": role, "content": convert_content(role, content, f"{path}.content")}
        )

    def _add_message(self, message: Json) -> None:
        """Add a user, system or developer message."""
        if self._turn.has_open_calls:
            self._turn.waiting.append(message)
            return
        self._end_turn()
        self._reasoning = {}
        self.messages.append(message)

    def _add_assistant_fields(self, fields: Json) -> None:
        """Add the content and refusal of an assistant's message."""
        if self._turn.has_open_calls and (self._turn.has_text or self._turn.waiting):
            self._turn.waiting.append({"role": "assistant", **fields})
            return
        if self._turn.is_answered or self._turn.has_text:
            self._end_turn()
        self._turn.message.update(fields)
        if self._reasoning:
            self._attach_reasoning()

    # -- calls and outputs ----------------------------------------------------------------------

    def _read_call(self, item: Json, path: str) -> None:
        _, kind = CALL_TYPES[item["type"]]
        if self._turn.is_answered:
            self._end_turn()
        item_id = read_field(item, "id", STR, f"{path}.id")
        call_id = read_field(item, "call_id", STR, f"{path}.call_id") or item_id
        if call_id is None:
            raise make_missing_parameter_error(f"{path}.call_id")
        if call_id in self._turn.calls:
            raise InvalidRequest(
                f"Two calls have the call_id '{shorten_value(call_id)}'.", param=f"{path}.call_id"
            )
        call = self._make_chat_call(item, kind, call_id, path)
        self._turn.calls[call_id] = attach_call_signatures(call, self._signatures.pop(call_id, {}))
        self._turn.call_ids[item_id or call_id] = call_id
        self._attach_reasoning()

    def _make_chat_call(self, item: Json, kind: ClientToolKind, call_id: str, path: str) -> Json:
        name = CALL_TYPES[kind.call_type][0]
        if kind.call_type in ("function_call", "custom_tool_call"):
            name = require_field(item, "name", STR, f"{path}.name")
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
        """Return the id of an output's call; outputs of a local shell may name it in ``id``."""
        call_id = read_field(item, "call_id", STR, f"{path}.call_id")
        item_id = read_field(item, "id", STR, f"{path}.id") or ""
        return str(call_id or self._turn.call_ids.get(item_id, item_id))

    # -- other items ----------------------------------------------------------------------------

    def _read_reasoning(self, item: Json, path: str) -> None:
        reasoning = self._decrypt_reasoning(item, path)
        for call_id, fields in reasoning.pop("calls", {}).items():
            if call_id in self._turn.calls:
                self._turn.calls[call_id] = attach_call_signatures(
                    self._turn.calls[call_id], fields
                )
            else:
                self._signatures[call_id] = fields
        target = self._turn.reasoning if reasoning.pop("ends_turn", False) else self._reasoning
        for name, value in reasoning.items():
            target.setdefault(name, []).append(value)

    def _attach_reasoning(self) -> None:
        for name, pieces in self._reasoning.items():
            self._turn.reasoning.setdefault(name, []).extend(pieces)
        self._reasoning = {}

    def _decrypt_reasoning(self, item: Json, path: str) -> Json:
        """Return the reasoning as chat fields: the forwarder's encrypted content, else the text."""
        encrypted = item.get("encrypted_content")
        content = self._context.decrypt(encrypted) if isinstance(encrypted, str) else None
        if isinstance(content, dict):
            return self._select_own_signatures(content)
        text = read_reasoning_text(item, "content", path) or read_reasoning_text(
            item, "summary", path
        )
        if encrypted and not text:
            reason = "only the server that made it can decrypt it"
            self._context.loss_report.drop("input.reasoning.encrypted_content", reason)
        return {"reasoning_content": text} if text else {}

    def _select_own_signatures(self, content: Json) -> Json:
        """Return decrypted content, without signatures of another upstream or model."""
        names: tuple[str, ...] = (*MESSAGE_FIELDS, "calls", "ends_turn")
        if content.get("origin", self._context.origin) != self._context.origin:
            if any(content.get(name) for name in names):
                reason = "its signatures are valid only for the model that made them"
                self._context.loss_report.note("input.reasoning.encrypted_content", reason)
            names = ()
        return {k: v for k, v in content.items() if k in ("reasoning_content", *names)}

    def _add_tools(self, item: Json, path: str) -> None:
        self._toolbox.add_tools(
            read_field(item, "tools", LIST, f"{path}.tools") or [], f"{path}.tools"
        )

    def _refuse_reference(self, item: Json, path: str) -> None:
        name = require_field(item, "id", STR, f"{path}.id")
        raise InvalidRequest(f"Item with id '{shorten_value(name)}' not found.", param=f"{path}.id")

    def _drop_hosted_record(self, item: Json, path: str) -> None:
        self._context.loss_report.drop(
            f"input.{item['type']}", "Chat Completions has no form for hosted tool calls"
        )

    def _add_image(self, item: Json, path: str) -> None:
        """Add an image of the assistant as a user message: chat has no images of the assistant.

        The message follows the assistant's message and its tool messages.
        """
        result = read_field(item, "result", STR, f"{path}.result")
        if not result:
            self._context.loss_report.drop("input.image_generation_call", "it has no image")
            return
        if self._turn.is_answered:
            self._end_turn()
        url = pictures.make_data_url(result, item.get("output_format"))
        note = {"type": "text", "text": _IMAGE_NOTE}
        self._turn.images += [note, {"type": "image_url", "image_url": {"url": url}}]

    def _add_audio(self, item: Json, path: str) -> None:
        """Add a top-level audio part as a user message."""
        self._add_message(
            {"role": "user", "content": [content_parts.INPUT_TO_CHAT["input_audio"](item, path)]}
        )

    def _refuse_compaction(self, item: Json, path: str) -> None:
        raise InvalidRequest(
            f"'{path}': this server did not create this compaction item and cannot decrypt it.",
            param=path,
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
    """Do nothing: request.py applies the item."""


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
    """Return the item's type, which messages and references may omit."""
    kind = item.get("type")
    if kind is not None:
        return str(check_type(kind, STR, f"{path}.type"))
    if "role" in item:
        return "message"
    if "id" in item:
        return "item_reference"
    raise make_missing_parameter_error(f"{path}.type")


def convert_content(role: str, content: Any, path: str) -> Any:
    if isinstance(content, str):
        return content
    table = content_parts.INPUT_TO_CHAT if role == "user" else content_parts.TEXT_TO_CHAT
    return content_parts.convert_parts(content, table, path)


def convert_assistant_content(content: Any, path: str) -> Json:
    """Return an assistant's content and refusal as chat message fields."""
    if isinstance(content, str):
        return {"content": content}
    converted = content_parts.convert_parts(content, content_parts.OUTPUT_TO_CHAT, path)
    texts = [p["text"] for p in converted if p["type"] == "text"]
    refusals = [p["refusal"] for p in converted if p["type"] == "refusal"]
    fields: Json = {"content": "".join(texts) if texts or not refusals else None}
    return {**fields, "refusal": "".join(refusals)} if refusals else fields


def join_tool_content(result: Any) -> Any:
    """Join a result's parts to one text.

    A list with media stays for `providers/tool_result_media.py`.
    """
    if isinstance(result, str):
        return result
    only_text = all(part["type"] == "text" for part in result)
    return "".join(part["text"] for part in result) if only_text else result


def read_reasoning_text(item: Json, form: str, path: str) -> str:
    """Return the text of a reasoning item, one paragraph per part of ``form``."""
    parts = read_field(item, form, LIST, f"{path}.{form}") or []
    return "\n\n".join(
        require_field(
            check_type(part, DICT, f"{path}.{form}[{i}]"), "text", STR, f"{path}.{form}[{i}].text"
        )
        for i, part in enumerate(parts)
    )


def join_reasoning_pieces(pieces: list[Any]) -> Any:
    """Join the reasoning of one turn: texts as paragraphs, lists concatenated, objects merged."""
    filled = [piece for piece in pieces if piece] or pieces[:1]
    if all(isinstance(piece, str) for piece in filled):
        return "\n\n".join(filled)
    if all(isinstance(piece, list) for piece in filled):
        return [detail for piece in filled for detail in piece]
    if all(isinstance(piece, dict) for piece in filled):
        return {name: value for piece in filled for name, value in piece.items()}
    return filled[-1]
