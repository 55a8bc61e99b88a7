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

FIELDS = ("reasoning_content", "reasoning")
DETAILS = ("reasoning_details", "thinking_blocks")
"""Fields of lists, which hold signatures besides texts."""

_TEXTS = ("text", "summary", "thinking")


def read(delta: Json) -> str:
    """The reasoning text of a chat delta or message, whatever its spelling (not inline tags)."""
    for name in FIELDS:
        value = delta.get(name)
        if isinstance(value, str) and value:
            return value
    for name in DETAILS:
        details = delta.get(name)
        if isinstance(details, list) and details:
            return "".join(map(_text_of, details))
    return ""


def find_field(messages: Any) -> str | None:
    """The field in which a chat client's own history carries reasoning, if it does."""
    for message in messages if isinstance(messages, list) else ():
        if not isinstance(message, dict) or message.get("role") != "assistant":
            continue
        for name in FIELDS:
            if isinstance(message.get(name), str) and message[name]:
                return name
        if message.get("reasoning_details"):
            return "reasoning"
    return None


def _text_of(detail: Any) -> str:
    """The readable text of one entry of ``reasoning_details`` or of a thinking part."""
    if isinstance(detail, str):
        return detail
    if not isinstance(detail, dict):
        return ""
    for name in _TEXTS:
        value = detail.get(name)
        if isinstance(value, str):
            return value
        if isinstance(value, list):
            return "".join(map(_text_of, value))
    return ""


def split_parts(content: list[Any]) -> tuple[str, str]:
    """``(reasoning, text)`` of a content list, as Mistral and others send it."""
    thinking = [part for part in content if is_thinking(part)]
    rest = [part for part in content if not is_thinking(part)]
    return "".join(map(_text_of, thinking)), "".join(map(_text_of, rest))


def is_thinking(part: Any) -> bool:
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
            if key in _TEXTS and isinstance(value, str):
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
    if last.get("signature") and any(entry.get(name) for name in _TEXTS):
        return False
    return all(last.get(k) == entry.get(k) for k in ("type", "index", "id"))


class ThinkSplitter:
    """Takes ``<think>…</think>`` out of the head of streamed content, across chunk borders.

    Only a block at the very start counts: later tags are the model's own words.
    """

    OPEN, CLOSE = "<think>", "</think>"

    def __init__(self) -> None:
        self._blanks: list[str] = []  # white space before the head, which may be all there is
        self._held = ""
        # A function, not a bound method: a cycle would be the collector's to find.
        self._state = ThinkSplitter._head

    def feed(self, text: str) -> Iterator[tuple[str, str]]:
        """Give ``("reasoning" | "text", piece)`` for what is decided so far."""
        self._held += text
        return self._state(self)

    def flush(self) -> Iterator[tuple[str, str]]:
        """Give what is still held back when the content ends."""
        held, self._held = "".join([*self._blanks, self._held]), ""
        if held:
            yield ("reasoning" if self._state is ThinkSplitter._inside else "text"), held

    @property
    def thinking(self) -> bool:
        """True from the opening tag on, until text follows the closing one."""
        return self._state in (ThinkSplitter._inside, ThinkSplitter._after)

    @property
    def passed(self) -> bool:
        """True once the rest is plain text, and feeding it here is no longer needed."""
        return self._state is ThinkSplitter._outside

    def _head(self) -> Iterator[tuple[str, str]]:
        start = self._held.lstrip()
        if blank := self._held[: len(self._held) - len(start)]:
            self._blanks.append(blank)
        self._held = start
        if start.startswith(self.OPEN):
            self._blanks.clear()
            self._held = start[len(self.OPEN) :]
            self._state = ThinkSplitter._inside
            yield from self._inside()
        elif not self.OPEN.startswith(start):
            self._held = "".join([*self._blanks, start])
            self._blanks.clear()
            self._state = ThinkSplitter._outside
            yield from self._outside()

    def _inside(self) -> Iterator[tuple[str, str]]:
        thought, tag, rest = self._held.partition(self.CLOSE)
        if tag:
            self._held = rest
            if thought:
                yield "reasoning", thought
            self._state = ThinkSplitter._after
            yield from self._after()
            return
        keep = _overlap(self._held, self.CLOSE)
        cut = len(self._held) - keep
        thought, self._held = self._held[:cut], self._held[cut:]
        if thought:
            yield "reasoning", thought

    def _after(self) -> Iterator[tuple[str, str]]:
        """Between the block and the answer stand line breaks that belong to neither."""
        self._held = self._held.lstrip("\n")
        if self._held:
            self._state = ThinkSplitter._outside
            yield from self._outside()

    def _outside(self) -> Iterator[tuple[str, str]]:
        text, self._held = self._held, ""
        if text:
            yield "text", text


def _overlap(text: str, tag: str) -> int:
    """How many characters at the end of ``text`` could be the beginning of ``tag``."""
    for size in range(min(len(text), len(tag) - 1), 0, -1):
        if tag.startswith(text[-size:]):
            return size
    return 0


_SEAL = re.compile(r"fwd\d+\.")


def is_own(blob: Any) -> bool:
    """Is this ``encrypted_content`` one that a forwarder made?  Other upstreams refuse it."""
    return isinstance(blob, str) and _SEAL.match(blob) is not None
