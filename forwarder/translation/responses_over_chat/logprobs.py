"""Log probabilities of chat choices -> log probabilities of Responses text parts.

Vendors omit various fields, but the Responses types require all of them.
"""

from __future__ import annotations

import itertools
from typing import Any

from forwarder.core.types import Json

_UNKNOWN_LOGPROB = -9999.0
"""Stands for an unknown log probability."""


def read_entries(logprobs: Any) -> list[Json]:
    """Return the entries of a choice's ``logprobs`` for its text, as Responses entries."""
    content = logprobs.get("content") if isinstance(logprobs, dict) else None
    return [convert_entry(entry) for entry in select_objects(content)]


def select_text_entries(
    entries: list[Json], reasoning: str, text: str, is_last: bool
) -> list[Json]:
    """Select the entries of ``text`` from those of a delta with reasoning, text and calls.

    If the text ``is_last`` in the delta, all later entries belong to it too, such as the end token.
    If the text cannot be located, all entries are returned.
    """
    content = b"".join(bytes(entry["bytes"]) for entry in entries)
    reasoning_bytes, text_bytes = (part.encode(errors="replace") for part in (reasoning, text))
    after_reasoning = 0
    if reasoning_bytes in content:
        after_reasoning = content.find(reasoning_bytes) + len(reasoning_bytes)
    start = content.find(text_bytes, after_reasoning)
    if start < 0:
        return entries
    end = len(content) if is_last else start + len(text_bytes)
    ends = itertools.accumulate(len(entry["bytes"]) for entry in entries)
    return [e for e, at in zip(entries, ends, strict=True) if start < at <= end]


def select_last_entries(entries: list[Json], text: str) -> list[Json]:
    """Select the last entries whose tokens lie completely in ``text``, the end of the content."""
    byte_count = len(text.encode(errors="replace"))
    first = len(entries)
    while first and (byte_count := byte_count - len(entries[first - 1]["bytes"])) >= 0:
        first -= 1
    return entries[first:]


def convert_entry(entry: Json) -> Json:
    return {
        **convert_token(entry),
        "top_logprobs": [*map(convert_token, select_objects(entry.get("top_logprobs")))],
    }


def convert_token(entry: Json) -> Json:
    token, sent_bytes, logprob = entry.get("token") or "", entry.get("bytes"), entry.get("logprob")
    return {
        "token": token,
        "bytes": sent_bytes if isinstance(sent_bytes, list) else [*token.encode(errors="replace")],
        "logprob": _UNKNOWN_LOGPROB if logprob is None else logprob,
    }


def select_objects(entries: Any) -> list[Json]:
    return [e for e in entries if isinstance(e, dict)] if isinstance(entries, list) else []
