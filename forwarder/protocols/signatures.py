"""Signatures: fields in which a provider demands parts of its answer back, unread and unchanged.

Gemini signs calls (``extra_content``), LiteLLM passes on the signatures of Claude and Gemini
(``thinking_blocks``, ``provider_specific_fields``), OpenRouter seals reasoning
(``reasoning_details``), GitHub Copilot too (``reasoning_opaque``).  A provider reads only its own:
they go back to the upstream and model that made them, and to no other.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from forwarder.core.types import Json
from forwarder.protocols.chat_reasoning import REASONING_DETAIL_FIELDS, DetailMerger

CALL_FIELDS = ("extra_content", "provider_specific_fields", "thought_signature")
"""Fields of a call, and of the ``function`` in it."""

MESSAGE_FIELDS = (*REASONING_DETAIL_FIELDS, "reasoning_opaque", *CALL_FIELDS)
"""Fields of an assistant's message, and of its deltas."""

_MESSAGE_FIELD_SET = frozenset(MESSAGE_FIELDS)
_MIXED_FIELDS = frozenset(CALL_FIELDS[:2])
"""In a message these hold more than signatures, such as citations; only signatures go back."""

_CALL_BODIES = ("function", "custom")
_SIGNATURE_NAME_PARTS = ("signature", "encrypted", "opaque", *REASONING_DETAIL_FIELDS)
"""Parts of the names that signatures have."""


class SignatureCollector:
    """Collects the signatures of one answer from its deltas."""

    def __init__(self) -> None:
        self._message: Json = {}
        self._calls: dict[int, Json] = {}

    def add_delta(self, delta: Json) -> None:
        """Read the fields of the message."""
        if _MESSAGE_FIELD_SET.isdisjoint(delta):  # most deltas have none
            return
        for name in MESSAGE_FIELDS:
            value = delta.get(name)
            if value and name in _MIXED_FIELDS:
                value = select_signatures(value)
            if value:
                self._message[name] = merge_value(self._message.get(name), value)

    def add_call(self, number: int, call: Json) -> None:
        """Read the fields of a call, which is number ``number`` of its message."""
        fields = read_call_signatures(call)
        if fields:
            self._calls[number] = merge_value(self._calls.get(number), fields)

    @property
    def has_message(self) -> bool:
        """Has the message had such fields?"""
        return bool(self._message)

    def read_message(self) -> Json:
        """The fields of the message so far; costs as much as there is of them."""
        fields: Json = read_merged(self._message)
        return fields

    def read_calls(self) -> dict[int, Json]:
        """Those of its calls, by their numbers; costs as much."""
        fields: dict[int, Json] = read_merged(self._calls)
        return fields

    def pop_message_fields(self) -> Json:
        """Give the fields of the message so far, and begin anew."""
        fields, self._message = self.read_message(), {}
        return fields


def read_call_signatures(call: Json) -> Json:
    """The signatures of a call, each where it stands in the call."""
    fields = {name: call[name] for name in CALL_FIELDS if call.get(name)}
    for body in _CALL_BODIES:
        inner = call.get(body)
        if isinstance(inner, dict):
            signed = {name: inner[name] for name in CALL_FIELDS if inner.get(name)}
            if signed:
                fields[body] = signed
    return fields


def read_message_signatures(message: Json) -> Json:
    """The signatures that a message has itself."""
    return {name: message[name] for name in MESSAGE_FIELDS if message.get(name)}


def attach_call_signatures(call: Json, fields: Json) -> Json:
    """The call with these signatures; those it has already stay."""
    signed = {**fields, **call}
    for body in _CALL_BODIES:
        if body in fields and isinstance(call.get(body), dict):
            signed[body] = {**fields[body], **call[body]}
    return signed


def strip_call_signatures(call: Json, kept: Collection[str]) -> Json:
    """The call without signatures, except those in fields of these names."""
    stripped = {k: v for k, v in call.items() if k not in CALL_FIELDS or k in kept}
    for body in _CALL_BODIES:
        if isinstance(call.get(body), dict):
            stripped[body] = strip_call_signatures(call[body], kept)
    return stripped


def read_tool_calls(message: Json) -> list[Json]:
    """The calls of a message, if they are of the shape that the API gives them."""
    calls = message.get("tool_calls")
    if not isinstance(calls, list) or not all(isinstance(call, dict) for call in calls):
        return []
    return calls


def merge_value(merged: Any, new: Any) -> Any:
    """Fold a piece of a field into what was merged before (first ``None``), which it may change.

    Objects are merged, lists go on, anything else is replaced.  `read_merged` gives the value.
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
    """A value into which more may be merged."""
    if isinstance(value, dict):
        return {key: _copy_value(inner) for key, inner in value.items()}
    return DetailMerger(value) if isinstance(value, list) else value


def read_merged(merged: Any) -> Any:
    """The JSON value of what `merge_value` gave."""
    if isinstance(merged, DetailMerger):
        return merged.read()
    if isinstance(merged, dict):
        return {key: read_merged(value) for key, value in merged.items()}
    return merged


def has_signature(value: Any) -> bool:
    """Does a field hold a signature or sealed data, rather than only text?"""
    if isinstance(value, list):
        return any(map(has_signature, value))
    if not isinstance(value, dict):
        return False
    if value.get("data") and isinstance(value["data"], str):
        return True
    return any(
        has_signature(inner)
        or bool(isinstance(inner, str | list) and inner and _names_signature(key))
        for key, inner in value.items()
    )


def _names_signature(key: str) -> bool:
    return any(part in key.lower() for part in _SIGNATURE_NAME_PARTS[:3])


def select_signatures(value: Any) -> Any:
    """The part of a field that holds signatures."""
    if not isinstance(value, dict):
        return None
    kept: Json = {}
    for key, inner in value.items():
        if isinstance(inner, dict):
            inner = select_signatures(inner)
        elif not any(part in key.lower() for part in _SIGNATURE_NAME_PARTS):
            continue
        if inner:
            kept[key] = inner
    return kept
