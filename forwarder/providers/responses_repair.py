"""Native Responses streams that are almost right, made right: only for providers known for it.

What is missing is added from what is there: the events that open a response, ids and indexes, the
announcement of items and parts, items that were never closed, the counts of usage, the numbers of
the events.  What is there is not changed, but for the numbers and for ids that change on the way.
"""

from __future__ import annotations

from collections.abc import Callable

from forwarder.core.ids import Mint
from forwarder.core.types import Batch, Event, Json, Stream
from forwarder.protocols.mappings import TERMINALS, usage_to_responses
from forwarder.providers.responses_repair_items import (
    Item,
    Items,
    complete_citation,
    complete_part,
    complete_parts,
    over,
)

_STATUS = {"response.completed": "completed", "response.incomplete": "incomplete",
           "response.failed": "failed"}  # fmt: skip

_KIND_OF = {
    "output_text": "message",
    "output_text.annotation": "message",
    "refusal": "message",
    "content_part": "message",
    "function_call_arguments": "function_call",
    "custom_tool_call_input": "custom_tool_call",
    "reasoning_text": "reasoning",
    "reasoning_part": "reasoning",
    "reasoning_summary_text": "reasoning",
    "reasoning_summary_part": "reasoning",
}
"""The stem of an event -> the type of the item that it belongs to.

The events of all other items are passed on, under the id that their item has here.
"""

_PARTS: dict[str, tuple[str, Json]] = {
    "output_text": ("text", {"annotations": [], "logprobs": []}),
    "refusal": ("refusal", {}),
    "reasoning_text": ("text", {}),
}
"""The stem of a delta -> the field of its part's text, and what else the part has."""


def repaired(stream: Stream, was_done: Callable[[], bool], mint: Mint) -> Stream:
    """The stream as the protocol has it; a whole answer is a stream of its terminal event."""
    repair = _Repair(mint)
    for batch in stream:
        yield [fixed for event in batch for fixed in repair.feed(event)]
    if was_done():
        yield repair.end()


class _Repair:
    """What has to be known of a stream to complete it."""

    def __init__(self, mint: Mint) -> None:
        self._mint = mint
        self._response: Json = {}
        self._items = Items(mint)
        self._number = -1
        self._ended = False

    def whole(self, event: Event) -> Json:
        """The response of an event, with everything that a response has."""
        given = event.get("response") or {}
        fresh = {**_RESPONSE, "id": self._mint.id("resp"), "created_at": self._mint.now()}
        full = over(self._response or fresh, given)
        self._response = {**full, "id": self._response.get("id") or full["id"]}
        if event.get("type") in TERMINALS:
            return self._finished(str(event["type"]))
        return self._response

    def feed(self, event: Event) -> Batch:
        """The event as it should have come, and what should have come before it."""
        kind = str(event.get("type") or "")
        if kind == "error":
            return self._numbered([event])
        made: Batch = [] if self._response or kind == "response.created" else self._opening(event)
        if kind in TERMINALS:
            self._ended = True
            closing = self._closing()
            return self._numbered([*made, *closing, {**event, "response": self.whole(event)}])
        if "response" in event:
            return self._numbered([*made, {**event, "response": self.whole(event)}])
        return self._numbered([*made, *self._of_item(kind, event)])

    def end(self) -> Batch:
        """The terminal event, when a stream that said it was done had none."""
        if self._ended or not self._items or not all(i.done for i in self._items.all()):
            return []
        return self.feed({"type": "response.completed", "response": {}})

    # -- the response ---------------------------------------------------------------------------

    def _opening(self, event: Event) -> Batch:
        begun = {**self.whole({"response": event.get("response")}), "status": "in_progress"}
        begun["output"] = []
        return [{"type": f"response.{name}", "response": begun} for name in
                ("created", "in_progress")]  # fmt: skip

    def _finished(self, kind: str) -> Json:
        response = {**self._response, "status": _STATUS[kind]}
        response["output"] = self._items.output(response.get("output") or [])
        if response.get("usage"):
            response["usage"] = _usage(response["usage"])
        return response

    def _closing(self) -> Batch:
        """Items that were begun and never done."""
        return [event for item in self._items.all() if not item.done for event in item.close()]

    # -- items ----------------------------------------------------------------------------------

    def _of_item(self, kind: str, event: Event) -> Batch:
        if kind.startswith("response.output_item."):
            return self._item_event(kind, event)
        stem, _, verb = kind.removeprefix("response.").rpartition(".")
        owner = _KIND_OF.get(stem)
        if verb not in ("delta", "done", "added") or owner is None:
            return [self._pinned(event)]
        if stem == "reasoning_part":  # vLLM's name for the same
            stem, event = "content_part", {**event, "type": f"response.content_part.{verb}"}
        if (event.get("part") or {}).get("type") == "reasoning_text":
            owner = "reasoning"
        item, made = self._item_of(owner, event)
        fixed = {**event, "item_id": item.json["id"], "output_index": item.index}
        made += self._announced(stem, item, fixed)
        if stem == "output_text":
            fixed.setdefault("logprobs", [])
        elif stem == "output_text.annotation":
            fixed["annotation"] = complete_citation(event.get("annotation") or {})
        elif stem == "content_part" and event.get("part"):
            fixed["part"] = complete_part(event["part"])
        if verb == "delta":
            item.grow(str(event.get("delta") or ""))
        if item.held is not None:
            item.held.append(fixed)
            return []
        return [*made, fixed]

    def _item_event(self, kind: str, event: Event) -> Batch:
        given, index = event.get("item") or {}, event.get("output_index")
        item = self._items.find(given.get("id"), index, str(given.get("type")))
        made: Batch = []
        if item is None:
            item = self._items.begin(index, given, announced=True)
            made = [item.added()] if kind.endswith("done") else []
        own = {k: v for k, v in complete_parts(given).items() if k != "id"}
        item.json = over(item.json, own)
        if not kind.endswith("done"):
            return [*made, {**event, "output_index": item.index, "item": item.json}]
        return [*made, *item.released(), {**event, **item.finished()}]

    def _pinned(self, event: Event) -> Event:
        """The event under the id that its item has had from the beginning."""
        item = self._items.at(event.get("output_index")) if "item_id" in event else None
        return {**event, "item_id": item.json["id"]} if item else event

    def _item_of(self, kind: str, event: Event) -> tuple[Item, Batch]:
        index = event.get("output_index")
        item = self._items.find(event.get("item_id"), index, kind)
        if item is not None:
            return item, []
        begun = {"type": kind, "id": event.get("item_id")}
        item = self._items.begin(index, begun, announced=False)
        return item, [] if item.held is not None else [item.added()]

    def _announced(self, stem: str, item: Item, event: Event) -> Batch:
        """The part that a delta belongs to, when nobody has said that it begins."""
        place = event.setdefault("content_index", 0) if stem in (*_PARTS, "content_part") else None
        known = place is None or place in item.parts
        if place is not None:
            item.parts.add(place)
        if known or stem == "content_part":
            return []
        field, more = _PARTS[stem]
        where = {k: event[k] for k in ("item_id", "output_index", "content_index")}
        part = {"type": stem, field: "", **more}
        return [{"type": "response.content_part.added", **where, "part": part}]

    def _numbered(self, batch: Batch) -> Batch:
        made = [{**e, "sequence_number": self._number + 1 + i} for i, e in enumerate(batch)]
        self._number += len(batch)
        return made


_RESPONSE: Json = {
    "object": "response",
    "model": "",
    "output": [],
    "parallel_tool_calls": True,
    "tool_choice": "auto",
    "tools": [],
    "status": "in_progress",
}
"""What a response has at least, beside its id and time."""


def _usage(usage: Json) -> Json:
    """Every count that the SDK requires; chat's names are understood too."""
    if "prompt_tokens" in usage:
        return usage_to_responses(usage) or usage
    counts = {k: usage.get(k) or 0 for k in ("input_tokens", "output_tokens")}
    details = {
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens_details": {"reasoning_tokens": 0},
    }
    full = {k: over(v, usage.get(k) or {}) for k, v in details.items()}
    total = usage.get("total_tokens") or sum(counts.values())
    return {**usage, **counts, **full, "total_tokens": total}
