"""Adapts the messages of a chat request: roles, order, fields and earlier reasoning."""

from __future__ import annotations

from typing import Any

from forwarder.core.paced_iteration import iter_paced
from forwarder.core.types import Json
from forwarder.protocols.chat_reasoning import REASONING_DETAIL_FIELDS, REASONING_FIELDS
from forwarder.protocols.signatures import (
    read_call_signatures,
    read_tool_calls,
    strip_call_signatures,
)
from forwarder.providers.profile import Profile

_MESSAGE_FIELDS = frozenset(
    {"role", "content", "name", "tool_calls", "tool_call_id", "function_call", "refusal", "audio"}
)
"""OpenAI's fields of a message."""

_REASONING_FIELD_NAMES = frozenset({*REASONING_FIELDS, *REASONING_DETAIL_FIELDS})

_SYSTEM_ROLES = ("system", "developer")
_PLAIN_ROLES = ("user", "tool")
_PLAIN_FIELDS = frozenset({"role", "content", "tool_call_id"})


def adapt_messages(messages: list[Json], profile: Profile) -> list[Json]:
    """Return the messages as the provider takes them."""
    adapted = [adapt_message(message, profile) for message in iter_paced(messages)]
    if profile.system_at_head:
        adapted = join_system_messages(adapted)
    return merge_neighbours(adapted) if profile.merge_neighbours else adapted


def find_lost_fields(messages: list[Json], profile: Profile) -> set[str]:
    """Return the names of non-empty message fields that the provider does not take.

    Reasoning is not lost if the provider wants it back only from some turns.
    """
    unknown: set[str] = set()
    if not profile.extra_message_fields:
        known = list_known_fields(profile)
        unknown = {name for m in messages for name in m.keys() - known if m[name]}
        signed = (read_call_signatures(call) for m in messages for call in read_tool_calls(m))
        for name in {name for fields in signed for name in flatten_names(fields)}:
            if name.rpartition(".")[2] not in profile.signature_fields:
                unknown.add(f"tool_calls.{name}")
    takes_reasoning = profile.reasoning_field is not None and profile.reasoning_replay != "none"
    if profile.reasoning_replay != "as_is" and not takes_reasoning:
        return unknown | {
            name for m in messages for name in _REASONING_FIELD_NAMES & m.keys() if m[name]
        }
    return unknown - _REASONING_FIELD_NAMES


def has_missing_signature(messages: list[Json], profile: Profile) -> bool:
    """Return True if a call lacks the signature that the provider requires."""
    return profile.signature_placeholder is not None and any(map(has_unsigned_first_call, messages))


def list_known_fields(profile: Profile) -> frozenset[str | None]:
    return _MESSAGE_FIELDS | {profile.reasoning_field, *profile.signature_fields}


def flatten_names(fields: Json) -> set[str]:
    inner = {f"{body}.{name}" for body in ("function", "custom") for name in fields.get(body, ())}
    return {name for name in fields if name not in ("function", "custom")} | inner


def add_instruction(messages: list[Json], text: str) -> list[Json]:
    """Insert a system message after the system messages at the start of the conversation."""
    opening = next(
        (i for i, m in enumerate(messages) if m.get("role") not in _SYSTEM_ROLES), len(messages)
    )
    return [*messages[:opening], {"role": "system", "content": text}, *messages[opening:]]


def adapt_message(message: Json, profile: Profile) -> Json:
    role = message.get("role")
    if type(message.get("content")) is str and role not in _SYSTEM_ROLES:
        is_plain = message.keys() <= _PLAIN_FIELDS
        if is_plain or (profile.extra_message_fields and role in _PLAIN_ROLES):
            return message  # most messages
    adapted = message
    if role in _SYSTEM_ROLES:
        adapted = rename_role(message, profile.developer_role)
    elif role == "assistant":
        adapted = add_signature_placeholder(place_reasoning(message, profile), profile)
    if not profile.extra_message_fields:
        known = list_known_fields(profile)
        adapted = {k: v for k, v in adapted.items() if k in known}
        if any(map(read_call_signatures, read_tool_calls(adapted))):
            calls = [
                strip_call_signatures(call, profile.signature_fields)
                for call in read_tool_calls(adapted)
            ]
            adapted["tool_calls"] = calls
    content = adapted.get("content")
    if content is None and not profile.null_content:
        return {**adapted, "content": ""}
    if profile.join_text_parts and type(content) is list and is_text_only(content):
        return {**adapted, "content": "\n".join(part["text"] for part in content)}
    return adapted


def rename_role(message: Json, developer: str) -> Json:
    """Rename the developer role; rename system only if the provider does not take it either."""
    if message["role"] == developer or (message["role"] == "system" and developer != "user"):
        return message
    return {**message, "role": developer}


def is_text_only(content: list[Any]) -> bool:
    return all(
        isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str)
        for part in content
    )


# -- reasoning ----------------------------------------------------------------------------------


def place_reasoning(message: Json, profile: Profile) -> Json:
    """Move earlier reasoning to the field that the provider reads, or remove it."""
    replay, calls = profile.reasoning_replay, message.get("tool_calls")
    if replay == "as_is":
        return message
    field = profile.reasoning_field
    if field is None or replay == "none" or (replay == "tool_turns" and not calls):
        return {k: v for k, v in message.items() if k not in _REASONING_FIELD_NAMES}
    text = next((message[name] for name in REASONING_FIELDS if message.get(name)), None)
    if text is None and calls:
        text = profile.reasoning_placeholder
    if text is None:
        return message
    others = {k: v for k, v in message.items() if k not in REASONING_FIELDS}
    return {**others, field: text}


def add_signature_placeholder(message: Json, profile: Profile) -> Json:
    """Add the placeholder if the first call of a message lacks its signature."""
    if profile.signature_placeholder is None or not has_unsigned_first_call(message):
        return message
    first, *others = message["tool_calls"]
    signature = {"google": {"thought_signature": profile.signature_placeholder}}
    return {**message, "tool_calls": [{**first, "extra_content": signature}, *others]}


def has_unsigned_first_call(message: Json) -> bool:
    calls = read_tool_calls(message)
    return bool(calls) and not calls[0].get("extra_content")


# -- order --------------------------------------------------------------------------------------


def join_system_messages(messages: list[Json]) -> list[Json]:
    system = [m for m in messages if m.get("role") in _SYSTEM_ROLES]
    if not system or system == messages[:1]:
        return messages
    head = {
        "role": "system",
        "content": "\n\n".join(to_plain_text(m.get("content")) for m in system),
    }
    return [head, *(m for m in messages if m.get("role") not in _SYSTEM_ROLES)]


def to_plain_text(content: Any) -> str:
    if not isinstance(content, list):
        return str(content or "")
    return "\n".join(str(part.get("text") or "") for part in content if isinstance(part, dict))


def merge_neighbours(messages: list[Json]) -> list[Json]:
    """Merge neighbouring messages of one role, except tool messages and messages with calls."""
    merged: list[Json] = []
    contents: list[list[Any]] = []  # for each merged message, the contents of its sources
    for message in messages:
        last = merged[-1] if merged else {}
        role = message.get("role")
        is_same_role = role == last.get("role") and role != "tool"
        if merged and is_same_role and not last.get("tool_calls"):
            merged[-1] = {**last, **message}
            contents[-1].append(message.get("content"))
        else:
            merged.append(message)
            contents.append([message.get("content")])
    return [
        {**message, "content": join_contents(joined)} if len(joined) > 1 else message
        for message, joined in zip(merged, contents, strict=True)
    ]


def join_contents(contents: list[Any]) -> Any:
    """Join texts as paragraphs; if one content is a list of parts, return a list of parts."""
    filled = [content for content in contents if content]
    if len(filled) < 2:
        return filled[0] if filled else contents[-1]
    if all(isinstance(content, str) for content in filled):
        return "\n\n".join(filled)
    texts: list[str] = []
    parts: list[Any] = []
    for content in filled:
        if isinstance(content, str) and not parts:
            texts.append(content)  # texts before the first part become one part
            continue
        if texts:
            parts.append({"type": "text", "text": "\n\n".join(texts)})
            texts = []
        is_list = isinstance(content, list)
        parts += content if is_list else [{"type": "text", "text": str(content)}]
    return parts
