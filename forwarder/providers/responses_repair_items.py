"""The output items of a native Responses stream, as far as they are known, whatever they lack."""

from __future__ import annotations

from forwarder.core.ids import Mint
from forwarder.core.types import Batch, Event, Json

_PREFIXES = {"message": "msg", "reasoning": "rs", "function_call": "fc", "custom_tool_call": "ctc"}

_BLANK: dict[str, Json] = {
    "message": {"role": "assistant", "status": "in_progress", "content": []},
    "reasoning": {"summary": []},
    "function_call": {"call_id": None, "name": "", "arguments": "", "status": "in_progress"},
    "custom_tool_call": {"call_id": None, "name": "", "input": ""},
}
"""Item type -> what such an item has at least."""

_CALLS = {"function_call": "arguments", "custom_tool_call": "input"}
"""Calls, and the field that their deltas fill."""


def over(base: Json, given: Json) -> Json:
    """``given`` over ``base``; a null does not hide what must be there."""
    return {**base, **{k: v for k, v in given.items() if v is not None or base.get(k) is None}}


_CITATION: Json = {"start_index": 0, "end_index": 0, "title": ""}


def complete_citation(annotation: Json) -> Json:
    """An annotation with all its fields: xAI cites URLs without a position or a title."""
    return over(_CITATION, annotation) if annotation.get("type") == "url_citation" else annotation


def complete_part(part: Json) -> Json:
    """A content part whose text has its annotations, with all their fields."""
    if part.get("type") != "output_text":
        return part
    return {**part, "annotations": [complete_citation(a) for a in part.get("annotations") or ()]}


def complete_parts(item: Json) -> Json:
    """An item whose annotations have all their fields."""
    if item.get("type") != "message" or not item.get("content"):
        return item
    return {**item, "content": [complete_part(part) for part in item["content"]]}


class Item:
    """An output item; ``held`` are the events of a call of which nobody has said whose it is."""

    def __init__(self, index: int, item: Json, announced: bool) -> None:
        self.index = index
        self.json = item
        self.parts: set[int] = set()
        self.done = False
        self.held: Batch | None = None if announced or item["type"] not in _CALLS else []
        self._texts: list[str] = []

    def grow(self, text: str) -> None:
        self._texts.append(text)

    def added(self) -> Event:
        """The announcement; what comes in deltas is still to come."""
        blank = {_CALLS[self.json["type"]]: ""} if self.json["type"] in _CALLS else {}
        item = {**self.json, **blank}
        return {"type": "response.output_item.added", "output_index": self.index, "item": item}

    def close(self) -> Batch:
        """The events of an item that was begun and never done."""
        text = "".join(self._texts)
        field = _CALLS.get(self.json["type"])
        if self.json["type"] == "message" and not self.json["content"]:
            part = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
            self.json = {**self.json, "content": [part]}
        elif field and not self.json[field]:
            self.json = {**self.json, field: text}
        if "status" in self.json:
            self.json = {**self.json, "status": "completed"}
        return [*self.released(), self.finished()]

    def finished(self) -> Event:
        self.done = True
        item = self.json
        return {"type": "response.output_item.done", "output_index": self.index, "item": item}

    def released(self) -> Batch:
        """The announcement that was waiting, and the events that waited for it."""
        held, self.held = self.held, None
        return [] if held is None else [self.added(), *held]


class Items:
    """All items of a response, by their index."""

    def __init__(self, mint: Mint) -> None:
        self._mint = mint
        self._by_index: dict[int, Item] = {}

    def __bool__(self) -> bool:
        return bool(self._by_index)

    def all(self) -> list[Item]:
        """The items in the order of the output."""
        return [item for _, item in sorted(self._by_index.items())]

    def at(self, index: object) -> Item | None:
        """The item of an output index, if it has begun."""
        return self._by_index.get(index) if isinstance(index, int) else None

    def find(self, item_id: object, index: object, kind: str) -> Item | None:
        """The item that an event means: by its index, its id, or its kind."""
        found = self.at(index)
        if found is not None:
            return found if found.json["type"] == kind else None
        alike = [item for item in self._by_index.values() if item.json["type"] == kind]
        named = [item for item in alike if item_id and item.json["id"] == item_id]
        return next(iter(named or ([] if item_id else [i for i in alike if not i.done])), None)

    def begin(self, index: object, item: Json, announced: bool) -> Item:
        """A new item, at its index unless that is taken."""
        free = isinstance(index, int) and index not in self._by_index
        place = int(str(index)) if free else max(self._by_index, default=-1) + 1
        self._by_index[place] = Item(place, self.identified(item), announced)
        return self._by_index[place]

    def identified(self, item: Json) -> Json:
        """An item with everything that one of its kind has."""
        kind = str(item.get("type"))
        made = {"type": kind, **over(_BLANK.get(kind, {}), item)}
        made["id"] = item.get("id") or self._mint.id(_PREFIXES.get(kind, "item"))
        if kind in _CALLS:
            made["call_id"] = item.get("call_id") or made["id"]
        return made

    def output(self, given: list[Json]) -> list[Json]:
        """What stands in the finished response: the items under the ids that they went by."""
        known, given = [item.json for item in self.all()], list(map(complete_parts, given))
        if len(given) != len(known):
            return known or [self.identified(item) for item in given]
        same = ("id", "call_id")
        return [
            {**over(old, item), **{k: old[k] for k in same if k in old}}
            if old["type"] == item.get("type")
            else self.identified(item)
            for old, item in zip(known, given, strict=True)
        ]
