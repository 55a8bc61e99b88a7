"""Finds fields of a request that no translation reads, so that the loss report names them.

The tables here list the fields that are read in messages, parts, tools and settings.  Fields that
a client only sends back from an earlier answer are noted (`LossReport.note`); all other unread
fields count as dropped.  Empty values are ignored.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from forwarder.core.paced_iteration import iter_paced
from forwarder.core.translation_context import LossReport
from forwarder.core.types import Json
from forwarder.protocols.chat_reasoning import REASONING_DETAIL_FIELDS
from forwarder.protocols.input_items import read_plain_text
from forwarder.protocols.parameters import CHAT_OVER_RESPONSES, RESPONSES_OVER_CHAT
from forwarder.protocols.signatures import CALL_FIELDS

FieldTree = Mapping[str, Any]
"""A field that is read -> the fields of the object in it, or ``None`` to accept any value."""


def field_tree(*names: str, **inner: FieldTree) -> FieldTree:
    return {**dict.fromkeys(names), **inner}


# -- fields that are read -------------------------------------------------------------------------

_CHAT_FILE_FIELDS = field_tree("file_data", "file_id", "file_url", "filename")
_CUSTOM_TOOL_FIELDS = field_tree("type", "name", "description", "format", "defer_loading")
_FUNCTION_FIELDS = field_tree(
    "type", "name", "description", "parameters", "strict", "defer_loading"
)
_TEXT_FIELDS = field_tree("type", "text")

_PART_FIELDS: dict[str, dict[str, FieldTree]] = {
    "chat": {
        "text": field_tree("prompt_cache_breakpoint", **_TEXT_FIELDS),
        "image_url": field_tree(
            "type",
            "id",
            "index",
            "prompt_cache_breakpoint",
            image_url=field_tree("url", "file_id", "detail"),
        ),
        "file": field_tree("type", "prompt_cache_breakpoint", file=_CHAT_FILE_FIELDS),
        "refusal": field_tree("type", "refusal"),
    },
    "responses": {
        "input_text": _TEXT_FIELDS,
        "output_text": _TEXT_FIELDS,
        "text": _TEXT_FIELDS,
        "input_image": field_tree("type", "image_url", "file_id", "detail"),
        "input_file": field_tree("type", *_CHAT_FILE_FIELDS),
        "refusal": field_tree("type", "refusal"),
    },
}
"""The client's protocol -> the type of a part -> its fields; other types are not checked."""

_CODEX_METADATA = "internal_chat_message_metadata_passthrough"
"""The field in which Codex sends metadata about an item to OpenAI."""

_MESSAGE_FIELDS: dict[str, FieldTree] = {
    "chat": field_tree(
        "role", "content", "name", "refusal", "tool_call_id", "tool_calls", "function_call",
        "audio", "images",
    ),
    "responses": field_tree("type", "id", "status", "role", "content", _CODEX_METADATA),
}  # fmt: skip

_PLAIN_MESSAGE_FIELDS = {"role", "content"}
"""The fields of a message with only a text."""

_CALL_ITEM_FIELDS = ("type", "id", "call_id", "status", _CODEX_METADATA)

_ITEM_FIELDS: dict[str, FieldTree] = {
    "function_call": field_tree("name", "namespace", "arguments", *_CALL_ITEM_FIELDS),
    "function_call_output": field_tree("name", "namespace", "output", *_CALL_ITEM_FIELDS),
    "custom_tool_call": field_tree("name", "namespace", "input", *_CALL_ITEM_FIELDS),
    "custom_tool_call_output": field_tree("name", "output", *_CALL_ITEM_FIELDS),
    "local_shell_call": field_tree("action", *_CALL_ITEM_FIELDS),
    "local_shell_call_output": field_tree("output", *_CALL_ITEM_FIELDS),
    "shell_call": field_tree("action", "environment", *_CALL_ITEM_FIELDS),
    "shell_call_output": field_tree("output", "max_output_length", *_CALL_ITEM_FIELDS),
    "apply_patch_call": field_tree("operation", *_CALL_ITEM_FIELDS),
    "apply_patch_call_output": field_tree("output", *_CALL_ITEM_FIELDS),
    "reasoning": field_tree(
        "type", "id", "summary", "content", "encrypted_content", "status", _CODEX_METADATA
    ),
}
"""A Responses client's items other than messages; records of hosted tools are dropped entirely."""

_TOOL_CALL_FIELDS = field_tree(
    "id", "index", "type", "custom", function=field_tree("name", "arguments")
)

_TOOL_FIELDS: dict[str, dict[str, FieldTree]] = {
    "chat": {"function": field_tree("type", function=_FUNCTION_FIELDS)},
    "responses": {"function": _FUNCTION_FIELDS, "custom": _CUSTOM_TOOL_FIELDS},
}

_SETTING_FIELDS: dict[str, dict[str, FieldTree]] = {
    client: {name: field_tree(*row.fields) for name, row in table.items() if row.fields}
    for client, table in (("chat", CHAT_OVER_RESPONSES), ("responses", RESPONSES_OVER_CHAT))
}

# -- reasons for the loss report ------------------------------------------------------------------

REASONING_LOSS = "this upstream accepts no earlier reasoning as text"
ANNOTATIONS_LOSS = "citations of earlier texts cannot be sent back"
LOGPROBS_LOSS = "log probabilities of earlier texts cannot be sent back"
SIGNATURES_LOSS = "fields of an earlier answer are valid only at the upstream that made it"
PHASE_LOSS = "Chat Completions has no phases of an answer"
BREAKPOINT_LOSS = "Chat Completions has no markers for caching"
FILE_DETAIL_LOSS = "Chat Completions has no `detail` for files"

_NOTE_REASONS = {
    "caller": "Chat Completions does not record which program made a call",
    "async": "Chat Completions has no asynchronous calls",
    "reasoning_content": REASONING_LOSS,
    "reasoning": REASONING_LOSS,
    **dict.fromkeys(REASONING_DETAIL_FIELDS, REASONING_LOSS),
    "annotations": ANNOTATIONS_LOSS,
    "logprobs": LOGPROBS_LOSS,
    "phase": PHASE_LOSS,
    **dict.fromkeys(("reasoning_opaque", *CALL_FIELDS), SIGNATURES_LOSS),
}
"""Fields that came with an earlier answer and have no effect in a request."""


def is_plain_chat_message(message: Json) -> bool:
    """Return whether a message has only a role and a text."""
    return message.keys() == _PLAIN_MESSAGE_FIELDS and type(message["content"]) is str


def is_plain_item(item: Json) -> bool:
    """Return whether an item is a message that has only a text."""
    return read_plain_text(item) is not None


_CONVERSATIONS = {
    "chat": ("messages", is_plain_chat_message),
    "responses": ("input", is_plain_item),
}
"""The client's protocol -> the parameter with its conversation, and entries to skip in it."""

_DROP_REASONS = {"prompt_cache_breakpoint": BREAKPOINT_LOSS, "detail": FILE_DETAIL_LOSS}
_DEFAULT_REASON = "the forwarder does not know this field"


def report_ignored_fields(
    request: Json, client: str, loss_report: LossReport, extra_fields: Collection[str] = ()
) -> None:
    """Report the unread fields of a valid request in the ``client`` protocol.

    ``extra_fields`` are fields of messages that this upstream also takes.
    """
    for name in find_ignored_fields(request, client, frozenset(extra_fields)):
        field = name.rpartition(".")[2]
        if field in _NOTE_REASONS:
            loss_report.note(name, _NOTE_REASONS[field])
        else:
            loss_report.drop(name, _DROP_REASONS.get(field, _DEFAULT_REASON))


def find_ignored_fields(request: Json, client: str, extra_fields: frozenset[str]) -> list[str]:
    root, is_plain = _CONVERSATIONS[client]
    found: list[str] = []
    entries = request.get(root)
    for entry in iter_paced(entries if isinstance(entries, list) else ()):
        if not isinstance(entry, dict) or is_plain(entry):
            continue  # most messages of a long history
        ignored: list[str] = []
        check_entry(entry, client, root, ignored)
        found += [name for name in ignored if name.rpartition(".")[2] not in extra_fields]
    check_tools(request.get("tools"), client, found)
    for name, fields in _SETTING_FIELDS[client].items():
        check_object(request.get(name), fields, name, found)
    return found


# Each of these functions appends the paths of unread fields to ``ignored``.


def check_entry(entry: Json, client: str, path: str, ignored: list[str]) -> None:
    """Check a message or an item, and the parts, calls and tools in it."""
    if "role" in entry and entry.get("type", "message") == "message":
        check_object(entry, _MESSAGE_FIELDS[client], path, ignored)
    elif (fields := _ITEM_FIELDS.get(read_type(entry))) is not None:
        check_object(entry, fields, path, ignored)
    for place in ("content", "output", "images"):
        parts = entry.get(place)
        if isinstance(parts, list):
            check_parts(parts, _PART_FIELDS[client], f"{path}.{place}", ignored)
    if "tool_calls" in entry:
        for call in iterate_objects(entry["tool_calls"]):
            check_object(call, _TOOL_CALL_FIELDS, f"{path}.tool_calls", ignored)
    if "tools" in entry:
        check_tools(entry["tools"], client, ignored)


def check_parts(
    parts: list[Any], part_fields: Mapping[str, FieldTree], path: str, ignored: list[str]
) -> None:
    for part in iterate_objects(parts):
        fields = part_fields.get(read_type(part))
        if fields is not None:
            check_object(part, fields, path, ignored)


def check_tools(tools: Any, client: str, ignored: list[str]) -> None:
    for tool in iterate_objects(tools):
        if tool.get("type") == "namespace":
            check_tools(tool.get("tools"), client, ignored)
        elif (fields := _TOOL_FIELDS[client].get(read_type(tool))) is not None:
            check_object(tool, fields, f"tools.{tool['type']}", ignored)


def check_object(value: Any, fields: FieldTree, path: str, ignored: list[str]) -> None:
    if not isinstance(value, dict):
        return
    for field, inner in value.items():
        if field not in fields:
            if inner:
                ignored.append(f"{path}.{field}")
        elif (inner_fields := fields[field]) is not None:
            check_object(inner, inner_fields, f"{path}.{field}", ignored)


def read_type(value: Json) -> str:
    return str(value.get("type"))


def iterate_objects(value: Any) -> Iterator[Json]:
    entries = value if isinstance(value, list) else ()
    return (each for each in iter_paced(entries) if isinstance(each, dict))
