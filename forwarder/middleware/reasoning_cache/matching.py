"""Matches cached reasoning to the calls and texts of a conversation, by keys of their contents.

The key of a call is derived from its id, name and arguments. The key of a text also includes the
item that it answers, because the same text may occur elsewhere. Calls and texts that the client
has changed do not match.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import orjson

from forwarder.core.paced_iteration import give_way, iter_paced
from forwarder.core.types import Json

CALL_INPUT_FIELDS = {"function_call": "arguments", "custom_tool_call": "input"}
"""Call types that chat clients send back, and the field with the call's input."""


def collect_reasoning(history: list[Any], output: Iterable[Any]) -> dict[bytes, list[Json]]:
    """Return key -> the items to cache for an answer's output.

    For a call, the reasoning items before it. For the text, all its reasoning and message items;
    they later replace the client's message.
    """
    entries: dict[bytes, list[Json]] = {}
    reasoning: list[Json] = []
    text_items: list[Json] = []
    for item in output:
        kind = item.get("type")
        if kind == "reasoning":
            reasoning += [to_input_item(item)] if is_replayable(item) else []
            continue
        if kind in CALL_INPUT_FIELDS and reasoning:
            entries[make_call_key(item)] = reasoning
        elif kind == "message":
            text_items += [*reasoning, to_input_item(item, without="id")]
        reasoning = []
    text = "".join(map(read_text, text_items))
    if text and any(item["type"] == "reasoning" or item.get("phase") for item in text_items):
        entries[make_text_key(find_question(history), text)] = text_items
    return entries


def restore_reasoning(
    items: list[Any], find: Callable[[list[bytes]], Mapping[bytes, list[Json]]]
) -> list[Any]:
    """Return the items of a history with the cached entries that ``find`` returns inserted.

    ``find`` is called once with all keys, and not at all without keys.
    """
    keys = list(iterate_keys(items))
    wanted = [key for key in keys if key is not None]
    if not wanted:
        return items
    entries = find(wanted)
    restored: list[Any] = []
    for item, key in zip(items, keys, strict=True):
        entry = entries.get(key, []) if key else []
        # The entry of a text contains the text itself, the entry of a call only its reasoning.
        restored += entry if entry and is_assistant_message(item) else [*entry, item]
    return restored


def iterate_keys(items: list[Any]) -> Iterator[bytes | None]:
    """Yield the key of each item; ``None`` for items without a key."""
    prefix = start_text_key(None)
    for item in iter_paced(items):
        if item.get("type") in CALL_INPUT_FIELDS:
            yield make_call_key(item)
        elif is_assistant_message(item):
            yield finish_text_key(prefix, read_text(item))
        else:
            if is_model_input(item):
                prefix = start_text_key(item)
            yield None


def has_key(item: Json) -> bool:
    """Return whether reasoning can be cached for this item."""
    return item.get("type") in CALL_INPUT_FIELDS or is_assistant_message(item)


def find_question(items: list[Any]) -> Any:
    """Return the item that the model answers next (a user message or a tool output)."""
    return next((item for item in reversed(items) if is_model_input(item)), None)


def is_assistant_message(item: Json) -> bool:
    return item.get("type") == "message" and item.get("role") == "assistant"


def is_model_input(item: Json) -> bool:
    kind = str(item.get("type"))
    return kind.endswith("_output") or (kind == "message" and not is_assistant_message(item))


def is_replayable(item: Json) -> bool:
    """Return whether an upstream without stored state can read this reasoning item."""
    return bool(item.get("encrypted_content") or item.get("content"))


def to_input_item(item: Json, without: str = "") -> Json:
    """Convert an output item to an input item."""
    return {k: v for k, v in item.items() if v is not None and k not in ("status", without)}


def read_text(item: Json) -> str:
    if item.get("type") != "message":
        return ""
    content = item.get("content")
    parts = content if isinstance(content, list) else []
    return "".join(str(part.get("text") or part.get("refusal") or "") for part in parts)


def make_call_key(item: Json) -> bytes:
    call_input = item.get(CALL_INPUT_FIELDS[item["type"]])
    if item["type"] == "function_call" and isinstance(call_input, str):
        call_input = normalize_arguments(call_input)
    return hash_json([item["type"], item.get("call_id"), item.get("name"), call_input])


def make_text_key(question: Any, text: str) -> bytes:
    """Return the digest of ``["text", question, text]``."""
    return finish_text_key(start_text_key(question), text)


def start_text_key(question: Any) -> Any:
    """Return the hash state up to the text.

    It is reused, so a long question with many answers is hashed once.
    """
    data = orjson.dumps(question, option=orjson.OPT_SORT_KEYS)
    give_way(len(data))
    prefix = hashlib.sha256(b'["text",')
    prefix.update(data)
    prefix.update(b",")
    return prefix


def finish_text_key(prefix: Any, text: str) -> bytes:
    state = prefix.copy()
    state.update(orjson.dumps(text.strip()) + b"]")
    digest: bytes = state.digest()
    return digest


def hash_json(value: Any) -> bytes:
    return hashlib.sha256(orjson.dumps(value, option=orjson.OPT_SORT_KEYS)).digest()


def normalize_arguments(arguments: str) -> str:
    """Return arguments in a canonical form, because clients may serialize the JSON differently.

    Fields with empty values are removed. Invalid JSON is returned unchanged.
    """
    try:
        value = orjson.loads(arguments or "{}")
        if isinstance(value, dict):
            value = {k: v for k, v in value.items() if v}
        return orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()
    except (ValueError, TypeError):  # invalid JSON, or nested too deeply to serialize
        return arguments
