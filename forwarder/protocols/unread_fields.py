"""What a client wrote into fields that no translation reads, so that none is lost in silence.

Fields are known by name, wherever a request has objects inside: messages, parts, tools, settings.
What only an answer had beside its words, and a client gives back with them, is noted; whatever
else is not read is dropped.  A value that is empty asks for nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from forwarder.core.pacing import iter_paced
from forwarder.core.translation_context import Ledger
from forwarder.core.types import Json
from forwarder.protocols.chat_reasoning import DETAILS
from forwarder.protocols.signatures import CALL_FIELDS

Fields = Mapping[str, Any]
"""A field that is read -> the fields of the object in it, ``None`` when nobody looks into it."""


def _fields(*names: str, **inner: Fields) -> Fields:
    return {**dict.fromkeys(names), **inner}


# -- what is read ---------------------------------------------------------------------------------

_CHAT_FILE = _fields("file_data", "file_id", "file_url", "filename")
_CUSTOM = _fields("type", "name", "description", "format", "defer_loading")
_FUNCTION = _fields("type", "name", "description", "parameters", "strict", "defer_loading")
_TEXT = _fields("type", "text")

_PARTS: dict[str, dict[str, Fields]] = {
    "chat": {
        "text": _fields("prompt_cache_breakpoint", **_TEXT),
        "image_url": _fields(
            "type",
            "id",
            "index",
            "prompt_cache_breakpoint",
            image_url=_fields("url", "file_id", "detail"),
        ),
        "file": _fields("type", "prompt_cache_breakpoint", file=_CHAT_FILE),
        "refusal": _fields("type", "refusal"),
    },
    "responses": {
        "input_text": _TEXT,
        "output_text": _TEXT,
        "text": _TEXT,
        "input_image": _fields("type", "image_url", "file_id", "detail"),
        "input_file": _fields("type", *_CHAT_FILE),
        "refusal": _fields("type", "refusal"),
    },
}
"""The client's protocol -> the type of a part -> its fields; other types are not looked into."""

_CODEX_NOTE = "internal_chat_message_metadata_passthrough"
"""What Codex notes of an item, for OpenAI alone."""

_MESSAGE: dict[str, Fields] = {
    "chat": _fields(
        "role", "content", "name", "refusal", "tool_call_id", "tool_calls", "function_call",
        "audio", "images",
    ),
    "responses": _fields("type", "id", "status", "role", "content", _CODEX_NOTE),
}  # fmt: skip

_PLAIN = {"role", "content"}
"""A message that says a text and no more."""

_CALLED = ("type", "id", "call_id", "status", _CODEX_NOTE)

_ITEMS: dict[str, Fields] = {
    "function_call": _fields("name", "namespace", "arguments", *_CALLED),
    "function_call_output": _fields("name", "namespace", "output", *_CALLED),
    "custom_tool_call": _fields("name", "namespace", "input", *_CALLED),
    "custom_tool_call_output": _fields("name", "output", *_CALLED),
    "local_shell_call": _fields("action", *_CALLED),
    "local_shell_call_output": _fields("output", *_CALLED),
    "shell_call": _fields("action", "environment", *_CALLED),
    "shell_call_output": _fields("output", "max_output_length", *_CALLED),
    "apply_patch_call": _fields("operation", *_CALLED),
    "apply_patch_call_output": _fields("output", *_CALLED),
    "reasoning": _fields(
        "type", "id", "summary", "content", "encrypted_content", "status", _CODEX_NOTE
    ),
}
"""A Responses client's items other than messages; records of hosted tools are dropped whole."""

_CALL = _fields("id", "index", "type", "custom", function=_fields("name", "arguments"))

_TOOLS: dict[str, dict[str, Fields]] = {
    "chat": {"function": _fields("type", function=_FUNCTION)},
    "responses": {"function": _FUNCTION, "custom": _CUSTOM},
}

_SETTINGS: dict[str, dict[str, Fields]] = {
    "chat": {"web_search_options": _fields("search_context_size", "user_location")},
    "responses": {
        "reasoning": _fields("effort", "summary", "generate_summary", "mode", "context"),
        "text": _fields("format", "verbosity"),
    },
}

# -- what is said of the rest ---------------------------------------------------------------------

REASONING = "this upstream takes no earlier reasoning as it reads"
ANNOTATIONS = "what an earlier text cited does not go back with it"
LOGPROBS = "log probabilities of an earlier text do not go back with it"
SIGNATURES = "what came with an earlier call was for the upstream that made it"
PHASE = "Chat Completions has no phases of an answer"
BREAKPOINT = "Chat Completions upstreams are not told where to cache"
DETAIL = "Chat Completions has no detail of files"

_NOTED = {
    "caller": "which program made a call, no upstream of Chat Completions can know",
    "async": "Chat Completions knows no calls that are not waited for",
    "reasoning_content": REASONING,
    "reasoning": REASONING,
    **dict.fromkeys(DETAILS, REASONING),
    "annotations": ANNOTATIONS,
    "logprobs": LOGPROBS,
    "phase": PHASE,
    **dict.fromkeys(("reasoning_opaque", *CALL_FIELDS), SIGNATURES),
}
"""What came with an answer and asks for nothing."""

_WHY = {"prompt_cache_breakpoint": BREAKPOINT, "detail": DETAIL}
_UNKNOWN = "nothing on the way reads it"


def report(request: Json, client: str, ledger: Ledger, also_read: Collection[str] = ()) -> None:
    """Enter into the ledger what is not read of a ``client``'s request, which is well-formed.

    ``also_read`` are fields of messages that this upstream has a place for.
    """
    for name in _unread(request, client, frozenset(also_read)):
        field = name.rpartition(".")[2]
        if field in _NOTED:
            ledger.note(name, _NOTED[field])
        else:
            ledger.drop(name, _WHY.get(field, _UNKNOWN))


def _unread(request: Json, client: str, also_read: frozenset[str]) -> Iterator[str]:
    root = "messages" if client == "chat" else "input"
    for entry in _objects(request.get(root)):
        if entry.keys() == _PLAIN and type(entry["content"]) is str:
            continue  # most of a long history is like this
        for name in _in_entry(entry, client, root):
            if name.rpartition(".")[2] not in also_read:
                yield name
    yield from _in_tools(request.get("tools"), client)
    for name, fields in _SETTINGS[client].items():
        yield from _in_object(request.get(name), fields, name)


def _in_entry(entry: Json, client: str, name: str) -> Iterator[str]:
    """A message or an item."""
    if "role" in entry and entry.get("type", "message") == "message":
        yield from _in_object(entry, _MESSAGE[client], name)
    elif (item := _ITEMS.get(_type(entry))) is not None:
        yield from _in_object(entry, item, name)
    for place in ("content", "output", "images"):
        for part in _objects(entry.get(place)):
            fields = _PARTS[client].get(_type(part))
            if fields is not None:
                yield from _in_object(part, fields, f"{name}.{place}")
    for call in _objects(entry.get("tool_calls")):
        yield from _in_object(call, _CALL, f"{name}.tool_calls")
    yield from _in_tools(entry.get("tools"), client)


def _in_tools(tools: Any, client: str) -> Iterator[str]:
    for tool in _objects(tools):
        if tool.get("type") == "namespace":
            yield from _in_tools(tool.get("tools"), client)
        elif (fields := _TOOLS[client].get(_type(tool))) is not None:
            yield from _in_object(tool, fields, f"tools.{tool['type']}")


def _in_object(value: Any, fields: Fields, name: str) -> Iterator[str]:
    if not isinstance(value, dict):
        return
    for field in value.keys() - fields.keys():
        if value[field]:
            yield f"{name}.{field}"
    for field, inner in fields.items():
        if inner is not None:
            yield from _in_object(value.get(field), inner, f"{name}.{field}")


def _type(value: Json) -> str:
    return str(value.get("type"))


def _objects(value: Any) -> Iterator[Json]:
    if isinstance(value, list):
        yield from (each for each in iter_paced(value) if isinstance(each, dict))
