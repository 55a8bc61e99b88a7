"""Reads the conversation of a Messages request, for the translations to both of OpenAI's APIs.

Messages of one role that follow each other are one turn.  The results of calls are blocks of the
user's next turn.  A `ConversationBuilder` builds the upstream's form of what is read here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol

from forwarder.core.errors import InvalidRequest, shorten_value
from forwarder.core.pacing import iter_paced
from forwarder.core.translation_context import LossReport, TranslationContext
from forwarder.core.types import Json
from forwarder.core.validate import (
    BOOL,
    DICT,
    LIST,
    STR,
    check_enum,
    check_type,
    read_field,
    require_field,
)
from forwarder.protocols.messages_tables import MESSAGES_BLOCKS

FAILED_CALL_NOTE = "[The tool call failed.]"
"""Begins the result of a call that failed; OpenAI's APIs have no field for it."""

_BILLING_BLOCK = "x-anthropic-billing-header:"
"""Claude Code's first system block.  It differs in every request, so no prefix would be cached."""

# No two parts match the same character, so a long text cannot cause backtracking.
_BASE64 = re.compile(r"[A-Za-z0-9+/\s]+(?:=\s*){0,2}")
_MEDIA_TYPE = re.compile(r"[\w.+-]+/[\w.+-]+", re.ASCII)

_ROLES = ("user", "assistant", "system")


class Thinking(NamedTuple):
    """Reasoning of an earlier answer: its text, and the content of its seal.

    ``sealed`` is None if the forwarder did not seal it for this client.
    """

    text: str
    sealed: Any


class ToolCall(NamedTuple):
    """A call of an earlier answer; ``arguments`` is JSON."""

    call_id: str
    name: str
    arguments: str


AssistantBlock = str | Thinking | ToolCall
"""A text, reasoning or a call, in the order of the answer."""


class ConversationBuilder(Protocol):
    """Builds a conversation in the upstream's form.

    User parts and results have the form of Chat parts; each comes with its path in the request.
    """

    def add_system(self, text: str) -> None: ...

    def add_user(self, parts: list[tuple[Json, str]]) -> None: ...

    def add_result(self, call_id: str, content: list[tuple[Json, str]]) -> None: ...

    def add_assistant(self, blocks: list[AssistantBlock]) -> None: ...


PathBlock = tuple[Json, str]
"""A block and its path in the request."""


def read_system(request: Json) -> str:
    """Return the system prompt as one text."""
    system = read_field(request, "system", (str, list), "system")
    if isinstance(system, list):
        return join_texts(system, "system")
    return system or ""


def join_texts(blocks: list[Any], path: str) -> str:
    """Join text blocks to one text with paragraphs."""
    texts = [read_text(block, f"{path}[{i}]") for i, block in enumerate(blocks)]
    return "\n\n".join(text for text in texts if text and not text.startswith(_BILLING_BLOCK))


def read_text(value: Any, path: str) -> str:
    block = check_type(value, DICT, path)
    check_enum(require_field(block, "type", STR, f"{path}.type"), ("text",), f"{path}.type")
    return str(require_field(block, "text", STR, f"{path}.text"))


def read_conversation(
    messages: list[Any], builder: ConversationBuilder, context: TranslationContext
) -> None:
    """Read all messages into ``builder``.

    Raises InvalidRequest for malformed messages and for calls and results without their partner.
    """
    open_calls: dict[str, None] = {}
    held_texts: list[str] = []  # of the system, between calls and their results
    path = "messages"
    for role, blocks, path in iter_turns(messages):
        if role == "user":
            read_user_turn(blocks, path, open_calls, builder, context)
            for text in held_texts:
                builder.add_system(text)
            held_texts.clear()
            continue
        if role == "system":
            text = "\n\n".join(read_text(block, place) for block, place in blocks)
            if open_calls:
                held_texts.append(text)
            else:
                builder.add_system(text)
            continue
        check_all_answered(open_calls, path)
        turn = read_assistant_turn(blocks, context)
        calls = [each.call_id for each in turn if isinstance(each, ToolCall)]
        open_calls.update(dict.fromkeys(calls))
        if len(open_calls) < len(calls):
            raise InvalidRequest(
                f"'{path}': `tool_use` ids must be unique.", param=path, code="invalid_value"
            )
        builder.add_assistant(turn)
    check_all_answered(open_calls, path)


def iter_turns(messages: list[Any]) -> Iterator[tuple[str, list[PathBlock], str]]:
    """Yield the role, the blocks and the path of each turn."""
    role, path = "", ""
    blocks: list[PathBlock] = []
    for i, value in enumerate(iter_paced(messages)):
        place = f"messages[{i}]"
        message = check_type(value, DICT, place)
        own = require_field(message, "role", STR, f"{place}.role")
        check_enum(own, _ROLES, f"{place}.role")
        if own != role:
            if blocks:
                yield role, blocks, path
            role, blocks, path = own, [], place
        blocks += list_blocks(message, f"{place}.content")
    if blocks:
        yield role, blocks, path


def list_blocks(message: Json, path: str) -> list[PathBlock]:
    content = require_field(message, "content", (str, list), path)
    if isinstance(content, str):
        return [({"type": "text", "text": content}, path)]
    return [
        (check_type(block, DICT, f"{path}[{i}]"), f"{path}[{i}]") for i, block in enumerate(content)
    ]


def check_all_answered(open_calls: dict[str, None], path: str) -> None:
    if open_calls:
        ids = shorten_value(", ".join(open_calls))
        raise InvalidRequest(
            f"'{path}': `tool_use` ids were found without `tool_result` blocks immediately after: "
            f"{ids}. Each `tool_use` block must have a corresponding `tool_result` block in the "
            "next message.",
            param=path,
        )


# -- the user's turns ---------------------------------------------------------------------------


def read_user_turn(
    blocks: list[PathBlock],
    path: str,
    open_calls: dict[str, None],
    builder: ConversationBuilder,
    context: TranslationContext,
) -> None:
    """Read a turn of the user: first the results of calls, then everything else."""
    parts: list[PathBlock] = []
    for block, place in blocks:
        kind = block.get("type")
        if kind == "tool_result":
            call_id = require_field(block, "tool_use_id", STR, f"{place}.tool_use_id")
            if call_id not in open_calls:
                raise InvalidRequest(
                    f"'{place}': unexpected `tool_use_id` found in `tool_result` blocks: "
                    f"{shorten_value(call_id)}. Each `tool_result` block must have a corresponding "
                    "`tool_use` block in the previous message.",
                    param=f"{place}.tool_use_id",
                )
            del open_calls[call_id]
            builder.add_result(call_id, read_result(block, place, context.loss_report))
        else:
            parts += convert_block(block, place, context.loss_report)
    check_all_answered(open_calls, path)
    if parts:
        builder.add_user(parts)


def read_result(block: Json, path: str, loss_report: LossReport) -> list[PathBlock]:
    """Return the parts of a result; a failure is noted in the first one."""
    content = read_field(block, "content", (str, list), f"{path}.content") or []
    if isinstance(content, str):
        content = [{"type": "text", "text": content}]
    parts = [
        part
        for i, inner in enumerate(content)
        for part in convert_block(
            check_type(inner, DICT, f"{path}.content[{i}]"), f"{path}.content[{i}]", loss_report
        )
    ]
    if read_field(block, "is_error", BOOL, f"{path}.is_error"):
        return [make_text(FAILED_CALL_NOTE, path), *parts]
    return parts


def make_text(text: str, path: str) -> PathBlock:
    return {"type": "text", "text": text}, path


def convert_block(block: Json, path: str, loss_report: LossReport) -> list[PathBlock]:
    """Convert a block of the user to parts in the form of Chat."""
    kind = require_field(block, "type", STR, f"{path}.type")
    converter = _USER_BLOCKS.get(kind)
    if converter is not None:
        return converter(block, path, loss_report)
    skip_block(kind, f"{path}.type", loss_report)
    return []


def skip_block(kind: str, path: str, loss_report: LossReport) -> None:
    """Report a block that has no form upstream.  Raises InvalidRequest for an unknown type."""
    row = MESSAGES_BLOCKS.get(kind)
    if row is None or row.kind not in ("noted", "dropped"):
        raise InvalidRequest(
            f"Invalid value for '{path}': '{shorten_value(kind)}'.",
            param=path,
            code="invalid_value",
        )
    report = loss_report.drop if row.kind == "dropped" else loss_report.note
    report(f"messages.{kind}", row.reason)


def convert_text(block: Json, path: str, loss_report: LossReport) -> list[PathBlock]:
    text = require_field(block, "text", STR, f"{path}.text")
    if block.get("citations"):
        note_row("text, with citations", "citations", loss_report)
    return [make_text(text, path)] if text else []


def note_row(row: str, name: str, loss_report: LossReport) -> None:
    loss_report.note(f"messages.{name}", MESSAGES_BLOCKS[row].reason)


def convert_image(block: Json, path: str, loss_report: LossReport) -> list[PathBlock]:
    if block.get("transformations"):
        loss_report.drop(
            "messages.transformations", MESSAGES_BLOCKS["image, with transformations"].reason
        )
    place = f"{path}.source"
    source = require_field(block, "source", DICT, place)
    kind = check_enum(
        require_field(source, "type", STR, f"{place}.type"),
        ("base64", "url", "file"),
        f"{place}.type",
    )
    if kind == "file":
        image = {"file_id": require_field(source, "file_id", STR, f"{place}.file_id")}
    elif kind == "url":
        image = {"url": require_field(source, "url", STR, f"{place}.url")}
    else:
        image = {"url": read_data_url(source, place)}
    return [({"type": "image_url", "image_url": image}, path)]


def read_data_url(source: Json, path: str) -> str:
    media = require_field(source, "media_type", STR, f"{path}.media_type")
    data = require_field(source, "data", STR, f"{path}.data")
    if not _BASE64.fullmatch(data) or not _MEDIA_TYPE.fullmatch(media):
        raise InvalidRequest(
            f"Invalid value for '{path}': it is not valid base64 with a media type.",
            param=path,
            code="invalid_value",
        )
    return f"data:{media};base64,{data}"


def convert_document(block: Json, path: str, loss_report: LossReport) -> list[PathBlock]:
    """Convert a document; its title and its context come before it."""
    title = read_field(block, "title", STR, f"{path}.title")
    notes = [f"Document: {title}" if title else ""]
    notes.append(read_field(block, "context", STR, f"{path}.context") or "")
    citations = read_field(block, "citations", DICT, f"{path}.citations") or {}
    if citations.get("enabled"):
        loss_report.drop("messages.citations", MESSAGES_BLOCKS["document, with citations"].reason)
    place = f"{path}.source"
    source = require_field(block, "source", DICT, place)
    kind = require_field(source, "type", STR, f"{place}.type")
    check_enum(kind, tuple(_DOCUMENT_SOURCES), f"{place}.type")
    head = "\n".join(filter(None, notes))
    parts = _DOCUMENT_SOURCES[kind](source, title, place, loss_report)
    return [*([make_text(head, path)] if head else ()), *parts]


def make_file(fields: Json, title: str | None, path: str) -> list[PathBlock]:
    name = title or "document"
    name = name if name.lower().endswith(".pdf") else f"{name}.pdf"  # providers read the ending
    named = fields if "file_id" in fields else {**fields, "filename": name}
    return [({"type": "file", "file": named}, path)]


def convert_content_source(
    source: Json, title: str | None, path: str, loss_report: LossReport
) -> list[PathBlock]:
    return [
        part
        for block, place in list_blocks(source, f"{path}.content")
        for part in convert_block(block, place, loss_report)
    ]


_DOCUMENT_SOURCES: dict[str, Callable[[Json, str | None, str, LossReport], list[PathBlock]]] = {
    "base64": lambda source, title, path, loss_report: make_file(
        {"file_data": read_data_url(source, path)}, title, path
    ),
    "url": lambda source, title, path, loss_report: make_file(
        {"file_url": require_field(source, "url", STR, f"{path}.url")}, title, path
    ),
    "file": lambda source, title, path, loss_report: make_file(
        {"file_id": require_field(source, "file_id", STR, f"{path}.file_id")}, title, path
    ),
    "text": lambda source, title, path, loss_report: [
        make_text(require_field(source, "data", STR, f"{path}.data"), path)
    ],
    "content": convert_content_source,
}
"""The type of a document's source -> its converter."""


def convert_search_result(block: Json, path: str, loss_report: LossReport) -> list[PathBlock]:
    title = require_field(block, "title", STR, f"{path}.title")
    source = require_field(block, "source", STR, f"{path}.source")
    content = require_field(block, "content", LIST, f"{path}.content")
    text = join_texts(content, f"{path}.content")
    return [make_text(f"Search result: {title}\nSource: {source}\n\n{text}", path)]


def convert_tool_reference(block: Json, path: str, loss_report: LossReport) -> list[PathBlock]:
    name = require_field(block, "tool_name", STR, f"{path}.tool_name")
    return [make_text(f"The tool '{name}' is available.", path)]


def convert_compaction(block: Json, path: str, loss_report: LossReport) -> list[PathBlock]:
    text = read_field(block, "content", STR, f"{path}.content")
    return [make_text(text, path)] if text else []


_USER_BLOCKS: dict[str, Callable[[Json, str, LossReport], list[PathBlock]]] = {
    "text": convert_text,
    "image": convert_image,
    "document": convert_document,
    "search_result": convert_search_result,
    "tool_reference": convert_tool_reference,
    "compaction": convert_compaction,
}
"""Type of a block -> its converter."""


# -- the assistant's turns ----------------------------------------------------------------------


def read_assistant_turn(
    blocks: list[PathBlock], context: TranslationContext
) -> list[AssistantBlock]:
    """Return the texts, reasoning and calls of a turn, in their order."""
    turn: list[AssistantBlock] = []
    for block, path in blocks:
        kind = require_field(block, "type", STR, f"{path}.type")
        if kind in _USER_BLOCKS and kind not in ("text", "compaction"):
            raise InvalidRequest(
                f"'{path}': blocks of type '{kind}' belong into messages of the user.",
                param=f"{path}.type",
                code="invalid_value",
            )
        reader = _ASSISTANT_BLOCKS.get(kind)
        if reader is None:
            skip_block(kind, f"{path}.type", context.loss_report)
        else:
            turn += reader(block, path, context)
    return turn


def read_answer_text(block: Json, path: str, context: TranslationContext) -> list[AssistantBlock]:
    return [
        str(part["text"])
        for part, _ in _USER_BLOCKS[block["type"]](block, path, context.loss_report)
    ]


def read_thinking(block: Json, path: str, context: TranslationContext) -> list[AssistantBlock]:
    text = require_field(block, "thinking", STR, f"{path}.thinking")
    signature = read_field(block, "signature", STR, f"{path}.signature")
    sealed = context.decrypt(signature) if signature else None
    return [Thinking(text, sealed)]


def read_redacted_thinking(
    block: Json, path: str, context: TranslationContext
) -> list[AssistantBlock]:
    sealed = context.decrypt(require_field(block, "data", STR, f"{path}.data"))
    if isinstance(sealed, dict):
        return [Thinking("", sealed)]
    row = MESSAGES_BLOCKS["redacted_thinking, made elsewhere"]
    context.loss_report.drop("messages.redacted_thinking", row.reason)
    return []


def read_tool_use(block: Json, path: str, context: TranslationContext) -> list[AssistantBlock]:
    call_id = require_field(block, "id", STR, f"{path}.id")
    name = require_field(block, "name", STR, f"{path}.name")
    value = require_field(block, "input", DICT, f"{path}.input")
    arguments = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return [ToolCall(call_id, name, arguments)]


_ASSISTANT_BLOCKS: dict[str, Callable[[Json, str, TranslationContext], list[AssistantBlock]]] = {
    "text": read_answer_text,
    "compaction": read_answer_text,
    "thinking": read_thinking,
    "redacted_thinking": read_redacted_thinking,
    "tool_use": read_tool_use,
}


def is_of_origin(sealed: Json, context: TranslationContext) -> bool:
    """Whether a seal was made for the model that now gets the request; reports it if it was not."""
    if sealed.get("origin", context.origin) == context.origin:
        return True
    reason = "its signatures are valid only for the model that made them"
    context.loss_report.note("messages.thinking.signature", reason)
    return False
