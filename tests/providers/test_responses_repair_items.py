"""Items that are not all there."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from forwarder.core.ids import Mint
from forwarder.providers.responses_repair_items import Items, over

CALL = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}


@pytest.fixture
def items() -> Items:
    numbers = itertools.count(1)
    return Items(Mint(lambda prefix: f"{prefix}_{next(numbers)}", lambda: 1))


def test_a_null_does_not_hide_what_must_be_there() -> None:
    assert over({"a": 1, "b": None}, {"a": None, "b": None, "c": None}) == {
        "a": 1,
        "b": None,
        "c": None,
    }


@pytest.mark.parametrize(
    ("item_id", "index", "kind", "found"),
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
def test_an_item_is_found_by_index_id_or_kind(
    items: Items, item_id: Any, index: Any, kind: str, found: int | None
) -> None:
    items.begin(None, {"type": "message"}, announced=True)
    items.begin(None, CALL, announced=True)
    item = items.find(item_id, index, kind)
    assert (item.index if item else None) == found


def test_an_index_that_is_taken_is_not_given_twice(items: Items) -> None:
    places = [items.begin(index, {"type": "message"}, True).index for index in (0, 0, 5, None)]
    assert places == [0, 1, 5, 6]


def test_a_call_waits_until_it_is_known_whose_it_is(items: Items) -> None:
    item = items.begin(0, {"type": "function_call"}, announced=False)
    assert item.held == []
    item.held.append({"type": "delta"})
    item.json = over(item.json, CALL)
    added, delta = item.released()
    assert added["item"]["call_id"] == "c"
    assert added["item"]["arguments"] == ""
    assert delta == {"type": "delta"}
    assert item.released() == []


def test_what_was_never_closed_is_closed_with_what_came(items: Items) -> None:
    message = items.begin(0, {"type": "message"}, announced=True)
    call = items.begin(1, {**CALL, "arguments": ""}, announced=True)
    for item, text in ((message, "Hi"), (call, '{"a":1}')):
        item.grow(text)
        assert item.close()[-1]["type"] == "response.output_item.done"
        assert item.done
        assert item.json["status"] == "completed"
    assert message.json["content"][0]["text"] == "Hi"
    assert call.json["arguments"] == '{"a":1}'


def test_the_output_has_the_ids_that_the_items_went_by(items: Items) -> None:
    items.begin(0, CALL, announced=True)
    assert items.output([{**CALL, "id": "other"}])[0]["id"] == "fc_1"
    assert items.output([])[0]["id"] == "fc_1"
    assert items.output([{"type": "message"}])[0]["id"] == "msg_2"
