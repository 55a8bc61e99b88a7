"""Reasoning in the spellings of chat upstreams, and how it survives a turn.

Vendors put a model's reasoning into ``reasoning_content``, ``reasoning``, ``reasoning_details``,
``thinking_blocks``, content parts or ``<think>`` tags, sometimes into two of them at once; one is
used, so that nothing doubles.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

from forwarder.core.types import Json

REASONING_FIELDS = ("reasoning_content", "reasoning")
REASONING_DETAIL_FIELDS = ("reasoning_details", "thinking_blocks")
"""Fields of lists, which hold signatures besides texts."""

_DETAIL_TEXT_FIELDS = ("text", "summary", "thinking")


def read_text(delta: Json) -> str:
    """The reasoning text of a chat delta or message, whatever its spelling (not inline tags)."""
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
    """The field in which a chat client's own history carries reasoning, if it does."""
    for message in messages if isinstance(messages, list) else ():
        if not isinstance(message, dict) or message.get("role") != "assistant":
            continue
        for name in REASONING_FIELDS:
            if isinstance(message.get(name), str) and message[name]:
                return name
        if message.get("reasoning_details"):
            return "reasoning"
    return None


def read_detail_text(detail: Any) -> str:
    """The readable text of one entry of ``reasoning_details`` or of a thinking part."""
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
    """``(reasoning, text)`` of a content list, as Mistral and others send it."""
    thinking = [part for part in content if is_reasoning_part(part)]
    rest = [part for part in content if not is_reasoning_part(part)]
    return "".join(map(read_detail_text, thinking)), "".join(map(read_detail_text, rest))


def is_reasoning_part(part: Any) -> bool:
    """Is this content part one of reasoning?"""
    return isinstance(part, dict) and part.get("type") in ("thinking", "reasoning")


class DetailMerger:
    """Folds streamed lists, such as ``reasoning_details``, into what goes back as it came.

    A signature ends its block: a text that follows begins the next one.  Texts stay in pieces
    until they are wanted, since joining each piece would copy all before it.
    """

    def __init__(self, entries: Iterable[Any] = ()) -> None:
        self._entries = [dict(each) if isinstance(each, dict) else each for each in entries]
        self._pieces: dict[str, list[str]] = {}  # the texts that grow, of the last entry
        # As JSON, the entries that are no objects: a list of them may be said again as a whole.
        self._seen = {_name_entry(each) for each in self._entries if not isinstance(each, dict)}

    def add(self, more: list[Any]) -> None:
        """Take what one chunk says.  Raises TypeError for a text that goes on as something else."""
        if all(isinstance(entry, dict) for entry in more):
            for entry in more:
                self._add_detail(entry)
            return
        named = [(_name_entry(entry), entry) for entry in more]
        fresh = [(name, entry) for name, entry in named if name not in self._seen]
        self._join_last()
        self._entries += [entry for _, entry in fresh]
        self._seen.update(name for name, _ in fresh)

    def read(self) -> list[Any]:
        """All that was taken so far."""
        self._join_last()
        entries = list(self._entries)
        if entries and isinstance(entries[-1], dict):
            entries[-1] = dict(entries[-1])  # it may still grow, which what was read does not
        return entries

    def _add_detail(self, entry: Json) -> None:
        last = self._entries[-1] if self._entries else {}
        if not _goes_on(last, entry):
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


def _name_entry(entry: Any) -> str:
    return json.dumps(entry, sort_keys=True)


def _goes_on(last: Any, entry: Json) -> bool:
    """Is an entry a further piece of the last one?"""
    if not isinstance(last, dict) or not last or entry.get("data") or last.get("data"):
        return False
    if last.get("signature") and any(entry.get(name) for name in _DETAIL_TEXT_FIELDS):
        return False
    return all(last.get(k) == entry.get(k) for k in ("type", "index", "id"))


class ThinkTagSplitter:
    """Takes ``<think>…</think>`` out of the head of streamed content, across chunk borders.

    Only a block at the very start counts: later tags are the model's own words.
    """

    OPEN_TAG, CLOSE_TAG = "<think>", "</think>"

    def __init__(self) -> None:
        self._blanks: list[str] = []  # white space before the head, which may be all there is
        self._held = ""
        # A function, not a bound method: a cycle would be the collector's to find.
        self._state = ThinkTagSplitter._read_head

    def feed(self, text: str) -> Iterator[tuple[str, str]]:
        """Give ``("reasoning" | "text", piece)`` for what is decided so far."""
        self._held += text
        return self._state(self)

    def flush(self) -> Iterator[tuple[str, str]]:
        """Give what is still held back when the content ends."""
        held, self._held = "".join([*self._blanks, self._held]), ""
        if held:
            yield ("reasoning" if self._state is ThinkTagSplitter._read_block else "text"), held

    @property
    def is_reasoning(self) -> bool:
        """True from the opening tag on, until text follows the closing one."""
        return self._state in (ThinkTagSplitter._read_block, ThinkTagSplitter._read_gap)

    @property
    def is_done(self) -> bool:
        """True once the rest is plain text, and feeding it here is no longer needed."""
        return self._state is ThinkTagSplitter._read_answer

    def _read_head(self) -> Iterator[tuple[str, str]]:
        start = self._held.lstrip()
        if blank := self._held[: len(self._held) - len(start)]:
            self._blanks.append(blank)
        self._held = start
        if start.startswith(self.OPEN_TAG):
            self._blanks.clear()
            self._held = start[len(self.OPEN_TAG) :]
            self._state = ThinkTagSplitter._read_block
            yield from self._read_block()
        elif not self.OPEN_TAG.startswith(start):
            self._held = "".join([*self._blanks, start])
            self._blanks.clear()
            self._state = ThinkTagSplitter._read_answer
            yield from self._read_answer()

    def _read_block(self) -> Iterator[tuple[str, str]]:
        thought, tag, rest = self._held.partition(self.CLOSE_TAG)
        if tag:
            self._held = rest
            if thought:
                yield "reasoning", thought
            self._state = ThinkTagSplitter._read_gap
            yield from self._read_gap()
            return
        keep = count_overlap(self._held, self.CLOSE_TAG)
        cut = len(self._held) - keep
        thought, self._held = self._held[:cut], self._held[cut:]
        if thought:
            yield "reasoning", thought

    def _read_gap(self) -> Iterator[tuple[str, str]]:
        """Between the block and the answer stand line breaks that belong to neither."""
        self._held = self._held.lstrip("\n")
        if self._held:
            self._state = ThinkTagSplitter._read_answer
            yield from self._read_answer()

    def _read_answer(self) -> Iterator[tuple[str, str]]:
        text, self._held = self._held, ""
        if text:
            yield "text", text


def count_overlap(text: str, tag: str) -> int:
    """How many characters at the end of ``text`` could be the beginning of ``tag``."""
    for size in range(min(len(text), len(tag) - 1), 0, -1):
        if tag.startswith(text[-size:]):
            return size
    return 0


_TOKEN_PREFIX = re.compile(r"fwd\d+\.")


def is_own_token(blob: Any) -> bool:
    """Is this ``encrypted_content`` one that a forwarder made?  Other upstreams refuse it."""
    return isinstance(blob, str) and _TOKEN_PREFIX.match(blob) is not None
