"""Chat chunks taken apart and put together, for emulations that change what a stream says."""

from __future__ import annotations

from collections import deque
from typing import Any

from forwarder.core.types import Event, Json, Stream
from forwarder.translation.chat_over_responses.side_data import NOTES

TEXTS = ("reasoning_content", "content", "refusal")
"""The fields of a delta in which the model writes."""

CALLS = ("tool_calls", "function_call")
"""The fields of a delta in which the model calls."""


def choice_of(chunk: Event) -> Json:
    """The first choice; empty for a chunk without choices."""
    choices: list[Json] = chunk.get("choices") or [{}]
    return choices[0]


def has_notes(chunk: Event) -> bool:
    """Is this a chunk of notes, which say what stands beside the text?"""
    return NOTES in (choice_of(chunk).get("delta") or {})


def with_choice(chunk: Event, choice: Json) -> Event:
    """The chunk with this as its only choice."""
    return {**chunk, "choices": [choice]}


def ending(chunk: Event, reason: str) -> Event:
    """A chunk of the same answer that finishes it."""
    index = choice_of(chunk).get("index") or 0
    choice: Json = {"index": index, "delta": {}, "logprobs": None, "finish_reason": reason}
    return with_choice(chunk, choice)


def with_usage(chunk: Event, usage: Json) -> Event:
    """A chunk of the same answer that tells its usage."""
    return {**chunk, "choices": [], "usage": usage}


def close(stream: Stream) -> None:
    """Close a stream, and with it the upstream's answer at its other end."""
    closing = getattr(stream, "close", None)
    if closing is not None:
        closing()


class Logprobs:
    """Log probabilities that have to go with their text when it is held back or cut.

    They are measured in bytes: a token may be a part of a character.
    """

    def __init__(self) -> None:
        self._entries: deque[Json] = deque()
        self._room = 0

    def feed(self, logprobs: Json | None) -> None:
        """Take those of a choice."""
        self._entries.extend((logprobs or {}).get("content") or ())

    def give(self, text: str) -> Json | None:
        """Those of the tokens that lie wholly within the texts given so far and this one."""
        self._room += len(text.encode(errors="replace"))
        given: list[Any] = []
        while self._entries and _size(self._entries[0]) <= self._room:
            given.append(self._entries.popleft())
            self._room -= _size(given[-1])
        return _content(given)

    def rest(self) -> Json | None:
        """All others, when nothing more is held back or cut."""
        given = list(self._entries)
        self._entries.clear()
        return _content(given)


def _size(entry: Json) -> int:
    spelled = entry.get("bytes")
    return len(str(entry.get("token")).encode(errors="replace") if spelled is None else spelled)


def _content(entries: list[Any]) -> Json | None:
    return {"content": entries, "refusal": None} if entries else None
