"""Output items.  Each owns its events: it alone opens, grows and closes itself.

Every method gives the events it causes, in order.  ``done`` is the item as it stands in the
finished response.
"""

from __future__ import annotations

from typing import Any, Protocol

from forwarder.core.types import Batch, Event, Json
from forwarder.translation.responses_over_chat.custom_tool_stream import InputUnwrapper
from forwarder.translation.responses_over_chat.tool_kinds import CUSTOM, FUNCTION
from forwarder.translation.responses_over_chat.toolbox import Tool


class Item(Protocol):
    """What the stream needs of whatever is open."""

    done: Json

    def close(self, status: str) -> Batch: ...


def added(index: int, item: Json) -> Event:
    """An item begins."""
    return {"type": "response.output_item.added", "output_index": index, "item": item}


def done(index: int, item: Json) -> Event:
    """An item is as it stays."""
    return {"type": "response.output_item.done", "output_index": index, "item": item}


class _Part:
    """One part of an item: what its events are called, and the text gathered so far."""

    def __init__(self, names: tuple[str, str, str], where: Json, blank: Json) -> None:
        self._part_event, self._text_event, self._text_key = names
        self._where = where
        self._blank = blank
        self._delta = f"response.{self._text_event}.delta"
        self.pieces: list[str] = []

    def open(self) -> Event:
        return {"type": f"response.{self._part_event}.added", **self._where, "part": self._blank}

    def grow(self, text: str) -> Event:
        self.pieces.append(text)
        return {"type": self._delta, **self._where, "delta": text}

    @property
    def full(self) -> Json:
        return {**self._blank, self._text_key: "".join(self.pieces)}

    def close(self) -> Batch:
        full = self.full
        text = {self._text_key: full[self._text_key]}
        return [
            {"type": f"response.{self._text_event}.done", **self._where, **text},
            {"type": f"response.{self._part_event}.done", **self._where, "part": full},
        ]


class _TextPart(_Part):
    """An ``output_text`` part, with the annotations and log probabilities of its text."""

    def __init__(self, where: Json) -> None:
        blank = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
        super().__init__(("content_part", "output_text", "text"), where, blank)
        self._annotations: list[Json] = []
        self._logprobs: list[Json] = []

    def grow(self, text: str) -> Event:
        self.pieces.append(text)
        return {"type": self._delta, **self._where, "delta": text, "logprobs": []}

    def weigh(self, text: str, entries: list[Json]) -> Event:
        """Grow by a text whose tokens have log probabilities."""
        self._logprobs += entries
        return {**self.grow(text), "logprobs": entries}

    def annotate(self, annotation: Json) -> Event:
        number = len(self._annotations)
        self._annotations.append(annotation)
        return {
            "type": "response.output_text.annotation.added",
            **self._where,
            "annotation_index": number,
            "annotation": annotation,
        }

    @property
    def full(self) -> Json:
        return {**super().full, "annotations": self._annotations, "logprobs": self._logprobs}

    def close(self) -> Batch:
        finished, part = super().close()
        return [{**finished, "logprobs": self._logprobs}, part]


class Message:
    """An assistant message: text parts and refusal parts, one after the other."""

    def __init__(self, item_id: str, index: int) -> None:
        self._index = index
        self._base = {"id": item_id, "type": "message", "role": "assistant"}
        self._parts: list[_Part] = []
        self.done: Json = {}

    def open(self) -> Batch:
        return [added(self._index, {**self._base, "status": "in_progress", "content": []})]

    @property
    def says(self) -> bool:
        """A text is open, rather than a refusal or nothing."""
        return bool(self._parts) and type(self._parts[-1]) is _TextPart

    @property
    def length(self) -> int:
        """Characters of text in the parts that are closed, or in all when the message is."""
        closed = self._parts if self.done else self._parts[:-1]
        texts = [part for part in closed if type(part) is _TextPart]
        return sum(len(piece) for part in texts for piece in part.pieces)

    def text(self, text: str) -> Batch:
        """The hot path: one event for one piece of text."""
        if self._parts and type(self._parts[-1]) is _TextPart:
            return [self._parts[-1].grow(text)]
        return self._begin(_TextPart(self._where()), text)

    def weighed_text(self, text: str, entries: list[Json]) -> Batch:
        """A piece of text, perhaps an empty one, with its log probabilities."""
        events = [] if self.says else self.text("")
        part = self._parts[-1]
        assert isinstance(part, _TextPart)
        return [*events, part.weigh(text, entries)]

    def annotate(self, annotation: Json) -> Batch:
        """An annotation of the text that is open."""
        part = self._parts[-1]
        assert isinstance(part, _TextPart)
        return [part.annotate(annotation)]

    def refusal(self, text: str) -> Batch:
        if self._parts and type(self._parts[-1]) is _Part:
            return [self._parts[-1].grow(text)]
        names = ("content_part", "refusal", "refusal")
        return self._begin(_Part(names, self._where(), {"type": "refusal", "refusal": ""}), text)

    def close(self, status: str) -> Batch:
        events = self._parts[-1].close() if self._parts else []
        content = [part.full for part in self._parts]
        self.done = {**self._base, "status": status, "content": content}
        return [*events, done(self._index, self.done)]

    def _begin(self, part: _Part, text: str) -> Batch:
        events = self._parts[-1].close() if self._parts else []
        self._parts.append(part)
        return [*events, part.open(), part.grow(text)] if text else [*events, part.open()]

    def _where(self) -> Json:
        place = {"output_index": self._index, "content_index": len(self._parts)}
        return {"item_id": self._base["id"], **place}


class Reasoning:
    """A reasoning item, shown as a summary, as text, or as both."""

    def __init__(self, item_id: str, index: int, style: str) -> None:
        self._id = item_id
        self._index = index
        where = {"item_id": item_id, "output_index": index}
        self._forms: dict[str, _Part] = {}
        if style in ("text", "both"):
            self._forms["content"] = _Part(
                ("content_part", "reasoning_text", "text"),
                {**where, "content_index": 0},
                {"type": "reasoning_text", "text": ""},
            )
        if style in ("summary", "both"):
            self._forms["summary"] = _Part(
                ("reasoning_summary_part", "reasoning_summary_text", "text"),
                {**where, "summary_index": 0},
                {"type": "summary_text", "text": ""},
            )
        self.pieces: list[str] = []
        self.sealed: str | None = None
        self.done: Json = {}

    def open(self) -> Batch:
        item = {"id": self._id, "type": "reasoning", "summary": [], "status": "in_progress"}
        return [added(self._index, item)]

    def grow(self, text: str) -> Batch:
        parts = self._forms.values()
        opening = [] if self.pieces else [part.open() for part in parts]
        self.pieces.append(text)
        grown = [part.grow(text) for part in parts]
        return [*opening, *grown] if opening else grown

    def close(self, status: str) -> Batch:
        shown = {name: part for name, part in self._forms.items() if self.pieces}
        events = [event for part in shown.values() for event in part.close()]
        self.done = {"id": self._id, "type": "reasoning", "summary": [], "status": status}
        self.done.update({name: [part.full] for name, part in shown.items()})
        if self.sealed is not None:
            self.done["encrypted_content"] = self.sealed
        return [*events, done(self._index, self.done)]


class ToolCall:
    """A call of a tool.  Functions and freeform tools stream their input; the others are shown
    when they are whole, since their items have no deltas."""

    def __init__(self, item_id: str, index: int, call_id: str, tool: Tool, native: bool) -> None:
        self._index = index
        self._tool = tool
        self._native = native
        self._pieces: list[str] = []
        self._base: Json = {"id": item_id, "type": tool.kind.call, "call_id": call_id}
        if tool.kind.streams:
            self._base["name"] = tool.name
        if tool.namespace:
            self._base["namespace"] = tool.namespace
        self._where = {"item_id": item_id, "output_index": index}
        self._unwrap = InputUnwrapper() if tool.kind is CUSTOM and not native else None
        self._shown = 0  # characters of the input that went out
        self.done: Json = {}

    def open(self) -> Batch:
        if not self._tool.kind.streams:
            return []
        blank = {_STREAMED[self._tool.kind.call][1]: ""}
        return [added(self._index, {**self._base, **blank, "status": "in_progress"})]

    def grow(self, arguments: str) -> Batch:
        self._pieces.append(arguments)
        if not self._tool.kind.streams:
            return []
        return self._show(self._unwrap.feed(arguments) if self._unwrap else arguments)

    def close(self, status: str) -> Batch:
        kind, cut = self._tool.kind, status == "incomplete"
        fields = self._fields("".join(self._pieces), cut)
        self.done = {**self._base, **fields, "status": kind.cut if cut else status}
        if not kind.streams:
            opening = added(self._index, {**self.done, "status": "in_progress"})
            return [opening, done(self._index, self.done)]
        rest = fields[_STREAMED[kind.call][1]][self._shown :]
        return [*self._show(rest), self._finished(fields), done(self._index, self.done)]

    def _fields(self, written: str, cut: bool) -> Json:
        if self._native:
            return {"input": written}
        if self._unwrap:
            return {"input": self._unwrap.whole(written)}
        # A call without arguments comes as no text at all; clients read them as JSON.
        return self._tool.kind.fields(written or ("" if cut else "{}"))

    def _show(self, text: str) -> Batch:
        if not text:
            return []
        self._shown += len(text)
        event, _ = _STREAMED[self._tool.kind.call]
        return [{"type": f"response.{event}.delta", **self._where, "delta": text}]

    def _finished(self, fields: Json) -> Event:
        event, key = _STREAMED[self._tool.kind.call]
        done: dict[str, Any] = {"type": f"response.{event}.done", **self._where, key: fields[key]}
        return {**done, "name": self._tool.name} if self._tool.kind is FUNCTION else done


_STREAMED = {
    "function_call": ("function_call_arguments", "arguments"),
    "custom_tool_call": ("custom_tool_call_input", "input"),
}
"""Item type -> the stem of its events, and the field that they fill."""
