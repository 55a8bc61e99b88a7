"""Input items: a string as one message, and references to earlier items and responses."""

from __future__ import annotations

from typing import Any, get_args

import pytest
from openai.types.responses import ResponseInputItem

from forwarder.core.errors import InvalidRequest
from forwarder.core.types import Json
from forwarder.protocols.input_items import (
    CLIENT_CALLS,
    list_item_references,
    make_previous_response_error,
    read_input_items,
    read_plain_text,
    replace_item_references,
)
from tests.helpers.check_cases import check_each

SDK_ITEM_TYPES = {
    name
    for model in get_args(get_args(ResponseInputItem)[0])
    for name in get_args(model.model_fields["type"].annotation)
}
PROGRAM_OUTPUT = "program_output"
"""The only output in the SDK that is not of a client's tool."""

ITEM: Json = {"type": "message", "role": "assistant", "id": "msg_1", "content": "three"}


def test_input_is_read_as_items() -> None:
    items = [ITEM]
    assert read_input_items(items) is items
    assert read_input_items(None) == []
    assert read_input_items("hi") == [{"type": "message", "role": "user", "content": "hi"}]


def test_every_output_of_the_sdk_belongs_to_a_call_of_the_client() -> None:
    outputs = {name for name in SDK_ITEM_TYPES if str(name).endswith("_output")}
    assert outputs - {PROGRAM_OUTPUT} == {*CLIENT_CALLS.values()}
    assert CLIENT_CALLS.keys() <= SDK_ITEM_TYPES


@check_each("value", [5, True, {"role": "user"}])
def test_input_of_another_type_is_rejected(value: Any) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read_input_items(value)
    assert (caught.value.param, caught.value.code) == ("input", "invalid_type")


def make_answer(**changes: Any) -> Json:
    part = {"type": "output_text", "text": "three", "annotations": [], **changes}
    return {**ITEM, "status": "completed", "content": [part]}


@check_each(
    "item",
    [
        {"role": "user", "content": "three"},
        {"type": "message", "role": "system", "content": "three"},
        {"role": "user", "content": [{"type": "input_text", "text": "three"}]},
        ITEM,
        make_answer(),
        make_answer(logprobs=[]),
    ],
)
def test_message_with_nothing_but_a_text_is_plain(item: Json) -> None:
    assert read_plain_text(item) == "three"


@check_each(
    "item",
    [
        {"type": "reasoning", "id": "rs_1", "content": "three"},
        {"role": "tool", "content": "three"},
        {"role": ["user"], "content": "three"},
        {"role": "user", "content": None},
        {"role": "user", "content": []},
        {"role": "user", "content": ["three"]},
        {"role": "user", "content": [{"type": "input_text", "text": 3}]},
        {"role": "user", "content": [{"type": "output_text", "text": "three"}]},
        {"role": "user", "content": [{"type": "input_text", "text": "three"}] * 2},
        {**ITEM, "id": 5},
        {**ITEM, "phase": "commentary"},
        {**ITEM, "type": None},
        make_answer(annotations=[{"type": "url_citation"}]),
        make_answer(logprobs=[{"token": "three"}]),
        make_answer(cache=True),
        make_answer(type="refusal"),
    ],
)
def test_message_with_more_than_a_text_is_not_plain(item: Json) -> None:
    assert read_plain_text(item) is None


def test_references_are_found_and_replaced() -> None:
    named = {"id": "mine", "role": "user", "content": "two"}
    items = [{"type": "item_reference", "id": "a"}, {"id": "b"}, {"id": "c", "type": None}, named,
             {"id": 5}, 5, {"type": "item_reference"}]  # fmt: skip
    assert list_item_references(items) == ["a", "b", "c"]
    assert list_item_references("text") == []
    assert replace_item_references(items, {"a": ITEM}) == [ITEM, *items[1:]]


def test_error_for_an_unknown_response_names_it_and_the_reason() -> None:
    error = make_previous_response_error("resp_" + "1" * 500, "Nothing is stored.")
    assert error.message.startswith("Previous response with id 'resp_111")
    assert error.message.endswith("…' not found. Nothing is stored.")
    assert (error.param, error.code) == ("previous_response_id", "previous_response_not_found")
