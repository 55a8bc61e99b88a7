"""The output items of a response.  Each item makes the events that open, extend and close it.

Every method returns its events in order.  ``final_item`` is the item as it appears in
the finished response, once it is closed.
"""

from __future__ import annotations

from typing import Any, Protocol

from forwarder.core.types import Batch, Event, Json
from forwarder.protocols.types import make_item_added, make_item_done
from forwarder.translation.responses_over_chat.client_tool_kinds import CUSTOM, FUNCTION
from forwarder.translation.responses_over_chat.custom_tool_input import InputUnwrapper
from forwarder.translation.responses_over_chat.tools import ClientTool


class OutputItem(Protocol):
    """The interface of an item that ``ResponseBuilder`` closes and puts into the output."""

    final_item: Json

    def close(self, status: str) -> Batch: ...


class PartWriter:
    """Writes one part of an item.

    ``names`` are the stem of the part's events, the stem of its text's events, and the field with
    its text.  ``location`` holds the ids and indexes for all events, ``blank`` is the empty part.
    """

    def __init__(self, names: tuple[str, str, str], location: Json, blank: Json) -> None:
        self._part_event, self._text_event, self._text_key = names
        self._location = location
        self._blank = blank
        self._delta_type = f"response.{self._text_event}.delta"
        self.pieces: list[str] = []

    def open(self) -> Event:
        return {"type": f"response.{self._part_event}.added", **self._location, "part": self._blank}

    def append_text(self, text: str) -> Event:
        self.pieces.append(text)
        return {"type": self._delta_type, **self._location, "delta": text}

    @property
    def final_part(self) -> Json:
        return {**self._blank, self._text_key: "".join(self.pieces)}

    def close(self) -> Batch:
        part = self.final_part
        text = {self._text_key: part[self._text_key]}
        return [
            {"type": f"response.{self._text_event}.done", **self._location, **text},
            {"type": f"response.{self._part_event}.done", **self._location, "part": part},
        ]


class TextPartWriter(PartWriter):
    """Writes an ``output_text`` part, with the annotations and log probabilities of its text."""

    def __init__(self, location: Json) -> None:
        blank = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
        super().__init__(("content_part", "output_text", "text"), location, blank)
        self._annotations: list[Json] = []
        self._logprobs: list[Json] = []

    def append_text(self, text: str) -> Event:
        self.pieces.append(text)
        return {"type": self._delta_type, **self._location, "delta": text, "logprobs": []}

    def append_text_with_logprobs(self, text: str, entries: list[Json]) -> Event:
        """Append a text with the log probabilities of its tokens."""
        self._logprobs += entries
        return {**self.append_text(text), "logprobs": entries}

    def add_annotation(self, annotation: Json) -> Event:
        number = len(self._annotations)
        self._annotations.append(annotation)
        return {
            "type": "response.output_text.annotation.added",
            **self._location,
            "annotation_index": number,
            "annotation": annotation,
        }

    @property
    def final_part(self) -> Json:
        return {**super().final_part, "annotations": self._annotations, "logprobs": self._logprobs}

    def close(self) -> Batch:
        text_done, part_done = super().close()
        return [{**text_done, "logprobs": self._logprobs}, part_done]


class MessageItem:
    """An assistant message, a sequence of text parts and refusal parts."""

    def __init__(self, item_id: str, index: int) -> None:
        self._index = index
        self._base = {"id": item_id, "type": "message", "role": "assistant"}
        self._parts: list[PartWriter] = []
        self.final_item: Json = {}

    def open(self) -> Batch:
        return [
            make_item_added({**self._base, "status": "in_progress", "content": []}, self._index)
        ]

    @property
    def has_open_text(self) -> bool:
        """Whether the last part is a text."""
        return bool(self._parts) and type(self._parts[-1]) is TextPartWriter

    @property
    def text_length(self) -> int:
        """Characters in the closed text parts, or in all text parts if the message is closed."""
        closed = self._parts if self.final_item else self._parts[:-1]
        texts = [part for part in closed if type(part) is TextPartWriter]
        return sum(len(piece) for part in texts for piece in part.pieces)

    def append_text(self, text: str) -> Batch:
        """Append a piece of text.  This is the hot path: it makes one event."""
        if self._parts and type(self._parts[-1]) is TextPartWriter:
            return [self._parts[-1].append_text(text)]
        return self._open_part(TextPartWriter(self._make_location()), text)

    def append_text_with_logprobs(self, text: str, entries: list[Json]) -> Batch:
        """Append a piece of text, which may be empty, with its log probabilities."""
        events = [] if self.has_open_text else self.append_text("")
        part = self._parts[-1]
        assert isinstance(part, TextPartWriter)
        return [*events, part.append_text_with_logprobs(text, entries)]

    def add_annotation(self, annotation: Json) -> Batch:
        """Annotate the last part, which must be a text."""
        part = self._parts[-1]
        assert isinstance(part, TextPartWriter)
        return [part.add_annotation(annotation)]

    def append_refusal(self, text: str) -> Batch:
        if self._parts and type(self._parts[-1]) is PartWriter:
            return [self._parts[-1].append_text(text)]
        names = ("content_part", "refusal", "refusal")
        return self._open_part(
            PartWriter(names, self._make_location(), {"type": "refusal", "refusal": ""}), text
        )

    def close(self, status: str) -> Batch:
        events = self._parts[-1].close() if self._parts else []
        content = [part.final_part for part in self._parts]
        self.final_item = {**self._base, "status": status, "content": content}
        return [*events, make_item_done(self.final_item, self._index)]

    def _open_part(self, part: PartWriter, text: str) -> Batch:
        events = self._parts[-1].close() if self._parts else []
        self._parts.append(part)
        return [*events, part.open(), part.append_text(text)] if text else [*events, part.open()]

    def _make_location(self) -> Json:
        indexes = {"output_index": self._index, "content_index": len(self._parts)}
        return {"item_id": self._base["id"], **indexes}


class ReasoningItem:
    """A reasoning item.  ``style`` is ``summary``, ``text`` or ``both``."""

    def __init__(self, item_id: str, index: int, style: str) -> None:
        self._id = item_id
        self._index = index
        location = {"item_id": item_id, "output_index": index}
        self._parts: dict[str, PartWriter] = {}
        if style in ("text", "both"):
            self._parts["content"] = PartWriter(
                ("content_part", "reasoning_text", "text"),
                {**location, "content_index": 0},
                {"type": "reasoning_text", "text": ""},
            )
        if style in ("summary", "both"):
            self._parts["summary"] = PartWriter(
                ("reasoning_summary_part", "reasoning_summary_text", "text"),
                {**location, "summary_index": 0},
                {"type": "summary_text", "text": ""},
            )
        self.pieces: list[str] = []
        self.encrypted_content: str | None = None
        self.final_item: Json = {}

    def open(self) -> Batch:
        item = {"id": self._id, "type": "reasoning", "summary": [], "status": "in_progress"}
        return [make_item_added(item, self._index)]

    def append_text(self, text: str) -> Batch:
        parts = self._parts.values()
        opening = [] if self.pieces else [part.open() for part in parts]
        self.pieces.append(text)
        deltas = [part.append_text(text) for part in parts]
        return [*opening, *deltas] if opening else deltas

    def close(self, status: str) -> Batch:
        parts = self._parts if self.pieces else {}
        events = [event for part in parts.values() for event in part.close()]
        self.final_item = {"id": self._id, "type": "reasoning", "summary": [], "status": status}
        self.final_item.update({name: [part.final_part] for name, part in parts.items()})
        if self.encrypted_content is not None:
            self.final_item["encrypted_content"] = self.encrypted_content
        return [*events, make_item_done(self.final_item, self._index)]


class ToolCallItem:
    """A tool call.

    Functions and freeform tools stream their input.  Items of other kinds have no deltas, so they
    are sent when they are complete.
    """

    def __init__(
        self, item_id: str, index: int, call_id: str, tool: ClientTool, native: bool
    ) -> None:
        self._index = index
        self._tool = tool
        self._native = native
        self._pieces: list[str] = []
        self._base: Json = {"id": item_id, "type": tool.kind.call_type, "call_id": call_id}
        if tool.kind.streams_input:
            self._base["name"] = tool.name
        if tool.namespace:
            self._base["namespace"] = tool.namespace
        self._location = {"item_id": item_id, "output_index": index}
        self._unwrapper = InputUnwrapper() if tool.kind is CUSTOM and not native else None
        self._sent_length = 0  # characters of the input sent
        self.final_item: Json = {}

    def open(self) -> Batch:
        if not self._tool.kind.streams_input:
            return []
        blank = {_INPUT_EVENTS[self._tool.kind.call_type][1]: ""}
        return [make_item_added({**self._base, **blank, "status": "in_progress"}, self._index)]

    def append_arguments(self, arguments: str) -> Batch:
        self._pieces.append(arguments)
        if not self._tool.kind.streams_input:
            return []
        return self._emit_input(self._unwrapper.feed(arguments) if self._unwrapper else arguments)

    def close(self, status: str) -> Batch:
        kind, is_cut = self._tool.kind, status == "incomplete"
        fields = self._make_fields("".join(self._pieces), is_cut)
        self.final_item = {**self._base, **fields, "status": kind.cut_status if is_cut else status}
        if not kind.streams_input:
            opening = make_item_added({**self.final_item, "status": "in_progress"}, self._index)
            return [opening, make_item_done(self.final_item, self._index)]
        rest = fields[_INPUT_EVENTS[kind.call_type][1]][self._sent_length :]
        return [
            *self._emit_input(rest),
            self._make_input_done_event(fields),
            make_item_done(self.final_item, self._index),
        ]

    def _make_fields(self, arguments: str, is_cut: bool) -> Json:
        if self._native:
            return {"input": arguments}
        if self._unwrapper:
            return {"input": self._unwrapper.finish(arguments)}
        # Upstreams send no text for a call without arguments, but clients parse them as JSON.
        return self._tool.kind.make_call_fields(arguments or ("" if is_cut else "{}"))

    def _emit_input(self, text: str) -> Batch:
        if not text:
            return []
        self._sent_length += len(text)
        event, _ = _INPUT_EVENTS[self._tool.kind.call_type]
        return [{"type": f"response.{event}.delta", **self._location, "delta": text}]

    def _make_input_done_event(self, fields: Json) -> Event:
        event, key = _INPUT_EVENTS[self._tool.kind.call_type]
        done_event: dict[str, Any] = {
            "type": f"response.{event}.done",
            **self._location,
            key: fields[key],
        }
        if self._tool.kind is FUNCTION:
            done_event["name"] = self._tool.name
        return done_event


_INPUT_EVENTS = {
    "function_call": ("function_call_arguments", "arguments"),
    "custom_tool_call": ("custom_tool_call_input", "input"),
}
"""Item type -> the stem of its input events, and the field with the input."""
