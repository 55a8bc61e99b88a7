"""Reads the conversation of a Messages request, for the translations to both of OpenAI's APIs.

Messages of one role that follow each other are one turn.  The results of calls are blocks of the
user's next turn.  A `ConversationBuilder` builds the upstream's form of the conversation.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol

from forwarder.core.errors import InvalidRequest, shorten_value
from forwarder.core.paced_iteration import iter_paced
from forwarder.core.translation_context import LossReport, TranslationContext
from forwarder.core.types import Json
from forwarder.core.validate import (
    BOOL,
    DICT,
    STR,
    check_enum,
    check_type,
    read_field,
    require_field,
)
from forwarder.protocols.messages_dispositions import MESSAGES_BLOCKS
from forwarder.translation.messages_parameters import report_unread_fields
from forwarder.translation.messages_request_content import (
    USER_BLOCKS,
    PathBlock,
    convert_block,
    join_texts,
    list_blocks,
    make_text,
    read_text,
    skip_block,
)

FAILED_CALL_NOTE = "[The tool call failed.]"
"""Begins the result of a call that failed; OpenAI's APIs have no field for it."""

_BILLING_BLOCK = "x-anthropic-billing-header:"
"""Claude Code's first system block.  It differs in every request and would defeat prompt caches."""

_ROLES = ("user", "assistant", "system")
_MESSAGE_FIELDS = frozenset({"role", "content"})


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


def read_system(request: Json) -> str:
    """Return the system prompt as one text."""
    system = read_field(request, "system", (str, list), "system")
    if not isinstance(system, list):
        return system or ""
    return join_texts([block for block in system if not is_billing_block(block)], "system")


def is_billing_block(block: Any) -> bool:
    text = block.get("text") if isinstance(block, dict) else None
    return isinstance(text, str) and text.startswith(_BILLING_BLOCK)


def read_conversation(
    messages: list[Any], builder: ConversationBuilder, context: TranslationContext
) -> None:
    """Read all messages into ``builder``.

    Raises InvalidRequest for malformed messages, calls without a result and results without a call.
    """
    open_calls: dict[str, None] = {}
    held_texts: list[str] = []  # system texts between calls and their results
    path = "messages"
    for role, blocks, path in iter_turns(messages, context.loss_report):
        if role == "user":
            read_user_turn(blocks, path, open_calls, builder, context)
            for text in held_texts:
                builder.add_system(text)
            held_texts.clear()
            continue
        if role == "system":
            text = read_system_turn(blocks, context.loss_report)
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


def iter_turns(
    messages: list[Any], loss_report: LossReport
) -> Iterator[tuple[str, list[PathBlock], str]]:
    """Yield the role, the blocks and the path of each turn."""
    role, path = "", ""
    blocks: list[PathBlock] = []
    for i, value in enumerate(iter_paced(messages)):
        place = f"messages[{i}]"
        message = check_type(value, DICT, place)
        next_role = require_field(message, "role", STR, f"{place}.role")
        check_enum(next_role, _ROLES, f"{place}.role")
        if next_role != role:
            if blocks:
                yield role, blocks, path
            role, blocks, path = next_role, [], place
        if message.keys() != _MESSAGE_FIELDS:
            report_unread_fields(message, _MESSAGE_FIELDS, "messages", loss_report)
            if role == "system" and message.get("output_config") and "content" not in message:
                continue  # the message changes only settings
        blocks += list_blocks(message, f"{place}.content")
    if blocks:
        yield role, blocks, path


def read_system_turn(blocks: list[PathBlock], loss_report: LossReport) -> str:
    """Return the text of a system message in the conversation, which may also change tools."""
    texts = []
    for block, path in blocks:
        kind = require_field(block, "type", STR, f"{path}.type")
        if kind == "text":
            texts.append(read_text(block, path))
        else:
            skip_block(kind, f"{path}.type", loss_report)
    return "\n\n".join(texts)


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
    for block, place in iter_paced(blocks):
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
        for i, inner in enumerate(iter_paced(content))
        for part in convert_block(
            check_type(inner, DICT, f"{path}.content[{i}]"), f"{path}.content[{i}]", loss_report
        )
    ]
    if read_field(block, "is_error", BOOL, f"{path}.is_error"):
        return [make_text(FAILED_CALL_NOTE, path), *parts]
    return parts


# -- the assistant's turns ----------------------------------------------------------------------


def read_assistant_turn(
    blocks: list[PathBlock], context: TranslationContext
) -> list[AssistantBlock]:
    """Return the texts, reasoning and calls of a turn, in their order."""
    turn: list[AssistantBlock] = []
    for block, path in iter_paced(blocks):
        kind = require_field(block, "type", STR, f"{path}.type")
        if kind in USER_BLOCKS and kind not in ("text", "compaction"):
            raise InvalidRequest(
                f"'{path}': blocks of type '{kind}' are allowed only in user messages.",
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
        for part, _ in USER_BLOCKS[block["type"]](block, path, context.loss_report)
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


def check_origin(sealed: Json, context: TranslationContext) -> bool:
    """Return whether the model that made the seal now gets the request.  Reports a loss if not."""
    if sealed.get("origin", context.origin) == context.origin:
        return True
    reason = "its signatures are valid only for the model that made them"
    context.loss_report.note("messages.thinking.signature", reason)
    return False
