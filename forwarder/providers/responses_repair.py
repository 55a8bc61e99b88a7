"""Repairs native Responses streams of providers that leave out parts of the protocol.

The repairer adds missing opening events, ids, indexes, announcements of items and parts, ``done``
events of items, usage counts and sequence numbers.  It changes existing values only if they are
sequence numbers or ids that differ between the events of one item.
"""

from __future__ import annotations

from collections.abc import Callable

from forwarder.core.ids import IdSource
from forwarder.core.types import Batch, Event, EventStream, Json
from forwarder.protocols.chat_responses_mappings import TERMINAL_EVENTS, map_usage_to_responses
from forwarder.protocols.types import ResponsesUsage
from forwarder.providers.responses_repair_items import (
    RepairedItem,
    RepairedItems,
    complete_citation,
    complete_part,
    complete_parts,
    overlay_fields,
)

_STATUS_BY_EVENT = {"response.completed": "completed", "response.incomplete": "incomplete",
           "response.failed": "failed"}  # fmt: skip

_ITEM_TYPE_BY_STEM = {
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

In events of other items, only the id of the item is repaired.
"""

_PART_FIELDS: dict[str, tuple[str, Json]] = {
    "output_text": ("text", {"annotations": [], "logprobs": []}),
    "refusal": ("refusal", {}),
    "reasoning_text": ("text", {}),
}
"""The stem of a delta -> the text field of its part, and the part's other fields."""


def repair_stream(
    stream: EventStream, saw_done_marker: Callable[[], bool], id_source: IdSource
) -> EventStream:
    """Repair a stream; a complete answer is a stream with only a terminal event.

    ``saw_done_marker`` returns whether ``[DONE]`` arrived: then a missing terminal event is added.
    """
    repair = ResponsesRepairer(id_source)
    for batch in stream:
        yield [fixed for event in batch for fixed in repair.feed(event)]
    if saw_done_marker():
        yield repair.finish()


class ResponsesRepairer:
    """Repairs the events of one stream, one at a time."""

    def __init__(self, id_source: IdSource) -> None:
        self._id_source = id_source
        self._response: Json = {}
        self._items = RepairedItems(id_source)
        self._sequence_number = -1
        self._is_finished = False

    def complete_response(self, event: Event) -> Json:
        """Return the response of an event with all required fields."""
        initial = {
            **_RESPONSE_DEFAULTS,
            "id": self._id_source.new_id("resp"),
            "created_at": self._id_source.now(),
        }
        full = overlay_fields(self._response or initial, event.get("response") or {})
        self._response = {**full, "id": self._response.get("id") or full["id"]}
        if event.get("type") in TERMINAL_EVENTS:
            return self._finish_response(str(event["type"]))
        return self._response

    def feed(self, event: Event) -> Batch:
        """Return the repaired event and, before it, the events that the upstream left out."""
        kind = str(event.get("type") or "")
        if kind == "error":
            return self._number_events([event])
        events: Batch = []
        if not self._response and kind != "response.created":
            events += self._make_opening_events(event)
        if kind in TERMINAL_EVENTS:
            self._is_finished = True
            for item in self._items.list_items():
                if not item.is_done:
                    events += item.close()
        if kind in TERMINAL_EVENTS or "response" in event:
            events.append({**event, "response": self.complete_response(event)})
        else:
            events += self._repair_item_event(kind, event)
        return self._number_events(events)

    def finish(self) -> Batch:
        """Return a terminal event if all items are done and the upstream sent none."""
        if (
            self._is_finished
            or not self._items
            or not all(i.is_done for i in self._items.list_items())
        ):
            return []
        return self.feed({"type": "response.completed", "response": {}})

    # -- the response ---------------------------------------------------------------------------

    def _make_opening_events(self, event: Event) -> Batch:
        response = {
            **self.complete_response({"response": event.get("response")}),
            "status": "in_progress",
            "output": [],
        }
        return [{"type": f"response.{name}", "response": response} for name in
                ("created", "in_progress")]  # fmt: skip

    def _finish_response(self, kind: str) -> Json:
        response = {**self._response, "status": _STATUS_BY_EVENT[kind]}
        response["output"] = self._items.build_output(response.get("output") or [])
        if response.get("usage"):
            response["usage"] = complete_usage(response["usage"])
        return response

    # -- items ----------------------------------------------------------------------------------

    def _repair_item_event(self, kind: str, event: Event) -> Batch:
        if kind.startswith("response.output_item."):
            return self._repair_output_item(kind, event)
        stem, _, verb = kind.removeprefix("response.").rpartition(".")
        owner = _ITEM_TYPE_BY_STEM.get(stem)
        if verb not in ("delta", "done", "added") or owner is None:
            # The event keeps the id that its item had in its first event.
            known = self._items.get_item(event.get("output_index")) if "item_id" in event else None
            return [{**event, "item_id": known.json["id"]} if known else event]
        if stem == "reasoning_part":  # vLLM's name for content_part
            stem, event = "content_part", {**event, "type": f"response.content_part.{verb}"}
        if (event.get("part") or {}).get("type") == "reasoning_text":
            owner = "reasoning"
        item, events = self._find_or_add_item(owner, event)
        fixed = {**event, "item_id": item.json["id"], "output_index": item.index}
        events += self._announce_part(stem, item, fixed)
        if stem == "output_text":
            fixed.setdefault("logprobs", [])
        elif stem == "output_text.annotation":
            fixed["annotation"] = complete_citation(event.get("annotation") or {})
        elif stem == "content_part" and event.get("part"):
            fixed["part"] = complete_part(event["part"])
        if verb == "delta":
            item.append_text(str(event.get("delta") or ""))
        if item.held_events is not None:
            item.held_events.append(fixed)
            return []
        return [*events, fixed]

    def _repair_output_item(self, kind: str, event: Event) -> Batch:
        sent, index = event.get("item") or {}, event.get("output_index")
        item = self._items.find_item(sent.get("id"), index, str(sent.get("type")))
        events: Batch = []
        if item is None:
            item = self._items.add_item(index, sent, announced=True)
            events = [item.make_added_event()] if kind.endswith("done") else []
        fields = {k: v for k, v in complete_parts(sent).items() if k != "id"}
        item.json = overlay_fields(item.json, fields)
        if not kind.endswith("done"):
            return [*events, {**event, "output_index": item.index, "item": item.json}]
        return [*events, *item.release_events(), {**event, **item.make_done_event()}]

    def _find_or_add_item(self, kind: str, event: Event) -> tuple[RepairedItem, Batch]:
        index = event.get("output_index")
        item = self._items.find_item(event.get("item_id"), index, kind)
        if item is not None:
            return item, []
        new_item = {"type": kind, "id": event.get("item_id")}
        item = self._items.add_item(index, new_item, announced=False)
        return item, [] if item.held_events is not None else [item.make_added_event()]

    def _announce_part(self, stem: str, item: RepairedItem, event: Event) -> Batch:
        """Announce the part of a delta if the upstream did not."""
        if stem not in _PART_FIELDS and stem != "content_part":
            return []
        index = event.setdefault("content_index", 0)
        is_announced = index is None or index in item.announced_parts
        item.announced_parts.add(index)
        if is_announced or stem == "content_part":
            return []
        field, more = _PART_FIELDS[stem]
        where = {k: event[k] for k in ("item_id", "output_index", "content_index")}
        part = {"type": stem, field: "", **more}
        return [{"type": "response.content_part.added", **where, "part": part}]

    def _number_events(self, batch: Batch) -> Batch:
        first = self._sequence_number + 1
        self._sequence_number += len(batch)
        return [{**event, "sequence_number": first + i} for i, event in enumerate(batch)]


_RESPONSE_DEFAULTS: Json = {
    "object": "response",
    "model": "",
    "output": [],
    "parallel_tool_calls": True,
    "tool_choice": "auto",
    "tools": [],
    "status": "in_progress",
}
"""The required fields of a response besides its id and time."""


def complete_usage(usage: Json) -> Json | ResponsesUsage:
    """Add the counts that the SDK requires; also accepts chat's names."""
    if "prompt_tokens" in usage:
        return map_usage_to_responses(usage) or usage
    counts = {k: usage.get(k) or 0 for k in ("input_tokens", "output_tokens")}
    details = {
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens_details": {"reasoning_tokens": 0},
    }
    full = {k: overlay_fields(v, usage.get(k) or {}) for k, v in details.items()}
    total = usage.get("total_tokens") or sum(counts.values())
    return {**usage, **counts, **full, "total_tokens": total}
