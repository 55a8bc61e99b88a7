"""Responses input items -> chat messages.

Chat upstreams want one assistant message per turn, carrying its text, its reasoning and all its
calls, followed at once by one tool message per call.  Responses clients send the same things as
single items, sometimes with others between them.  A `Turn` gathers what belongs together.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from forwarder.core.errors import InvalidRequest, shorten
from forwarder.core.pacing import iter_paced
from forwarder.core.translation_context import Terms
from forwarder.core.types import Json
from forwarder.core.validate import DICT, LIST, STR, choose, expect, missing, optional, require
from forwarder.protocols.signatures import MESSAGE_FIELDS, sign_call
from forwarder.translation import content_parts
from forwarder.translation import images as pictures
from forwarder.translation.responses_over_chat.tool_kinds import CALLS, OUTPUTS, TOOL_SEARCH, Kind
from forwarder.translation.responses_over_chat.toolbox import Toolbox, flat_name

_ROLES = ("user", "assistant", "system", "developer")
_IMAGE_NOTE = "[You made this image:]"


@dataclass
class Turn:
    """One assistant message, the answers to its calls, and what has to wait for them."""

    message: Json = field(default_factory=lambda: {"role": "assistant", "content": None})
    thought: dict[str, list[Any]] = field(default_factory=dict)  # field -> its pieces
    calls: dict[str, Json] = field(default_factory=dict)
    own_ids: dict[str, str] = field(default_factory=dict)
    answers: dict[str, Json] = field(default_factory=dict)
    images: list[Json] = field(default_factory=list)
    waiting: list[Json] = field(default_factory=list)

    @property
    def spoken(self) -> bool:
        """The message says something, be it only a refusal."""
        return self.message["content"] is not None or "refusal" in self.message

    @property
    def answered(self) -> bool:
        """All calls have their outputs: whatever comes now belongs to another turn."""
        return bool(self.calls) and len(self.answers) == len(self.calls)

    @property
    def unanswered(self) -> bool:
        return len(self.answers) < len(self.calls)

    def messages(self) -> list[Json]:
        """The turn as chat wants it: the call batch unbroken, then images, then the rest."""
        self.message |= {name: _join_pieces(pieces) for name, pieces in self.thought.items()}
        if self.calls:
            self.message["tool_calls"] = list(self.calls.values())
        made = [{"role": "user", "content": self.images}] if self.images else []
        own = [self.message] if self.spoken or self.calls else []
        return [*own, *(self.answers[k] for k in self.calls), *made, *self.waiting]


class History:
    """Walks the input items once and gives the messages."""

    def __init__(self, toolbox: Toolbox, terms: Terms) -> None:
        self.messages: list[Json] = []
        self._turn = Turn()
        # Pieces of reasoning, until the message or call that it led to.
        self._thought: dict[str, list[Any]] = {}
        self._signatures: dict[str, Json] = {}  # of calls, until the call with that id
        self._toolbox = toolbox
        self._terms = terms

    def read(self, items: list[Any]) -> list[Json]:
        """Chat messages for a list of Responses input items."""
        for i, item in enumerate(iter_paced(items)):
            path = f"input[{i}]"
            self._read_one(expect(item, DICT, path), path)
        self._end_turn()
        return self.messages

    def check(self, item: Json, path: str) -> None:
        """Read an item that stands alone; a call's output has its call before it elsewhere."""
        if _type_of(item, path) in OUTPUTS:
            call_id = self._called(item, path)
            if not call_id:
                raise missing(f"{path}.call_id")
            self._turn.calls[call_id] = {}
        if item.get("type") != "compaction":  # it is opened before a history is read
            self._read_one(item, path)

    def _read_one(self, item: Json, path: str) -> None:
        kind = _type_of(item, path)
        optional(item, "id", STR, f"{path}.id")
        if kind == "message":
            self._message(item, path)
        elif kind in CALLS:
            self._call(item, path)
        elif kind in OUTPUTS:
            self._output(item, path)
        else:
            self._other(kind, item, path)

    def _other(self, kind: str, item: Json, path: str) -> None:
        reader = _OTHERS.get(kind)
        if reader is None:
            raise InvalidRequest(
                f"Invalid value for '{path}.type': '{shorten(kind)}'.",
                param=f"{path}.type",
                code="invalid_value",
            )
        reader(self, item, path)

    # -- messages -------------------------------------------------------------------------------

    def _message(self, item: Json, path: str) -> None:
        role = choose(require(item, "role", STR, f"{path}.role"), _ROLES, f"{path}.role")
        content = item.get("content")
        if content is None:
            content = ""
        expect(content, (str, list), f"{path}.content")
        if role == "assistant":
            self._assistant(content, f"{path}.content")
            return
        self._user({"role": role, "content": _content(role, content, f"{path}.content")})

    def _user(self, message: Json) -> None:
        """A message of anyone but the assistant."""
        if self._turn.unanswered:
            self._turn.waiting.append(message)
            return
        self._end_turn()
        self._thought = {}
        self.messages.append(message)

    def _assistant(self, content: Any, path: str) -> None:
        spoken = _spoken(content, path)
        if self._turn.unanswered and (self._turn.spoken or self._turn.waiting):
            self._turn.waiting.append({"role": "assistant", **spoken})
            return
        if self._turn.answered or self._turn.spoken:
            self._end_turn()
        self._turn.message.update(spoken)
        self._attach_thought()

    # -- calls and outputs ----------------------------------------------------------------------

    def _call(self, item: Json, path: str) -> None:
        _, kind = CALLS[item["type"]]
        if self._turn.answered:
            self._end_turn()
        own_id = optional(item, "id", STR, f"{path}.id")
        call_id = optional(item, "call_id", STR, f"{path}.call_id") or own_id
        if call_id is None:
            raise missing(f"{path}.call_id")
        if call_id in self._turn.calls:
            raise InvalidRequest(f"Two calls have the call_id {call_id}.", param=f"{path}.call_id")
        call = self._chat_call(item, kind, call_id, path)
        self._turn.calls[call_id] = sign_call(call, self._signatures.pop(call_id, {}))
        self._turn.own_ids[own_id or call_id] = call_id
        self._attach_thought()

    def _chat_call(self, item: Json, kind: Kind, call_id: str, path: str) -> Json:
        named = kind.call in ("function_call", "custom_tool_call")
        name = require(item, "name", STR, f"{path}.name") if named else CALLS[kind.call][0]
        chat_name = flat_name(name, optional(item, "namespace", STR, f"{path}.namespace"))
        field, types = kind.given
        optional(item, field, types, f"{path}.{field}")
        if self._toolbox.is_native(kind):
            custom = {"name": chat_name, "input": item.get("input") or ""}
            return {"id": call_id, "type": "custom", "custom": custom}
        function = {"name": chat_name, "arguments": kind.arguments(item)}
        return {"id": call_id, "type": "function", "function": function}

    def _output(self, item: Json, path: str) -> None:
        kind = OUTPUTS[item["type"]]
        if kind is TOOL_SEARCH:
            self._more_tools(item, path)
        call_id = self._called(item, path)
        if call_id not in self._turn.calls or call_id in self._turn.answers:
            raise InvalidRequest(
                f"No tool call found for function call output with call_id {shorten(call_id)}.",
                param="input",
            )
        content = _tool_content(kind.result(item, path))
        self._turn.answers[call_id] = {"role": "tool", "tool_call_id": call_id, "content": content}

    def _called(self, item: Json, path: str) -> str:
        """Which call an output answers; a local shell's output says it by ``id``."""
        call_id = optional(item, "call_id", STR, f"{path}.call_id")
        own_id = optional(item, "id", STR, f"{path}.id") or ""
        return str(call_id or self._turn.own_ids.get(own_id, own_id))

    # -- the rest -------------------------------------------------------------------------------

    def _reasoning(self, item: Json, path: str) -> None:
        opened = self._recalled(item, path)
        for call_id, fields in opened.pop("calls", {}).items():
            if call_id in self._turn.calls:
                self._turn.calls[call_id] = sign_call(self._turn.calls[call_id], fields)
            else:
                self._signatures[call_id] = fields
        holder = self._turn.thought if opened.pop("ends_turn", False) else self._thought
        for name, value in opened.items():
            holder.setdefault(name, []).append(value)

    def _attach_thought(self) -> None:
        for name, pieces in self._thought.items():
            self._turn.thought.setdefault(name, []).extend(pieces)
        self._thought = {}

    def _recalled(self, item: Json, path: str) -> Json:
        """The reasoning as chat fields: from our own seal, else from what can be read."""
        sealed = item.get("encrypted_content")
        opened = self._terms.unseal(sealed) if isinstance(sealed, str) else None
        if isinstance(opened, dict):
            return self._signed(opened)
        text = _thought(item, "content", path) or _thought(item, "summary", path)
        if sealed and not text:
            reason = "what another sealed cannot be opened here"
            self._terms.ledger.drop("input.reasoning.encrypted_content", reason)
        return {"reasoning_content": text} if text else {}

    def _signed(self, opened: Json) -> Json:
        """What a seal held, without signatures if they are for another upstream or model."""
        names: tuple[str, ...] = (*MESSAGE_FIELDS, "calls", "ends_turn")
        if opened.get("origin", self._terms.origin) != self._terms.origin:
            if any(opened.get(name) for name in names):
                reason = "the signatures in it are for the model that made them"
                self._terms.ledger.note("input.reasoning.encrypted_content", reason)
            names = ()
        return {k: v for k, v in opened.items() if k in ("reasoning_content", *names)}

    def _more_tools(self, item: Json, path: str) -> None:
        self._toolbox.add(optional(item, "tools", LIST, f"{path}.tools") or [], f"{path}.tools")

    def _reference(self, item: Json, path: str) -> None:
        name = require(item, "id", STR, f"{path}.id")
        raise InvalidRequest(f"Item with id '{shorten(name)}' not found.", param=f"{path}.id")

    def _hosted(self, item: Json, path: str) -> None:
        """What a hosted tool did elsewhere has no place in a chat history."""
        self._terms.ledger.drop(f"input.{item['type']}", "a hosted tool's record has no chat form")

    def _image(self, item: Json, path: str) -> None:
        """An image that the assistant made: chat's assistants cannot have one, so a user shows it.

        It comes behind the message that it belongs to, and behind the answers to its calls.
        """
        result = optional(item, "result", STR, f"{path}.result")
        if not result:
            self._terms.ledger.drop("input.image_generation_call", "it holds no image")
            return
        if self._turn.answered:
            self._end_turn()
        url = pictures.data_url(result, item.get("output_format"))
        note = {"type": "text", "text": _IMAGE_NOTE}
        self._turn.images += [note, {"type": "image_url", "image_url": {"url": url}}]

    def _audio(self, item: Json, path: str) -> None:
        """A part of a user's message that stands alone."""
        self._user(
            {"role": "user", "content": [content_parts.INPUT_TO_CHAT["input_audio"](item, path)]}
        )

    def _compaction(self, item: Json, path: str) -> None:
        raise InvalidRequest(
            f"'{path}': this compaction item was not made here and cannot be opened.", param=path
        )

    def _end_turn(self) -> None:
        turn = self._turn
        if turn.unanswered:
            missing = next(k for k in turn.calls if k not in turn.answers)
            raise InvalidRequest(
                f"No tool output found for function call {shorten(missing)}.", param="input"
            )
        self.messages += turn.messages()
        self._turn = Turn()


def _nothing(history: History, item: Json, path: str) -> None:
    """An item that request.py has already read."""


_OTHERS: dict[str, Callable[[History, Json, str], None]] = {
    "reasoning": History._reasoning,
    "additional_tools": History._more_tools,
    "item_reference": History._reference,
    "configuration_update": _nothing,
    "image_generation_call": History._image,
    "input_audio": History._audio,
    "compaction": History._compaction,
    "compaction_trigger": History._compaction,
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
        History._hosted,
    ),
}


def _type_of(item: Json, path: str) -> str:
    """The item's type; messages and references may leave it out."""
    kind = item.get("type")
    if kind is not None:
        return str(expect(kind, STR, f"{path}.type"))
    if "role" in item:
        return "message"
    if "id" in item:
        return "item_reference"
    raise missing(f"{path}.type")


def _content(role: str, content: Any, path: str) -> Any:
    if isinstance(content, str):
        return content
    table = content_parts.INPUT_TO_CHAT if role == "user" else content_parts.TEXT_ONLY
    return content_parts.convert(content, table, path)


def _spoken(content: Any, path: str) -> Json:
    """An assistant's content and refusal as chat message fields."""
    if isinstance(content, str):
        return {"content": content}
    converted = content_parts.convert(content, content_parts.OUTPUT_TO_CHAT, path)
    texts = [p["text"] for p in converted if p["type"] == "text"]
    refusals = [p["refusal"] for p in converted if p["type"] == "refusal"]
    fields: Json = {"content": "".join(texts) if texts or not refusals else None}
    return {**fields, "refusal": "".join(refusals)} if refusals else fields


def _tool_content(result: Any) -> Any:
    """A text; media too, in a list, which a provider's profile then places."""
    if isinstance(result, str):
        return result
    only_text = all(part["type"] == "text" for part in result)
    return "".join(part["text"] for part in result) if only_text else result


def _thought(item: Json, form: str, path: str) -> str:
    """The readable text of a reasoning item: its parts are paragraphs."""
    parts_of_it = optional(item, form, LIST, f"{path}.{form}") or []
    return "\n\n".join(
        require(expect(part, DICT, f"{path}.{form}[{i}]"), "text", STR, f"{path}.{form}[{i}].text")
        for i, part in enumerate(parts_of_it)
    )


def _join_pieces(pieces: list[Any]) -> Any:
    """The reasoning of one turn: texts as paragraphs, lists end to end, objects as one."""
    filled = [piece for piece in pieces if piece] or pieces[:1]
    if all(isinstance(piece, str) for piece in filled):
        return "\n\n".join(filled)
    if all(isinstance(piece, list) for piece in filled):
        return [detail for piece in filled for detail in piece]
    if all(isinstance(piece, dict) for piece in filled):
        return {name: value for piece in filled for name, value in piece.items()}
    return filled[-1]
