"""Collects the output of an interrupted response from its events."""

from __future__ import annotations

from collections.abc import Iterable

from forwarder.core.types import Event, Json

_TEXT_DELTA_EVENTS = {
    "response.output_text.delta": ("content", "content_index", "text"),
    "response.refusal.delta": ("content", "content_index", "refusal"),
    "response.reasoning_text.delta": ("content", "content_index", "text"),
    "response.reasoning_summary_text.delta": ("summary", "summary_index", "text"),
}
"""Type of event -> the field of its item, the event's index into it, and the part's field."""

_PART_EVENTS = {
    "response.content_part.added": ("content", "content_index"),
    "response.reasoning_summary_part.added": ("summary", "summary_index"),
}


class PartialItem:
    """An unfinished item: its parts by (field, index), and the pieces of their texts."""

    def __init__(self, item: Json) -> None:
        self._item = item
        self._parts: dict[tuple[str, int], Json] = {}
        self._pieces: dict[tuple[str, int, str], list[str]] = {}

    def add_part(self, field: str, index: int, part: Json) -> None:
        self._parts[field, index] = part

    def add_text(self, field: str, index: int, key: str, text: str) -> None:
        self._pieces.setdefault((field, index, key), []).append(text)

    def to_item(self) -> Json | None:
        """Return the item with status ``incomplete``, or None if it has no text yet."""
        if not self._pieces:
            return None
        parts = dict(self._parts)
        for (field, index, key), pieces in self._pieces.items():
            part = parts.get((field, index)) or make_blank_part(field, key, self._item)
            parts[field, index] = {**part, key: "".join(pieces)}
        item = {**self._item, "status": "incomplete"}
        for field in dict.fromkeys(field for field, _ in parts):
            item[field] = [parts[place] for place in sorted(parts) if place[0] == field]
        return item


def collect_output(events: Iterable[Event]) -> list[Json]:
    """Return the finished items, and unfinished messages and reasoning as ``incomplete``.

    Unfinished calls are left out, because a client must not run half a call.
    """
    finished: dict[int, Json] = {}
    started: dict[int, PartialItem] = {}
    for event in events:
        kind, place = event.get("type", ""), event.get("output_index")
        if type(place) is not int:
            place = len(finished)
        if kind == "response.output_item.done":
            finished[place] = event.get("item") or {}
        elif kind == "response.output_item.added":
            started[place] = PartialItem(event.get("item") or {})
        elif place in started and kind in _PART_EVENTS:
            field, index = _PART_EVENTS[kind]
            started[place].add_part(field, event.get(index) or 0, event.get("part") or {})
        elif place in started and kind in _TEXT_DELTA_EVENTS:
            field, index, key = _TEXT_DELTA_EVENTS[kind]
            text = str(event.get("delta") or "")
            started[place].add_text(field, event.get(index) or 0, key, text)
    partial = {place: item.to_item() for place, item in started.items() if place not in finished}
    items = finished | {place: item for place, item in partial.items() if item is not None}
    return [items[place] for place in sorted(items)]


def make_blank_part(field: str, key: str, item: Json) -> Json:
    """Return an empty part for a text that began without an event for its part."""
    if field == "summary":
        return {"type": "summary_text"}
    if item.get("type") == "reasoning":
        return {"type": "reasoning_text"}
    return {"type": "refusal"} if key == "refusal" else {"type": "output_text", "annotations": []}
