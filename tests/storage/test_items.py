"""Validation and rendering of items."""

from __future__ import annotations

from typing import Any

import pytest
from openai.types.responses import ResponseItem
from pydantic import TypeAdapter

from forwarder.core.errors import InvalidRequest
from forwarder.storage.items import check_items, derive_id, parse_derived_id, render_item, to_items
from tests.helpers.check_cases import check_each

INPUT_ITEMS: list[Any] = [
    {"role": "user", "content": "hi"},
    {"role": "assistant", "content": "hello"},
    {"type": "message", "role": "user", "content": [{"type": "input_image", "image_url": "u"}]},
    {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "x"}]},
    {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
    {"type": "function_call_output", "call_id": "c", "output": "done"},
    {"type": "custom_tool_call", "call_id": "c", "name": "f", "input": "x"},
    {"type": "custom_tool_call_output", "call_id": "c", "output": "done"},
    {"type": "computer_call", "call_id": "c", "pending_safety_checks": []},
    {"type": "reasoning", "encrypted_content": "sealed"},
]


def make_message(*parts: Any, role: str = "user") -> list[Any]:
    return [{"role": role, "content": [*parts]}]


@check_each("item", INPUT_ITEMS, ids=lambda i: f"{i.get('type')}-{i.get('role')}")
def test_rendered_items_are_complete(item: Any) -> None:
    rendered = render_item(item, derive_id(item, "resp_1", 0))

    TypeAdapter(ResponseItem).validate_python(rendered, strict=True)
    assert render_item({**item, "id": "own"}, "other")["id"] == "own"


@check_each(
    ("content", "parts"),
    [
        (["hi"], [{"type": "input_text", "text": "hi"}]),
        ([5, None, {"type": "input_text", "text": "hi"}], [{"type": "input_text", "text": "hi"}]),
        (5, []),
        ({"type": "input_text"}, []),
    ],
)
def test_malformed_content_is_rendered(content: Any, parts: Any) -> None:
    assert render_item({"role": "user", "content": content}, "msg_1")["content"] == parts


def test_id_that_is_not_a_text_is_replaced() -> None:
    assert render_item({"role": "user", "content": "hi", "id": 7}, "msg_1")["id"] == "msg_1"


def test_derived_id_is_stable() -> None:
    user, call = INPUT_ITEMS[0], INPUT_ITEMS[4]
    assert derive_id(user, "a", 1) == derive_id(user, "a", 1)
    assert len({derive_id(user, holder, n) for holder in "ab" for n in range(3)}) == 6
    assert derive_id(user, "a", 1).startswith("msg_")
    assert derive_id(call, "a", 1).startswith("fc_")


def test_derived_id_encodes_the_position() -> None:
    for holder in ("resp_" + "0" * 32, "resp_a-b", "chatcmpl-7"):
        holders, position = parse_derived_id(derive_id(INPUT_ITEMS[0], holder, 12))
        assert (holder in holders, position) == (True, 12)
    assert parse_derived_id("msg_" + "0" * 32)[0] == []


def test_string_input_is_a_user_message() -> None:
    assert to_items("hi") == [{"type": "message", "role": "user", "content": "hi"}]
    assert to_items(None) == []
    assert to_items(INPUT_ITEMS) is INPUT_ITEMS


@check_each(
    ("items", "path"),
    [
        (5, "items"),
        ([5], "items[0]"),
        ([{}], "items[0].type"),
        ([{"type": "nothing"}], "items[0].type"),
        ([{"type": "item_reference", "id": "x"}], "items[0].type"),
        ([{"role": "king", "content": ""}], "items[0].role"),
        ([{"role": "user"}], "items[0].content"),
        ([{"role": "user", "content": [{}]}], "items[0].content[0].type"),
        ([INPUT_ITEMS[0], {**INPUT_ITEMS[0], "id": 5}], "items[1].id"),
        ([INPUT_ITEMS[0], {**INPUT_ITEMS[0], "id": ""}], "items[1].id"),
        ([INPUT_ITEMS[0], {**INPUT_ITEMS[0], "id": "a/b"}], "items[1].id"),
        ([{**INPUT_ITEMS[0], "id": "x" * 257}], "items[0].id"),
        ([INPUT_ITEMS[0]] * 4, "items"),
        ([{"type": "function_call"}], "items[0].call_id"),
        ([INPUT_ITEMS[0], {"type": "function_call", "call_id": "c"}], "items[1].name"),
        ([{**INPUT_ITEMS[4], "arguments": {}}], "items[0].arguments"),
        ([{"type": "function_call_output", "output": "x"}], "items[0].call_id"),
        ([{"type": "function_call_output", "call_id": "c"}], "items[0].output"),
        ([{**INPUT_ITEMS[5], "output": [{"type": "no"}]}], "items[0].output[0].type"),
        ([{"type": "shell_call", "call_id": "c", "action": "ls"}], "items[0].action"),
        ([{"type": "apply_patch_call_output", "call_id": "c"}], "items[0].status"),
        ([{"type": "reasoning", "summary": [{}]}], "items[0].summary[0].text"),
        ([{"type": "compaction"}], "items[0].encrypted_content"),
        ([{"type": "configuration_update", "reasoning": 5}], "items[0].reasoning"),
        ([{"type": "additional_tools", "tools": [5]}], "items[0].tools[0]"),
        (make_message({"type": "nonsense"}), "items[0].content[0].type"),
        (make_message({"type": "input_text"}), "items[0].content[0].text"),
        (make_message({"type": "input_image"}), "items[0].content[0].image_url"),
        (make_message({"type": "input_image", "image_url": 5}), "items[0].content[0].image_url"),
        (
            make_message({"type": "input_image", "image_url": "data:oops"}),
            "items[0].content[0].image_url",
        ),
        (
            make_message({"type": "input_image", "image_url": "data:text/plain;base64,aGk="}),
            "items[0].content[0].image_url",
        ),
        (make_message({"type": "input_file", "file_data": "@"}), "items[0].content[0].file_data"),
        (make_message({"type": "input_file", "filename": "a"}), "items[0].content[0].file_url"),
        (
            make_message({"type": "input_image", "image_url": "https://x/y"}, role="system"),
            "items[0].content[0].type",
        ),
        (
            make_message({"type": "input_image", "image_url": "https://x/y"}, role="assistant"),
            "items[0].content[0].type",
        ),
        (
            make_message({"type": "input_image", "file_id": "file-1"}, {"type": "nonsense"}),
            "items[0].content[1].type",
        ),
    ],
)
def test_invalid_item_is_rejected(items: Any, path: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        check_items(items, "items", 3)
    assert refused.value.param == path


def test_valid_items_are_accepted() -> None:
    assert check_items(INPUT_ITEMS, "items", 20) == INPUT_ITEMS


@check_each(
    "item",
    [
        *make_message({"type": "input_image", "image_url": "data:image/png;base64,iVBORw0KGgo="}),
        *make_message({"type": "input_image", "file_id": "file-1", "image_url": None}),
        *make_message({"type": "input_file", "file_url": "https://x/a.pdf"}),
        *make_message({"type": "input_file", "file_data": "JVBERi0xLjQ=", "filename": "a.pdf"}),
        *make_message({"type": "refusal", "refusal": "no"}, role="assistant"),
        {**INPUT_ITEMS[5], "output": [{"type": "input_image", "image_url": "https://x/a.png"}]},
        {"type": "shell_call_output", "call_id": "c", "output": []},
        {"type": "local_shell_call_output", "id": "c", "output": "x"},
        {"type": "web_search_call", "id": "ws_1", "status": "completed"},
        {"type": "computer_call_output", "call_id": "c",
         "output": {"type": "computer_screenshot", "image_url": "https://x/a.png"}},
        {"type": "compaction", "encrypted_content": "sealed elsewhere"},
        {"type": "configuration_update", "reasoning": {"effort": "low"}},
        {"type": "image_generation_call", "id": "ig_1", "result": None},
    ],
)  # fmt: skip
def test_item_types_are_validated(item: Any) -> None:
    assert check_items([item], "items", 20) == [item]
