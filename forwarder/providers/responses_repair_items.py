"""The state of the output items of a native Responses stream under repair."""

from __future__ import annotations

from forwarder.core.ids import IdSource
from forwarder.core.types import Batch, Event, Json
from forwarder.protocols.types import make_item_added, make_item_done, make_output_text

_ID_PREFIXES = {
    "message": "msg",
    "reasoning": "rs",
    "function_call": "fc",
    "custom_tool_call": "ctc",
}

_ITEM_DEFAULTS: dict[str, Json] = {
    "message": {"role": "assistant", "status": "in_progress", "content": []},
    "reasoning": {"summary": []},
    "function_call": {"call_id": None, "name": "", "arguments": "", "status": "in_progress"},
    "custom_tool_call": {"call_id": None, "name": "", "input": ""},
}
"""Item type -> the required fields of such an item."""

_CALL_INPUT_FIELDS = {"function_call": "arguments", "custom_tool_call": "input"}
"""Type of a call -> the field that its deltas fill."""


def overlay_fields(base: Json, fields: Json) -> Json:
    """Return ``base`` updated with ``fields``; nulls do not replace values of ``base``."""
    return {**base, **{k: v for k, v in fields.items() if v is not None or base.get(k) is None}}


_CITATION_DEFAULTS: Json = {"start_index": 0, "end_index": 0, "title": ""}


def complete_citation(annotation: Json) -> Json:
    """Add missing fields to a URL citation: xAI sends no position and no title."""
    if annotation.get("type") != "url_citation":
        return annotation
    return overlay_fields(_CITATION_DEFAULTS, annotation)


def complete_part(part: Json) -> Json:
    """Add missing annotations, and their missing fields, to a text part."""
    if part.get("type") != "output_text":
        return part
    return {**part, "annotations": [complete_citation(a) for a in part.get("annotations") or ()]}


def complete_parts(item: Json) -> Json:
    """Apply `complete_part` to all parts of a message."""
    if item.get("type") != "message" or not item.get("content"):
        return item
    return {**item, "content": [complete_part(part) for part in item["content"]]}


class RepairedItem:
    """An output item.

    ``held_events`` are events of a call that wait for its ``output_item.added``; None if they need
    not wait. If the upstream sends no ``output_item.added``, it can be added only after the
    ``done`` event of the call, because the name of the call is unknown before.
    """

    def __init__(self, index: int, item: Json, announced: bool) -> None:
        self.index = index
        self.json = item
        self.announced_parts: set[int] = set()
        self.is_done = False
        is_held = not announced and item["type"] in _CALL_INPUT_FIELDS
        self.held_events: Batch | None = [] if is_held else None
        self._texts: list[str] = []

    def append_text(self, text: str) -> None:
        self._texts.append(text)

    def make_added_event(self) -> Event:
        """Make the announcement, with an empty field for the text that follows in deltas."""
        item = self.json
        field = _CALL_INPUT_FIELDS.get(item["type"])
        if field is not None:
            item = {**item, field: ""}
        return make_item_added(item, self.index)

    def close(self) -> Batch:
        """Finish an item without a ``done`` event; return its held events and that event."""
        text = "".join(self._texts)
        field = _CALL_INPUT_FIELDS.get(self.json["type"])
        if self.json["type"] == "message" and not self.json["content"]:
            self.json = {**self.json, "content": [make_output_text(text)]}
        elif field and not self.json[field]:
            self.json = {**self.json, field: text}
        if "status" in self.json:
            self.json = {**self.json, "status": "completed"}
        return [*self.release_events(), self.make_done_event()]

    def make_done_event(self) -> Event:
        self.is_done = True
        return make_item_done(self.json, self.index)

    def release_events(self) -> Batch:
        """Return the announcement and the events that waited for it; empty if none waited."""
        events, self.held_events = self.held_events, None
        return [] if events is None else [self.make_added_event(), *events]


class RepairedItems:
    """All items of a response by output index."""

    def __init__(self, id_source: IdSource) -> None:
        self._id_source = id_source
        self._by_index: dict[int, RepairedItem] = {}

    def __bool__(self) -> bool:
        return bool(self._by_index)

    def list_items(self) -> list[RepairedItem]:
        """Return the items in output order."""
        return [item for _, item in sorted(self._by_index.items())]

    def get_item(self, index: object) -> RepairedItem | None:
        """Return the item of an output index, or None."""
        return self._by_index.get(index) if isinstance(index, int) else None

    def find_item(self, item_id: object, index: object, kind: str) -> RepairedItem | None:
        """Find the item of an event by index, else by id, else the first open one.

        Returns None if no item matches, or if the item at the index is of another kind.
        """
        item = self.get_item(index)
        if item is not None:
            return item if item.json["type"] == kind else None
        for item in self._by_index.values():
            matches = item.json["id"] == item_id if item_id else not item.is_done
            if matches and item.json["type"] == kind:
                return item
        return None

    def add_item(self, index: object, item: Json, announced: bool) -> RepairedItem:
        """Add an item, at its index unless that is taken."""
        if type(index) is not int or index in self._by_index:
            index = max(self._by_index, default=-1) + 1
        self._by_index[index] = RepairedItem(index, self.complete_item(item), announced)
        return self._by_index[index]

    def complete_item(self, item: Json) -> Json:
        """Return the item with the required fields of its type."""
        kind = str(item.get("type"))
        full = {"type": kind, **overlay_fields(_ITEM_DEFAULTS.get(kind, {}), item)}
        full["id"] = item.get("id") or self._id_source.new_id(_ID_PREFIXES.get(kind, "item"))
        if kind in _CALL_INPUT_FIELDS:
            full["call_id"] = item.get("call_id") or full["id"]
        return full

    def build_output(self, output: list[Json]) -> list[Json]:
        """Return the output of the finished response, with the ids that the stream's events had.

        ``output`` is the upstream's own output; it may be empty.
        """
        known = [item.json for item in self.list_items()]
        final = [complete_parts(item) for item in output]
        if len(final) != len(known):
            return known or [self.complete_item(item) for item in final]
        built: list[Json] = []
        for old, item in zip(known, final, strict=True):
            if old["type"] == item.get("type"):
                ids: Json = {name: old[name] for name in ("id", "call_id") if name in old}
                built.append({**overlay_fields(old, item), **ids})
            else:
                built.append(self.complete_item(item))
        return built
