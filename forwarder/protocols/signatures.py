"""Signatures: opaque fields of an answer that a provider requires back, unchanged, in later turns.

Gemini signs calls (``extra_content``), LiteLLM passes on the signatures of Claude and Gemini
(``thinking_blocks``, ``provider_specific_fields``), OpenRouter and GitHub Copilot encrypt reasoning
(``reasoning_details``, ``reasoning_opaque``).  A provider reads only its own signatures, so they go
back only to the upstream and model that made them.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from forwarder.core.types import Json
from forwarder.protocols.chat_reasoning import REASONING_DETAIL_FIELDS, DetailMerger

CALL_FIELDS = ("extra_content", "provider_specific_fields", "thought_signature")
"""Signature fields of a call and of its ``function``."""

MESSAGE_FIELDS = (*REASONING_DETAIL_FIELDS, "reasoning_opaque", *CALL_FIELDS)
"""Signature fields of an assistant's message and of its deltas."""

_MESSAGE_FIELD_SET = frozenset(MESSAGE_FIELDS)
_MIXED_FIELDS = frozenset(CALL_FIELDS[:2])
"""In a message these fields also hold other data, such as citations; only signatures go back."""

_CALL_BODIES = ("function", "custom")
_SIGNATURE_WORDS = ("signature", "encrypted", "opaque")
"""A field is a signature if its name contains one of these words."""

_SIGNATURE_NAME_PARTS = (*_SIGNATURE_WORDS, *REASONING_DETAIL_FIELDS)
"""The same, including fields that hold lists of entries with signatures."""


class SignatureCollector:
    """Collects the signatures of one answer from its deltas."""

    def __init__(self) -> None:
        self._message: Json = {}
        self._calls: dict[int, Json] = {}
        self._changed_calls: set[int] = set()  # since the last `pop_calls`

    def add_delta(self, delta: Json) -> None:
        """Merge the signatures of the message from one of its deltas."""
        if _MESSAGE_FIELD_SET.isdisjoint(delta):  # most deltas
            return
        for name in MESSAGE_FIELDS:
            value = delta.get(name)
            if value and name in _MIXED_FIELDS:
                value = select_signatures(value)
            if value:
                self._message[name] = merge_value(self._message.get(name), value)

    def add_call(self, number: int, call: Json) -> None:
        """Merge the signatures of a call; ``number`` is its position in the message."""
        fields = read_call_signatures(call)
        if fields:
            self._calls[number] = merge_value(self._calls.get(number), fields)
            self._changed_calls.add(number)

    @property
    def has_message(self) -> bool:
        """Whether the message had any signature so far."""
        return bool(self._message)

    def read_message(self) -> Json:
        """Return the merged fields of the message.  Copies them, so do not call it per delta."""
        fields: Json = read_merged(self._message)
        return fields

    def read_calls(self) -> dict[int, Json]:
        """Return the merged fields of the calls by number.  Copies them like `read_message`."""
        fields: dict[int, Json] = read_merged(self._calls)
        return fields

    def pop_calls(self) -> dict[int, Json]:
        """Return the merged fields of the calls that have new ones since this was last called."""
        changed, self._changed_calls = self._changed_calls, set()
        return {number: read_merged(self._calls[number]) for number in sorted(changed)}

    def pop_message_fields(self) -> Json:
        """Return the merged fields of the message and start with none again."""
        fields, self._message = self.read_message(), {}
        return fields


def read_call_signatures(call: Json) -> Json:
    """Return the signatures of a call, nested as in the call."""
    fields = {name: call[name] for name in CALL_FIELDS if call.get(name)}
    for body in _CALL_BODIES:
        inner = call.get(body)
        if isinstance(inner, dict):
            signed = {name: inner[name] for name in CALL_FIELDS if inner.get(name)}
            if signed:
                fields[body] = signed
    return fields


def read_message_signatures(message: Json) -> Json:
    """Return the signature fields of a message, without those of its calls."""
    return {name: message[name] for name in MESSAGE_FIELDS if message.get(name)}


def attach_call_signatures(call: Json, fields: Json) -> Json:
    """Return the call with these signatures added; existing ones stay."""
    signed = {**fields, **call}
    for body in _CALL_BODIES:
        if body in fields and isinstance(call.get(body), dict):
            signed[body] = {**fields[body], **call[body]}
    return signed


def strip_call_signatures(call: Json, allowed_fields: Collection[str]) -> Json:
    """Return the call without signatures, except those in ``allowed_fields``."""
    stripped = {k: v for k, v in call.items() if k not in CALL_FIELDS or k in allowed_fields}
    for body in _CALL_BODIES:
        if isinstance(call.get(body), dict):
            stripped[body] = strip_call_signatures(call[body], allowed_fields)
    return stripped


def read_tool_calls(message: Json) -> list[Json]:
    """Return the calls of a message, or an empty list if they are not a list of objects."""
    calls = message.get("tool_calls")
    if not isinstance(calls, list) or not all(isinstance(call, dict) for call in calls):
        return []
    return calls


def merge_value(merged: Any, new: Any) -> Any:
    """Merge a new piece of a field into the result of earlier merges (``None`` for the first).

    Objects are merged, lists extended, other values replaced.  May change ``merged`` in place;
    `read_merged` converts the result to JSON.
    """
    if isinstance(new, dict):
        if not isinstance(merged, dict):
            return _copy_value(new)
        for key, value in new.items():
            merged[key] = merge_value(merged.get(key), value)
        return merged
    if isinstance(new, list):
        entries = merged if isinstance(merged, DetailMerger) else DetailMerger()
        entries.add(new)
        return entries
    return new


def _copy_value(value: Any) -> Any:
    """Copy a value into the form that `merge_value` may change."""
    if isinstance(value, dict):
        return {key: _copy_value(inner) for key, inner in value.items()}
    return DetailMerger(value) if isinstance(value, list) else value


def read_merged(merged: Any) -> Any:
    """Convert a result of `merge_value` to JSON."""
    if isinstance(merged, DetailMerger):
        return merged.read()
    if isinstance(merged, dict):
        return {key: read_merged(value) for key, value in merged.items()}
    return merged


def has_signature(value: Any) -> bool:
    """Return True if a field holds a signature or encrypted data, not only text."""
    if isinstance(value, list):
        return any(map(has_signature, value))
    if not isinstance(value, dict):
        return False
    if value.get("data") and isinstance(value["data"], str):
        return True
    for key, inner in value.items():
        if has_signature(inner):
            return True
        is_signature = any(part in key.lower() for part in _SIGNATURE_WORDS)
        if is_signature and isinstance(inner, str | list) and inner:
            return True
    return False


def select_signatures(value: Any) -> Any:
    """Return only the signatures in an object, nested as in it; None for other values."""
    if not isinstance(value, dict):
        return None
    signatures: Json = {}
    for key, inner in value.items():
        if isinstance(inner, dict):
            inner = select_signatures(inner)
        elif not any(part in key.lower() for part in _SIGNATURE_NAME_PARTS):
            continue
        if inner:
            signatures[key] = inner
    return signatures
