"""The messages of a chat request, in the roles, the order and with the fields a provider takes."""

from __future__ import annotations

from typing import Any

from forwarder.core.pacing import iter_paced
from forwarder.core.types import Json
from forwarder.protocols.chat_reasoning import DETAILS, FIELDS
from forwarder.protocols.signatures import calls_of, read_call, strip_call
from forwarder.providers.profile import Profile

_KNOWN = frozenset(
    {"role", "content", "name", "tool_calls", "tool_call_id", "function_call", "refusal", "audio"}
)
"""What a message has at OpenAI's."""

_REASONING = frozenset({*FIELDS, *DETAILS})

_HEAD = ("system", "developer")
_OTHERS = ("user", "tool")


def taken(messages: list[Json], profile: Profile) -> list[Json]:
    """The messages as the provider takes them."""
    made = [_message(message, profile) for message in iter_paced(messages)]
    if profile.system_at_head:
        made = _system_at_head(made)
    return _merged(made) if profile.merge_neighbours else made


def lost(messages: list[Json], profile: Profile) -> set[str]:
    """The fields of messages that the provider takes in no message, and that hold something.

    Reasoning that it wants back from some turns alone is not lost: it reads no other.
    """
    unknown: set[str] = set()
    if not profile.extra_message_fields:
        known = _known(profile)
        unknown = {name for m in messages for name in m.keys() - known if m[name]}
        signed = (read_call(call) for m in messages for call in calls_of(m))
        signatures = {name for fields in signed for name in _flat_names(fields)}
        unknown |= {f"tool_calls.{name}" for name in signatures if not _takes(profile, name)}
    if profile.reasoning_replay != "as_is" and not _takes_reasoning(profile):
        return unknown | {name for m in messages for name in _REASONING & m.keys() if m[name]}
    return unknown - _REASONING


def lacks_signature(messages: list[Json], profile: Profile) -> bool:
    """Is a call without the signature that the provider demands?"""
    return profile.signature_placeholder is not None and any(map(_first_unsigned, messages))


def _known(profile: Profile) -> frozenset[str | None]:
    return _KNOWN | {profile.reasoning_field, *profile.signature_fields}


def _flat_names(fields: Json) -> set[str]:
    inner = {f"{body}.{name}" for body in ("function", "custom") for name in fields.get(body, ())}
    return {name for name in fields if name not in ("function", "custom")} | inner


def _takes(profile: Profile, name: str) -> bool:
    return name.rpartition(".")[2] in profile.signature_fields


def _takes_reasoning(profile: Profile) -> bool:
    return profile.reasoning_field is not None and profile.reasoning_replay != "none"


def instructed(messages: list[Json], text: str) -> list[Json]:
    """The messages with one more instruction, behind those that open the conversation."""
    opening = next((i for i, m in enumerate(messages) if m.get("role") not in _HEAD), len(messages))
    return [*messages[:opening], {"role": "system", "content": text}, *messages[opening:]]


def _message(message: Json, profile: Profile) -> Json:
    role = message.get("role")
    if role in _OTHERS and type(message.get("content")) is str and profile.extra_message_fields:
        return message  # most are of this kind
    mended = message
    if role in _HEAD:
        mended = _renamed(message, profile.developer_role)
    elif role == "assistant":
        mended = _with_signature(_with_reasoning(message, profile), profile)
    if not profile.extra_message_fields:
        known = _known(profile)
        mended = {k: v for k, v in mended.items() if k in known}
        if any(map(read_call, calls_of(mended))):
            calls = [strip_call(call, profile.signature_fields) for call in calls_of(mended)]
            mended["tool_calls"] = calls
    content = mended.get("content")
    if content is None and not profile.null_content:
        return {**mended, "content": ""}
    if profile.join_text_parts and type(content) is list and _only_text(content):
        return {**mended, "content": "\n".join(part["text"] for part in content)}
    return mended


def _renamed(message: Json, developer: str) -> Json:
    """System stays system unless only users are heard."""
    if message["role"] == developer or (message["role"] == "system" and developer != "user"):
        return message
    return {**message, "role": developer}


def _only_text(content: list[Any]) -> bool:
    return all(
        isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str)
        for part in content
    )


# -- reasoning ----------------------------------------------------------------------------------


def _with_reasoning(message: Json, profile: Profile) -> Json:
    """Earlier reasoning in the field that the provider reads, or nowhere."""
    replay, calls = profile.reasoning_replay, message.get("tool_calls")
    if replay == "as_is":
        return message
    field = profile.reasoning_field
    if field is None or replay == "none" or (replay == "tool_turns" and not calls):
        return {k: v for k, v in message.items() if k not in _REASONING}
    thought = next((message[name] for name in FIELDS if message.get(name)), None)
    if thought is None and calls:
        thought = profile.reasoning_placeholder
    if thought is None:
        return message
    mended = {k: v for k, v in message.items() if k not in FIELDS}
    return {**mended, field: thought}


def _with_signature(message: Json, profile: Profile) -> Json:
    """The first call of a message brings a signature; a lost one has its stand-in."""
    if profile.signature_placeholder is None or not _first_unsigned(message):
        return message
    first, *others = message["tool_calls"]
    signature = {"google": {"thought_signature": profile.signature_placeholder}}
    return {**message, "tool_calls": [{**first, "extra_content": signature}, *others]}


def _first_unsigned(message: Json) -> bool:
    calls = calls_of(message)
    return bool(calls) and not calls[0].get("extra_content")


# -- order --------------------------------------------------------------------------------------


def _system_at_head(messages: list[Json]) -> list[Json]:
    system = [m for m in messages if m.get("role") in _HEAD]
    if not system or system == messages[:1]:
        return messages
    head = {"role": "system", "content": "\n\n".join(_plain(m.get("content")) for m in system)}
    return [head, *(m for m in messages if m.get("role") not in _HEAD)]


def _plain(content: Any) -> str:
    if not isinstance(content, list):
        return str(content or "")
    return "\n".join(str(part.get("text") or "") for part in content if isinstance(part, dict))


def _merged(messages: list[Json]) -> list[Json]:
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
        {**message, "content": _join_contents(joined)} if len(joined) > 1 else message
        for message, joined in zip(made, contents, strict=True)
    ]


def _join_contents(contents: list[Any]) -> Any:
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
        parts += _parts(content)
    return parts


def _parts(content: Any) -> list[Any]:
    return content if isinstance(content, list) else [{"type": "text", "text": str(content)}]
