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

_CALLS = {"function_call": "arguments", "custom_tool_call": "input"}
"""Calls that chat clients carry, and what is said in them."""


def found(asked: list[Any], output: Iterable[Any]) -> dict[bytes, list[Json]]:
    """Anchor -> what is to be remembered of an answer's output there.

    Before a call that is its reasoning; for the text it is all that belongs to it, itself too.
    """
    kept: dict[bytes, list[Json]] = {}
    thoughts: list[Json] = []
    spoken: list[Json] = []
    for item in output:
        kind = item.get("type")
        if kind == "reasoning":
            thoughts += [_bare(item)] if _lasts(item) else []
            continue
        if kind in _CALLS and thoughts:
            kept[_call_key(item)] = thoughts
        elif kind == "message":
            spoken += [*thoughts, _bare(item, without="id")]
        thoughts = []
    text = "".join(map(_text_of, spoken))
    if text and any(item["type"] == "reasoning" or item.get("phase") for item in spoken):
        kept[_text_key(_question(asked), text)] = spoken
    return kept


def restored(
    items: list[Any], recall: Callable[[list[bytes]], Mapping[bytes, list[Json]]]
) -> list[Any]:
    """The items of a history with what ``recall`` has of them in its place.

    It is asked once, for all of them, and only when there is something to ask for.
    """
    keys = list(_keys(items))
    asked = [key for key in keys if key is not None]
    if not asked:
        return items
    kept = recall(asked)
    whole: list[Any] = []
    for item, key in zip(items, keys, strict=True):
        there = kept.get(key, []) if key else []
        # What belongs to a text has the text in it; to a call its reasoning alone does.
        whole += there if there and _is_spoken(item) else [*there, item]
    return whole


def _keys(items: list[Any]) -> Iterator[bytes | None]:
    """The anchor of each item; None of what has none."""
    begun = _begin_text_key(None)
    for item in iter_paced(items):
        if item.get("type") in _CALLS:
            yield _call_key(item)
        elif _is_spoken(item):
            yield _end_text_key(begun, _text_of(item))
        else:
            if _is_said_to_the_model(item):
                begun = _begin_text_key(item)
            yield None


def _question(items: list[Any]) -> Any:
    """What an answer to these items answers."""
    return next((item for item in reversed(items) if _is_said_to_the_model(item)), None)


def _is_spoken(item: Json) -> bool:
    return item.get("type") == "message" and item.get("role") == "assistant"


def _is_said_to_the_model(item: Json) -> bool:
    kind = str(item.get("type"))
    return kind.endswith("_output") or (kind == "message" and not _is_spoken(item))


def _lasts(item: Json) -> bool:
    """Can an upstream that stored nothing read this reasoning again?"""
    return bool(item.get("encrypted_content") or item.get("content"))


def _bare(item: Json, without: str = "") -> Json:
    """An output item as input takes it."""
    return {k: v for k, v in item.items() if v is not None and k not in ("status", without)}


def _text_of(item: Json) -> str:
    if item.get("type") != "message":
        return ""
    content = item.get("content")
    parts = content if isinstance(content, list) else []
    return "".join(str(part.get("text") or part.get("refusal") or "") for part in parts)


def _call_key(item: Json) -> bytes:
    said = item.get(_CALLS[item["type"]])
    if item["type"] == "function_call" and isinstance(said, str):
        said = canonical_arguments(said)
    return _digest([item["type"], item.get("call_id"), item.get("name"), said])


def _text_key(question: Any, text: str) -> bytes:
    """The digest of ``["text", question, text]``."""
    return _end_text_key(_begin_text_key(question), text)


def _begin_text_key(question: Any) -> Any:
    """The digest up to the text: many texts may answer one long question."""
    written = orjson.dumps(question, option=orjson.OPT_SORT_KEYS)
    give_way(len(written))
    begun = hashlib.sha256(b'["text",')
    begun.update(written)
    begun.update(b",")
    return begun


def _end_text_key(begun: Any, text: str) -> bytes:
    ended = begun.copy()
    ended.update(orjson.dumps(text.strip()) + b"]")
    digest: bytes = ended.digest()
    return digest


def _digest(value: Any) -> bytes:
    return hashlib.sha256(orjson.dumps(value, option=orjson.OPT_SORT_KEYS)).digest()


def canonical_arguments(arguments: str) -> str:
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
