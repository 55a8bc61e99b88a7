"""Chat chunks taken apart and put together, for emulations that change what a stream says."""

from __future__ import annotations

from collections import deque
from typing import Any

from forwarder.core.types import Event, EventStream, Json
from forwarder.translation.chat_over_responses.side_data import SIDE_DATA

TEXT_FIELDS = ("reasoning_content", "content", "refusal")
"""The fields of a delta in which the model writes."""

CALL_DELTA_FIELDS = ("tool_calls", "function_call")
"""The fields of a delta in which the model calls."""


def read_first_choice(chunk: Event) -> Json:
    """The first choice; empty for a chunk without choices."""
    choices: list[Json] = chunk.get("choices") or [{}]
    return choices[0]


def has_side_data(chunk: Event) -> bool:
    """Is this a chunk of notes, which say what stands beside the text?"""
    return SIDE_DATA in (read_first_choice(chunk).get("delta") or {})


def replace_choice(chunk: Event, choice: Json) -> Event:
    """The chunk with this as its only choice."""
    return {**chunk, "choices": [choice]}


def make_final_chunk(chunk: Event, reason: str) -> Event:
    """A chunk of the same answer that finishes it."""
    index = read_first_choice(chunk).get("index") or 0
    choice: Json = {"index": index, "delta": {}, "logprobs": None, "finish_reason": reason}
    return replace_choice(chunk, choice)


def make_usage_chunk(chunk: Event, usage: Json) -> Event:
    """A chunk of the same answer that tells its usage."""
    return {**chunk, "choices": [], "usage": usage}


def close_stream(stream: EventStream) -> None:
    """Close a stream, and with it the upstream's answer at its other end."""
    closing = getattr(stream, "close", None)
    if closing is not None:
        closing()


class LogprobBuffer:
    """Log probabilities that have to go with their text when it is held back or cut.

    They are measured in bytes: a token may be a part of a character.
    """

    def __init__(self) -> None:
        self._entries: deque[Json] = deque()
        self._room = 0

    def feed(self, logprobs: Json | None) -> None:
        """Take those of a choice."""
        self._entries.extend((logprobs or {}).get("content") or ())

    def pop_for_text(self, text: str) -> Json | None:
        """Those of the tokens that lie wholly within the texts given so far and this one."""
        self._room += len(text.encode(errors="replace"))
        given: list[Any] = []
        while self._entries and count_token_bytes(self._entries[0]) <= self._room:
            given.append(self._entries.popleft())
            self._room -= count_token_bytes(given[-1])
        return wrap_entries(given)

    def pop_rest(self) -> Json | None:
        """All others, when nothing more is held back or cut."""
        given = list(self._entries)
        self._entries.clear()
        return wrap_entries(given)


def count_token_bytes(entry: Json) -> int:
    spelled = entry.get("bytes")
    return len(str(entry.get("token")).encode(errors="replace") if spelled is None else spelled)


def wrap_entries(entries: list[Any]) -> Json | None:
    return {"content": entries, "refusal": None} if entries else None
