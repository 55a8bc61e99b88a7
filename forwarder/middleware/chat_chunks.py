"""Reads and builds Chat chunks for middleware that changes the content of a stream."""

from __future__ import annotations

from collections import deque
from typing import Any

from forwarder.core.types import Event, EventStream, Json
from forwarder.protocols.types import ChunkChoice, FinishReason
from forwarder.translation.chat_over_responses.citations_and_files import SIDE_DATA

TEXT_FIELDS = ("reasoning_content", "content", "refusal")
"""The fields of a delta that hold generated text."""

CALL_DELTA_FIELDS = ("tool_calls", "function_call")
"""The fields of a delta that hold tool calls."""


def read_first_choice(chunk: Event) -> Json:
    """Return the first choice, or an empty object for a chunk without choices."""
    choices: list[Json] = chunk.get("choices") or [{}]
    return choices[0]


def has_side_data(chunk: Event) -> bool:
    """Return whether the chunk carries side data, such as annotations, instead of text."""
    return SIDE_DATA in (read_first_choice(chunk).get("delta") or {})


def replace_choice(chunk: Event, choice: Json | ChunkChoice) -> Event:
    """Return a copy of the chunk with ``choice`` as its only choice."""
    return {**chunk, "choices": [choice]}


def make_final_chunk(chunk: Event, reason: FinishReason) -> Event:
    """Build the chunk that finishes the choice of ``chunk`` with this ``finish_reason``."""
    index = read_first_choice(chunk).get("index") or 0
    choice: ChunkChoice = {
        "index": index,
        "delta": {},
        "logprobs": None,
        "finish_reason": reason,
    }
    return replace_choice(chunk, choice)


def make_usage_chunk(chunk: Event, usage: Json) -> Event:
    """Build the usage chunk of the answer to which ``chunk`` belongs."""
    return {**chunk, "choices": [], "usage": usage}


def close_stream(stream: EventStream) -> None:
    """Close a stream and thereby the upstream's response."""
    close = getattr(stream, "close", None)
    if close is not None:
        close()


class LogprobBuffer:
    """Holds log probabilities until their text is sent, for text that is held back or cut.

    Lengths are in bytes, because a token may be a part of a character.
    """

    def __init__(self) -> None:
        self._entries: deque[Json] = deque()
        self._available_bytes = 0

    def feed(self, logprobs: Json | None) -> None:
        """Add the ``logprobs`` of a choice."""
        self._entries.extend((logprobs or {}).get("content") or ())

    def pop_for_text(self, text: str) -> Json | None:
        """Count ``text`` as sent; remove and return the entries of the tokens that end in it."""
        self._available_bytes += len(text.encode(errors="replace"))
        entries: list[Any] = []
        while self._entries and count_token_bytes(self._entries[0]) <= self._available_bytes:
            entries.append(self._entries.popleft())
            self._available_bytes -= count_token_bytes(entries[-1])
        return wrap_entries(entries)

    def pop_rest(self) -> Json | None:
        """Remove and return all remaining entries, once all text has been sent."""
        entries = list(self._entries)
        self._entries.clear()
        return wrap_entries(entries)


def count_token_bytes(entry: Json) -> int:
    data = entry.get("bytes")
    return len(str(entry.get("token")).encode(errors="replace") if data is None else data)


def wrap_entries(entries: list[Any]) -> Json | None:
    return {"content": entries, "refusal": None} if entries else None
