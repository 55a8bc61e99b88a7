"""Where reasoning belongs: before which calls, and beside which texts.

A call is known again by its id, name and arguments, a text by its words and by what it answers:
the very same words may have been said elsewhere.  What the client has changed is not known again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import orjson

from forwarder.core.pacing import give_way, iter_paced
from forwarder.core.types import Json

CALL_INPUT_FIELDS = {"function_call": "arguments", "custom_tool_call": "input"}
"""Calls that chat clients carry, and what is said in them."""


def collect_reasoning(asked: list[Any], output: Iterable[Any]) -> dict[bytes, list[Json]]:
    """Anchor -> what is to be remembered of an answer's output there.

    Before a call that is its reasoning; for the text it is all that belongs to it, itself too.
    """
    kept: dict[bytes, list[Json]] = {}
    thoughts: list[Json] = []
    spoken: list[Json] = []
    for item in output:
        kind = item.get("type")
        if kind == "reasoning":
            thoughts += [to_input_item(item)] if is_replayable(item) else []
            continue
        if kind in CALL_INPUT_FIELDS and thoughts:
            kept[make_call_key(item)] = thoughts
        elif kind == "message":
            spoken += [*thoughts, to_input_item(item, without="id")]
        thoughts = []
    text = "".join(map(read_text, spoken))
    if text and any(item["type"] == "reasoning" or item.get("phase") for item in spoken):
        kept[make_text_key(find_question(asked), text)] = spoken
    return kept


def restore_reasoning(
    items: list[Any], recall: Callable[[list[bytes]], Mapping[bytes, list[Json]]]
) -> list[Any]:
    """The items of a history with what ``recall`` has of them in its place.

    It is asked once, for all of them, and only when there is something to ask for.
    """
    keys = list(iterate_keys(items))
    asked = [key for key in keys if key is not None]
    if not asked:
        return items
    kept = recall(asked)
    whole: list[Any] = []
    for item, key in zip(items, keys, strict=True):
        there = kept.get(key, []) if key else []
        # What belongs to a text has the text in it; to a call its reasoning alone does.
        whole += there if there and is_assistant_message(item) else [*there, item]
    return whole


def iterate_keys(items: list[Any]) -> Iterator[bytes | None]:
    """The anchor of each item; None of what has none."""
    begun = start_text_key(None)
    for item in iter_paced(items):
        if item.get("type") in CALL_INPUT_FIELDS:
            yield make_call_key(item)
        elif is_assistant_message(item):
            yield finish_text_key(begun, read_text(item))
        else:
            if is_model_input(item):
                begun = start_text_key(item)
            yield None


def find_question(items: list[Any]) -> Any:
    """What an answer to these items answers."""
    return next((item for item in reversed(items) if is_model_input(item)), None)


def is_assistant_message(item: Json) -> bool:
    return item.get("type") == "message" and item.get("role") == "assistant"


def is_model_input(item: Json) -> bool:
    kind = str(item.get("type"))
    return kind.endswith("_output") or (kind == "message" and not is_assistant_message(item))


def is_replayable(item: Json) -> bool:
    """Can an upstream that stored nothing read this reasoning again?"""
    return bool(item.get("encrypted_content") or item.get("content"))


def to_input_item(item: Json, without: str = "") -> Json:
    """An output item as input takes it."""
    return {k: v for k, v in item.items() if v is not None and k not in ("status", without)}


def read_text(item: Json) -> str:
    if item.get("type") != "message":
        return ""
    content = item.get("content")
    parts = content if isinstance(content, list) else []
    return "".join(str(part.get("text") or part.get("refusal") or "") for part in parts)


def make_call_key(item: Json) -> bytes:
    said = item.get(CALL_INPUT_FIELDS[item["type"]])
    if item["type"] == "function_call" and isinstance(said, str):
        said = normalize_arguments(said)
    return hash_json([item["type"], item.get("call_id"), item.get("name"), said])


def make_text_key(question: Any, text: str) -> bytes:
    """The digest of ``["text", question, text]``."""
    return finish_text_key(start_text_key(question), text)


def start_text_key(question: Any) -> Any:
    """The digest up to the text: many texts may answer one long question."""
    written = orjson.dumps(question, option=orjson.OPT_SORT_KEYS)
    give_way(len(written))
    begun = hashlib.sha256(b'["text",')
    begun.update(written)
    begun.update(b",")
    return begun


def finish_text_key(begun: Any, text: str) -> bytes:
    ended = begun.copy()
    ended.update(orjson.dumps(text.strip()) + b"]")
    digest: bytes = ended.digest()
    return digest


def hash_json(value: Any) -> bytes:
    return hashlib.sha256(orjson.dumps(value, option=orjson.OPT_SORT_KEYS)).digest()


def normalize_arguments(arguments: str) -> str:
    """Arguments as text that stays the same when a client writes them as other JSON.

    Empty fields are left out; what is no JSON is given as it is.
    """
    try:
        value = orjson.loads(arguments or "{}")
        if isinstance(value, dict):
            value = {k: v for k, v in value.items() if v}
        return orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()
    except (ValueError, TypeError):  # no JSON, or nested too deeply to be written again
        return arguments
