"""References to recent items: ownership and eviction."""

from __future__ import annotations

from typing import Any

import pytest

from forwarder.core.errors import TooLarge
from forwarder.core.stored_data_limit import RequestLimits
from forwarder.core.types import EventStream
from forwarder.middleware.item_reference_cache import RecentItems
from tests.helpers.check_cases import check_each

Json = dict[str, Any]


class ItemUpstream:
    """A Responses handler that records its requests and answers with items."""

    def __init__(self, *items: Json, kind: str = "response.completed") -> None:
        self.requests: list[Json] = []
        self._batches = [
            [{"type": "response.created", "response": {}}],
            [],
            [{"type": kind, "response": {"output": list(items)}}],
        ]

    def __call__(self, request: Json) -> EventStream:
        self.requests.append(request)
        return iter(self._batches)


ITEM = {"type": "message", "id": "msg_1", "role": "assistant", "content": [{"text": "Hi"}]}
REFERENCE = {"type": "item_reference", "id": "msg_1"}


def store_answer(memory: RecentItems, key: str | None = "k", *items: Json, **request: Any) -> None:
    """Send a request with ``key`` whose answer has these items."""
    list(
        memory.with_recent_items(ItemUpstream(*(items or (ITEM,))), key)({"input": "hi", **request})
    )


def resolve_input(memory: RecentItems, key: str | None, *items: Json) -> list[Json]:
    """The input that the upstream receives for a request with these items."""
    upstream = ItemUpstream()
    list(memory.with_recent_items(upstream, key)({"input": list(items)}))
    resolved: list[Json] = upstream.requests[0]["input"]
    return resolved


@check_each("reference", [REFERENCE, {"id": "msg_1"}])
def test_reference_is_replaced_by_the_item(reference: Json) -> None:
    memory = RecentItems()
    store_answer(memory)

    message = {"role": "user", "content": "hi"}
    assert resolve_input(memory, "k", message, reference, message) == [message, ITEM, message]


@check_each("kind", ["response.completed", "response.incomplete", "response.failed"])
def test_items_of_every_terminal_event_are_stored(kind: str) -> None:
    memory = RecentItems()
    list(memory.with_recent_items(ItemUpstream(ITEM, kind=kind), None)({"input": "hi"}))

    assert resolve_input(memory, None, REFERENCE) == [ITEM]


@check_each(("storing_key", "requesting_key"), [("k", "other"), ("k", None), (None, "k")])
def test_items_are_separate_for_each_key(
    storing_key: str | None, requesting_key: str | None
) -> None:
    memory = RecentItems()
    store_answer(memory, storing_key)

    assert resolve_input(memory, requesting_key, REFERENCE) == [REFERENCE]


def test_store_false_prevents_caching() -> None:
    memory = RecentItems()
    store_answer(memory, "k", store=False)

    assert resolve_input(memory, "k", REFERENCE) == [REFERENCE]


def test_stream_passes_unchanged() -> None:
    upstream = ItemUpstream(ITEM)

    assert list(RecentItems().with_recent_items(upstream, "k")({"input": "hi"})) == list(
        ItemUpstream(ITEM)({})
    )


@check_each("input_value", ["hi", None, 5, [], ["msg_1"], [{"role": "user", "id": "msg_1"}]])
def test_requests_without_references_are_unchanged(input_value: Any) -> None:
    memory, upstream = RecentItems(), ItemUpstream()
    store_answer(memory)
    request = {"input": input_value}

    list(memory.with_recent_items(upstream, "k")(request))

    assert upstream.requests[0] is request


def test_oldest_items_are_evicted_first() -> None:
    memory = RecentItems(max_bytes=200)
    for number in range(3):
        store_answer(memory, "k", {**ITEM, "id": f"msg_{number}"})

    resolved = resolve_input(memory, "k", *({"id": f"msg_{number}"} for number in range(3)))

    assert [item.get("role") for item in resolved] == [None, "assistant", "assistant"]


def test_repeated_item_counts_once() -> None:
    memory = RecentItems(max_bytes=200)
    other = {**ITEM, "id": "msg_2"}
    store_answer(memory, "k", other)
    for _ in range(20):
        store_answer(memory)

    assert resolve_input(memory, "k", {"id": "msg_2"}) == [other]


def test_each_reference_counts_towards_the_limit() -> None:
    memory = RecentItems(limits=RequestLimits(1000, 1000))
    store_answer(memory)
    assert resolve_input(memory, "k", *[REFERENCE] * 3) == [ITEM] * 3
    with pytest.raises(TooLarge, match="FORWARDER_MAX_BODY"):
        resolve_input(memory, "k", *[REFERENCE] * 15)
