"""Reads reasoning from the fields in which chat upstreams send it.

Vendors put a model's reasoning into ``reasoning_content``, ``reasoning``, ``reasoning_details``,
``thinking_blocks``, content parts or ``<think>`` tags.  Some send the same text in two of them, so
the functions here read only one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

from forwarder.core.types import Json

REASONING_FIELDS = ("reasoning_content", "reasoning")
REASONING_DETAIL_FIELDS = ("reasoning_details", "thinking_blocks")
"""Fields that hold lists of entries with texts and signatures."""

_HISTORY_FIELDS = frozenset({*REASONING_FIELDS, "reasoning_details"})
"""The fields in which the history of a chat client carries reasoning."""

_DETAIL_TEXT_FIELDS = ("text", "summary", "thinking")


def read_text(delta: Json) -> str:
    """Return the reasoning text of a chat delta or message, without inline tags."""
    for name in REASONING_FIELDS:
        value = delta.get(name)
        if isinstance(value, str) and value:
            return value
    for name in REASONING_DETAIL_FIELDS:
        details = delta.get(name)
        if isinstance(details, list) and details:
            return "".join(map(read_detail_text, details))
    return ""


def find_reasoning_field(messages: Any) -> str | None:
    """Return the field in which a chat client's history carries reasoning, or None."""
    for message in messages if isinstance(messages, list) else ():
        if not isinstance(message, dict) or _HISTORY_FIELDS.isdisjoint(message):
            continue  # most messages of a long history
        if message.get("role") != "assistant":
            continue
        for name in REASONING_FIELDS:
            if isinstance(message.get(name), str) and message[name]:
                return name
        if message.get("reasoning_details"):
            return "reasoning"
    return None


def read_detail_text(detail: Any) -> str:
    """Return the readable text of one ``reasoning_details`` entry or of a thinking part."""
    if isinstance(detail, str):
        return detail
    if not isinstance(detail, dict):
        return ""
    for name in _DETAIL_TEXT_FIELDS:
        value = detail.get(name)
        if isinstance(value, str):
            return value
        if isinstance(value, list):
            return "".join(map(read_detail_text, value))
    return ""


def split_content(content: list[Any]) -> tuple[str, str]:
    """Split a content list, as Mistral and others send it, into ``(reasoning, text)``."""
    thinking = [part for part in content if is_reasoning_part(part)]
    rest = [part for part in content if not is_reasoning_part(part)]
    return "".join(map(read_detail_text, thinking)), "".join(map(read_detail_text, rest))


def is_reasoning_part(part: Any) -> bool:
    """Return True if a content part holds reasoning."""
    return isinstance(part, dict) and part.get("type") in ("thinking", "reasoning")


class DetailMerger:
    """Merges streamed lists such as ``reasoning_details`` into the complete list.

    A signature ends its block: text after it begins the next block.  Texts stay in pieces until
    they are read, because joining after each piece would copy all earlier pieces again.
    """

    def __init__(self, entries: Iterable[Any] = ()) -> None:
        self._entries = [dict(each) if isinstance(each, dict) else each for each in entries]
        self._pieces: dict[str, list[str]] = {}  # growing texts of the last entry
        # JSON of the entries that are not objects: an upstream may send a whole list of them again.
        self._seen = {_dump_entry(each) for each in self._entries if not isinstance(each, dict)}

    def add(self, more: list[Any]) -> None:
        """Merge the list of one chunk.  Raises TypeError if a text continues as another type."""
        if all(isinstance(entry, dict) for entry in more):
            for entry in more:
                self._add_detail(entry)
            return
        dumped = [(_dump_entry(entry), entry) for entry in more]
        new = [(text, entry) for text, entry in dumped if text not in self._seen]
        self._join_last()
        self._entries += [entry for _, entry in new]
        self._seen.update(text for text, _ in new)

    def read(self) -> list[Any]:
        """Return a copy of the merged list so far."""
        self._join_last()
        entries = list(self._entries)
        if entries and isinstance(entries[-1], dict):
            entries[-1] = dict(entries[-1])  # later chunks may still change the original
        return entries

    def _add_detail(self, entry: Json) -> None:
        last = self._entries[-1] if self._entries else {}
        if not _continues(last, entry):
            self._join_last()
            self._entries.append(dict(entry))
            return
        for key, value in entry.items():
            if key in _DETAIL_TEXT_FIELDS and isinstance(value, str):
                if key in self._pieces:
                    self._pieces[key].append(value)
                else:
                    self._pieces[key] = [(last.get(key) or "") + value]
            elif value is not None:
                self._pieces.pop(key, None)
                last[key] = value

    def _join_last(self) -> None:
        for key, pieces in self._pieces.items():
            self._entries[-1][key] = "".join(pieces)
        self._pieces.clear()


def _dump_entry(entry: Any) -> str:
    return json.dumps(entry, sort_keys=True)


def _continues(last: Any, entry: Json) -> bool:
    if not isinstance(last, dict) or not last or entry.get("data") or last.get("data"):
        return False
    if last.get("signature") and any(entry.get(name) for name in _DETAIL_TEXT_FIELDS):
        return False
    return all(last.get(k) == entry.get(k) for k in ("type", "index", "id"))


class ThinkTagSplitter:
    """Removes ``<think>…</think>`` from the start of streamed content, across chunk borders.

    Only a block at the very start is reasoning: later tags are part of the answer.
    """

    OPEN_TAG, CLOSE_TAG = "<think>", "</think>"

    def __init__(self) -> None:
        self._blanks: list[str] = []  # white space before the first other character
        self._buffer = ""
        # A function, not a bound method: that reference cycle would burden the garbage collector.
        self._state = ThinkTagSplitter._read_head

    def feed(self, text: str) -> Iterator[tuple[str, str]]:
        """Yield ``("reasoning" | "text", piece)`` for all content that can be assigned already."""
        self._buffer += text
        return self._state(self)

    def flush(self) -> Iterator[tuple[str, str]]:
        """Yield the buffered rest at the end of the content."""
        rest, self._buffer = "".join([*self._blanks, self._buffer]), ""
        if rest:
            yield ("reasoning" if self._state is ThinkTagSplitter._read_block else "text"), rest

    @property
    def is_reasoning(self) -> bool:
        """True from the opening tag until the first text after the closing tag."""
        return self._state in (ThinkTagSplitter._read_block, ThinkTagSplitter._read_gap)

    @property
    def is_done(self) -> bool:
        """True once all further content is plain text and need not be fed."""
        return self._state is ThinkTagSplitter._read_answer

    def _read_head(self) -> Iterator[tuple[str, str]]:
        start = self._buffer.lstrip()
        if blank := self._buffer[: len(self._buffer) - len(start)]:
            self._blanks.append(blank)
        self._buffer = start
        if start.startswith(self.OPEN_TAG):
            self._blanks.clear()
            self._buffer = start[len(self.OPEN_TAG) :]
            self._state = ThinkTagSplitter._read_block
            yield from self._read_block()
        elif not self.OPEN_TAG.startswith(start):
            self._buffer = "".join([*self._blanks, start])
            self._blanks.clear()
            self._state = ThinkTagSplitter._read_answer
            yield from self._read_answer()

    def _read_block(self) -> Iterator[tuple[str, str]]:
        thought, tag, rest = self._buffer.partition(self.CLOSE_TAG)
        if tag:
            self._buffer = rest
            if thought:
                yield "reasoning", thought
            self._state = ThinkTagSplitter._read_gap
            yield from self._read_gap()
            return
        keep = count_overlap(self._buffer, self.CLOSE_TAG)
        cut = len(self._buffer) - keep
        thought, self._buffer = self._buffer[:cut], self._buffer[cut:]
        if thought:
            yield "reasoning", thought

    def _read_gap(self) -> Iterator[tuple[str, str]]:
        """Skip the line breaks between the block and the answer: they belong to neither."""
        self._buffer = self._buffer.lstrip("\n")
        if self._buffer:
            self._state = ThinkTagSplitter._read_answer
            yield from self._read_answer()

    def _read_answer(self) -> Iterator[tuple[str, str]]:
        text, self._buffer = self._buffer, ""
        if text:
            yield "text", text


def count_overlap(text: str, tag: str) -> int:
    """Return how many characters at the end of ``text`` could be the beginning of ``tag``."""
    for size in range(min(len(text), len(tag) - 1), 0, -1):
        if tag.startswith(text[-size:]):
            return size
    return 0


_SEAL_PREFIX = re.compile(r"fwd\d+\.")


def is_seal(blob: Any) -> bool:
    """Return True if a forwarder made this ``encrypted_content``.  Upstreams refuse such a seal."""
    return isinstance(blob, str) and _SEAL_PREFIX.match(blob) is not None
