"""Incomplete output items."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from forwarder.core.ids import IdSource
from forwarder.providers.responses_repair_items import RepairedItems, overlay_fields

CALL = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}


@pytest.fixture
def items() -> RepairedItems:
    numbers = itertools.count(1)
    return RepairedItems(IdSource(lambda prefix: f"{prefix}_{next(numbers)}", lambda: 1))


def test_overlay_fields_ignores_nulls() -> None:
    assert overlay_fields({"a": 1, "b": None}, {"a": None, "b": None, "c": None}) == {
        "a": 1,
        "b": None,
        "c": None,
    }


@pytest.mark.parametrize(
    ("item_id", "index", "kind", "expected"),
    [
        (None, 0, "message", 0),
        ("msg_1", None, "message", 0),
        ("fc_2", None, "function_call", 1),
        (None, None, "function_call", 1),
        ("fc_9", None, "function_call", None),
        (None, 0, "function_call", None),
        (None, 7, "reasoning", None),
    ],
)
def test_find_item(
    items: RepairedItems, item_id: Any, index: Any, kind: str, expected: int | None
) -> None:
    items.add_item(None, {"type": "message"}, announced=True)
    items.add_item(None, CALL, announced=True)
    item = items.find_item(item_id, index, kind)
    assert (item.index if item else None) == expected


def test_add_item_at_used_index(items: RepairedItems) -> None:
    indexes = [items.add_item(index, {"type": "message"}, True).index for index in (0, 0, 5, None)]
    assert indexes == [0, 1, 5, 6]


def test_unannounced_call_holds_its_events(items: RepairedItems) -> None:
    item = items.add_item(0, {"type": "function_call"}, announced=False)
    assert item.held_events == []
    item.held_events.append({"type": "delta"})
    item.json = overlay_fields(item.json, CALL)
    added, delta = item.release_events()
    assert added["item"]["call_id"] == "c"
    assert added["item"]["arguments"] == ""
    assert delta == {"type": "delta"}
    assert item.release_events() == []


def test_close_uses_text_of_deltas(items: RepairedItems) -> None:
    message = items.add_item(0, {"type": "message"}, announced=True)
    call = items.add_item(1, {**CALL, "arguments": ""}, announced=True)
    for item, text in ((message, "Hi"), (call, '{"a":1}')):
        item.append_text(text)
        assert item.close()[-1]["type"] == "response.output_item.done"
        assert item.is_done
        assert item.json["status"] == "completed"
    assert message.json["content"][0]["text"] == "Hi"
    assert call.json["arguments"] == '{"a":1}'


def test_build_output_keeps_stream_ids(items: RepairedItems) -> None:
    items.add_item(0, CALL, announced=True)
    assert items.build_output([{**CALL, "id": "other"}])[0]["id"] == "fc_1"
    assert items.build_output([])[0]["id"] == "fc_1"
    assert items.build_output([{"type": "message"}])[0]["id"] == "msg_2"
