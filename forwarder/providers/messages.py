"""The messages of a chat request, in the roles, the order and with the fields a provider takes."""

from __future__ import annotations

from typing import Any

from forwarder.core.pacing import iter_paced
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
"""What a message has at OpenAI's."""

_REASONING_FIELD_NAMES = frozenset({*REASONING_FIELDS, *REASONING_DETAIL_FIELDS})

_SYSTEM_ROLES = ("system", "developer")
_PLAIN_ROLES = ("user", "tool")


def adapt_messages(messages: list[Json], profile: Profile) -> list[Json]:
    """The messages as the provider takes them."""
    made = [adapt_message(message, profile) for message in iter_paced(messages)]
    if profile.system_at_head:
        made = join_system_messages(made)
    return merge_neighbours(made) if profile.merge_neighbours else made


def find_lost_fields(messages: list[Json], profile: Profile) -> set[str]:
    """The fields of messages that the provider takes in no message, and that hold something.

    Reasoning that it wants back from some turns alone is not lost: it reads no other.
    """
    unknown: set[str] = set()
    if not profile.extra_message_fields:
        known = list_known_fields(profile)
        unknown = {name for m in messages for name in m.keys() - known if m[name]}
        signed = (read_call_signatures(call) for m in messages for call in read_tool_calls(m))
        signatures = {name for fields in signed for name in flatten_names(fields)}
        unknown |= {f"tool_calls.{name}" for name in signatures if not _takes(profile, name)}
    if profile.reasoning_replay != "as_is" and not _takes_reasoning(profile):
        return unknown | {
            name for m in messages for name in _REASONING_FIELD_NAMES & m.keys() if m[name]
        }
    return unknown - _REASONING_FIELD_NAMES


def has_missing_signature(messages: list[Json], profile: Profile) -> bool:
    """Is a call without the signature that the provider demands?"""
    return profile.signature_placeholder is not None and any(map(has_unsigned_first_call, messages))


def list_known_fields(profile: Profile) -> frozenset[str | None]:
    return _MESSAGE_FIELDS | {profile.reasoning_field, *profile.signature_fields}


def flatten_names(fields: Json) -> set[str]:
    inner = {f"{body}.{name}" for body in ("function", "custom") for name in fields.get(body, ())}
    return {name for name in fields if name not in ("function", "custom")} | inner


def _takes(profile: Profile, name: str) -> bool:
    return name.rpartition(".")[2] in profile.signature_fields


def _takes_reasoning(profile: Profile) -> bool:
    return profile.reasoning_field is not None and profile.reasoning_replay != "none"


def add_instruction(messages: list[Json], text: str) -> list[Json]:
    """The messages with one more instruction, behind those that open the conversation."""
    opening = next(
        (i for i, m in enumerate(messages) if m.get("role") not in _SYSTEM_ROLES), len(messages)
    )
    return [*messages[:opening], {"role": "system", "content": text}, *messages[opening:]]


def adapt_message(message: Json, profile: Profile) -> Json:
    role = message.get("role")
    if (
        role in _PLAIN_ROLES
        and type(message.get("content")) is str
        and profile.extra_message_fields
    ):
        return message  # most are of this kind
    mended = message
    if role in _SYSTEM_ROLES:
        mended = rename_role(message, profile.developer_role)
    elif role == "assistant":
        mended = add_signature_placeholder(place_reasoning(message, profile), profile)
    if not profile.extra_message_fields:
        known = list_known_fields(profile)
        mended = {k: v for k, v in mended.items() if k in known}
        if any(map(read_call_signatures, read_tool_calls(mended))):
            calls = [
                strip_call_signatures(call, profile.signature_fields)
                for call in read_tool_calls(mended)
            ]
            mended["tool_calls"] = calls
    content = mended.get("content")
    if content is None and not profile.null_content:
        return {**mended, "content": ""}
    if profile.join_text_parts and type(content) is list and is_text_only(content):
        return {**mended, "content": "\n".join(part["text"] for part in content)}
    return mended


def rename_role(message: Json, developer: str) -> Json:
    """System stays system unless only users are heard."""
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
    """Earlier reasoning in the field that the provider reads, or nowhere."""
    replay, calls = profile.reasoning_replay, message.get("tool_calls")
    if replay == "as_is":
        return message
    field = profile.reasoning_field
    if field is None or replay == "none" or (replay == "tool_turns" and not calls):
        return {k: v for k, v in message.items() if k not in _REASONING_FIELD_NAMES}
    thought = next((message[name] for name in REASONING_FIELDS if message.get(name)), None)
    if thought is None and calls:
        thought = profile.reasoning_placeholder
    if thought is None:
        return message
    mended = {k: v for k, v in message.items() if k not in REASONING_FIELDS}
    return {**mended, field: thought}


def add_signature_placeholder(message: Json, profile: Profile) -> Json:
    """The first call of a message brings a signature; a lost one has its stand-in."""
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
    """Neighbours of one role become one message; calls stay before their results."""
    made: list[Json] = []
    contents: list[list[Any]] = []  # of each message made, those of the messages it is made of
    for message in messages:
        last = made[-1] if made else {}
        alike = message.get("role") == last.get("role") != "tool"
        if made and alike and not last.get("tool_calls"):
            made[-1] = {**last, **message}
            contents[-1].append(message.get("content"))
        else:
            made.append(message)
            contents.append([message.get("content")])
    return [
        {**message, "content": join_contents(joined)} if len(joined) > 1 else message
        for message, joined in zip(made, contents, strict=True)
    ]


def join_contents(contents: list[Any]) -> Any:
    """Texts as paragraphs; with lists of parts among them, a list of all parts."""
    filled = [content for content in contents if content]
    if len(filled) < 2:
        return filled[0] if filled else contents[-1]
    if all(isinstance(content, str) for content in filled):
        return "\n\n".join(filled)
    texts: list[str] = []
    parts: list[Any] = []
    for content in filled:
        if isinstance(content, str) and not parts:
            texts.append(content)  # as paragraphs of one part
            continue
        if texts:
            parts.append({"type": "text", "text": "\n\n".join(texts)})
            texts = []
        parts += to_parts(content)
    return parts


def to_parts(content: Any) -> list[Any]:
    return content if isinstance(content, list) else [{"type": "text", "text": str(content)}]
