"""Input items: a string as one message, and references to earlier items and responses."""

from __future__ import annotations

from typing import Any

import pytest

from forwarder.core.errors import InvalidRequest
from forwarder.core.types import Json
from forwarder.protocols.input_items import (
    list_item_references,
    previous_response_not_found,
    read_input_items,
    replace_item_references,
)
from tests.helpers.check_cases import check_each

ITEM: Json = {"type": "message", "role": "assistant", "id": "msg_1", "content": "three"}


def test_input_is_read_as_items() -> None:
    items = [ITEM]
    assert read_input_items(items) is items
    assert read_input_items(None) == []
    assert read_input_items("hi") == [{"type": "message", "role": "user", "content": "hi"}]


@check_each("value", [5, True, {"role": "user"}])
def test_input_of_another_type_is_rejected(value: Any) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read_input_items(value)
    assert (caught.value.param, caught.value.code) == ("input", "invalid_type")


def test_references_are_found_and_replaced() -> None:
    named = {"id": "mine", "role": "user", "content": "two"}
    items = [{"type": "item_reference", "id": "a"}, {"id": "b"}, {"id": "c", "type": None}, named,
             {"id": 5}, 5, {"type": "item_reference"}]  # fmt: skip
    assert list_item_references(items) == ["a", "b", "c"]
    assert list_item_references("text") == []
    assert replace_item_references(items, {"a": ITEM}) == [ITEM, *items[1:]]


def test_error_for_an_unknown_response_names_it_and_the_reason() -> None:
    error = previous_response_not_found("resp_" + "1" * 500, "Nothing is stored.")
    assert error.message.startswith("Previous response with id 'resp_111")
    assert error.message.endswith("…' not found. Nothing is stored.")
    assert (error.param, error.code) == ("previous_response_id", "previous_response_not_found")
