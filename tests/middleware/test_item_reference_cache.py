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


class Answering:
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
    """Let a client of ``key`` get an answer with these items."""
    list(memory.with_recent_items(Answering(*(items or (ITEM,))), key)({"input": "hi", **request}))


def resolve_input(memory: RecentItems, key: str | None, *items: Json) -> list[Json]:
    """The input that a request with these items reaches the upstream with."""
    call = Answering()
    list(memory.with_recent_items(call, key)({"input": list(items)}))
    given: list[Json] = call.requests[0]["input"]
    return given


@check_each("reference", [REFERENCE, {"id": "msg_1"}])
def test_reference_is_replaced_by_the_item(reference: Json) -> None:
    memory = RecentItems()
    store_answer(memory)

    said = {"role": "user", "content": "hi"}
    assert resolve_input(memory, "k", said, reference, said) == [said, ITEM, said]


@check_each("kind", ["response.completed", "response.incomplete", "response.failed"])
def test_items_of_every_terminal_event_are_kept(kind: str) -> None:
    memory = RecentItems()
    list(memory.with_recent_items(Answering(ITEM, kind=kind), None)({"input": "hi"}))

    assert resolve_input(memory, None, REFERENCE) == [ITEM]


@check_each(("teller", "asker"), [("k", "other"), ("k", None), (None, "k")])
def test_items_are_separate_for_each_key(teller: str | None, asker: str | None) -> None:
    memory = RecentItems()
    store_answer(memory, teller)

    assert resolve_input(memory, asker, REFERENCE) == [REFERENCE]


def test_store_false_prevents_remembering() -> None:
    memory = RecentItems()
    store_answer(memory, "k", store=False)

    assert resolve_input(memory, "k", REFERENCE) == [REFERENCE]


def test_stream_passes_unchanged() -> None:
    call = Answering(ITEM)

    assert list(RecentItems().with_recent_items(call, "k")({"input": "hi"})) == list(
        Answering(ITEM)({})
    )


@check_each("given", ["hi", None, 5, [], ["msg_1"], [{"role": "user", "id": "msg_1"}]])
def test_requests_without_references_are_unchanged(given: Any) -> None:
    memory, call = RecentItems(), Answering()
    store_answer(memory)
    request = {"input": given}

    list(memory.with_recent_items(call, "k")(request))

    assert call.requests[0] is request


def test_oldest_items_are_evicted_first() -> None:
    memory = RecentItems(max_bytes=200)
    for number in range(3):
        store_answer(memory, "k", {**ITEM, "id": f"msg_{number}"})

    kept = resolve_input(memory, "k", *({"id": f"msg_{number}"} for number in range(3)))

    assert [item.get("role") for item in kept] == [None, "assistant", "assistant"]


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
