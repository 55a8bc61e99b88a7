"""Fields that are only shown if ``include`` asks for them."""

from __future__ import annotations

from copy import deepcopy
from typing import Any, get_args

import pytest
from openai.types.responses import ResponseIncludable

from forwarder.core.errors import InvalidRequest
from forwarder.storage.include_filter import (
    HIDDEN_FIELDS,
    IncludeFilter,
    hide_batch_reasoning,
    hide_event_reasoning,
    wants_encrypted_reasoning,
)
from tests.helpers.check_cases import check_each

Json = dict[str, Any]

ITEMS_AND_FILTERED: dict[str, tuple[Json, Json]] = {
    "file_search_call.results": (
        {"type": "file_search_call", "id": "fs", "results": [{"text": "x"}]},
        {"type": "file_search_call", "id": "fs", "results": None},
    ),
    "web_search_call.results": (
        {"type": "web_search_call", "id": "ws", "results": [1], "action": {"query": "q"}},
        {"type": "web_search_call", "id": "ws", "action": {"query": "q"}},
    ),
    "web_search_call.action.sources": (
        {"type": "web_search_call", "action": {"query": "q", "sources": [{"url": "u"}]}},
        {"type": "web_search_call", "action": {"query": "q"}},
    ),
    "message.input_image.image_url": (
        {"role": "user", "content": [{"type": "input_image", "image_url": "u", "detail": "low"}]},
        {"role": "user", "content": [{"type": "input_image", "image_url": None, "detail": "low"}]},
    ),
    "computer_call_output.output.image_url": (
        {"type": "computer_call_output", "output": {"file_id": "f", "image_url": "u"}},
        {"type": "computer_call_output", "output": {"file_id": "f"}},
    ),
    "code_interpreter_call.outputs": (
        {"type": "code_interpreter_call", "code": "1", "outputs": [{"logs": "1"}]},
        {"type": "code_interpreter_call", "code": "1", "outputs": None},
    ),
    "reasoning.encrypted_content": (
        {"type": "reasoning", "summary": [], "encrypted_content": "sealed"},
        {"type": "reasoning", "summary": []},
    ),
    "message.output_text.logprobs": (
        {"type": "message", "content": [{"type": "output_text", "text": "x", "logprobs": [{}]}]},
        {"type": "message", "content": [{"type": "output_text", "text": "x", "logprobs": []}]},
    ),
}
"""What can be asked for -> an item with it, and without it."""

PLAIN: list[Json] = [
    {"role": "user", "content": "hi"},
    {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "x"}]},
    {"type": "function_call_output", "output": "reasoning.encrypted_content"},
    {"type": "file_search_call", "id": "fs"},
    {"type": "web_search_call", "action": None},
    {"type": "something", "results": [1], "outputs": [2], "encrypted_content": "x"},
]


def test_all_include_values_are_supported() -> None:
    assert set(ITEMS_AND_FILTERED) == set(HIDDEN_FIELDS) == set(get_args(ResponseIncludable))


@check_each("name", ITEMS_AND_FILTERED)
@check_each("key", ["include", "include[]", "include[0]"])
def test_included_field_is_shown(name: str, key: str) -> None:
    item, filtered = ITEMS_AND_FILTERED[name]
    before = deepcopy(item)
    others = [(key, other) for other in ITEMS_AND_FILTERED if other != name]

    assert IncludeFilter([("stream", "true"), (key, name)]).filter_item(item) == item
    assert IncludeFilter([]).filter_item(item) == filtered
    assert IncludeFilter(others).filter_item(item) == filtered
    assert item == before


@check_each("item", PLAIN)
def test_other_fields_are_always_shown(item: Json) -> None:
    assert IncludeFilter([]).filter_item(item) == item


def test_responses_and_events_are_filtered_alike() -> None:
    item, filtered = ITEMS_AND_FILTERED["reasoning.encrypted_content"]
    logged, text = ({"type": "output_text", "text": "x", "logprobs": p} for p in ([{}], []))
    events: list[tuple[Json, Json]] = [
        (
            {"type": "a", "response": {"output": [item]}},
            {"type": "a", "response": {"output": [filtered]}},
        ),
        ({"type": "b", "item": item}, {"type": "b", "item": filtered}),
        ({"type": "c", "part": logged}, {"type": "c", "part": text}),
        (
            {"type": "d", "delta": "x", "logprobs": [{}]},
            {"type": "d", "delta": "x", "logprobs": []},
        ),
        ({"type": "e", "delta": "x"}, {"type": "e", "delta": "x"}),
    ]
    batch, expected = ([pair[i] for pair in events] for i in (0, 1))

    assert IncludeFilter([]).filter_batch(batch) == expected
    assert (
        IncludeFilter([("include", name) for name in ITEMS_AND_FILTERED]).filter_batch(batch)
        == batch
    )
    assert IncludeFilter([]).filter_response({"output": [item], "id": "r"}) == {
        "output": [filtered],
        "id": "r",
    }


def test_unknown_include_value_is_rejected() -> None:
    query = [("include[]", "reasoning.encrypted_content"), ("include[]", "reasoning.everything")]
    with pytest.raises(InvalidRequest) as refused:
        IncludeFilter(query)
    assert (refused.value.param, refused.value.code) == ("include[1]", "invalid_value")
    assert "message.output_text.logprobs" in refused.value.message


def test_only_own_encrypted_reasoning_is_hidden() -> None:
    expected = {"type": "reasoning", "id": "rs", "summary": [{"text": "Hm."}]}
    own_reasoning = {**expected, "encrypted_content": "fwd1.x"}
    without_summary = {
        "type": "reasoning",
        "id": "rs",
        "summary": [],
        "encrypted_content": "fwd1.x",
    }
    others = [
        {"type": "reasoning", "id": "rs", "encrypted_content": "gAAAA"},
        {"type": "compaction", "id": "cmp", "encrypted_content": "fwd1.x"},
    ]
    event = {
        "type": "response.completed",
        "response": {"output": [own_reasoning, *others, without_summary]},
    }
    filtered = {"type": "response.completed", "response": {"output": [expected, *others]}}

    assert hide_batch_reasoning([event, {"type": "x"}]) == [filtered, {"type": "x"}]
    assert hide_event_reasoning(filtered) is filtered
    assert IncludeFilter([]).filter_response({"output": [own_reasoning, without_summary]}) == {
        "output": [expected]
    }
    assert event["response"] == {"output": [own_reasoning, *others, without_summary]}


@check_each(
    ("include", "expected"),
    [(None, False), ("odd", False), ([], False), (["reasoning.encrypted_content"], True)],
)
def test_included_encrypted_reasoning_is_shown(include: Any, expected: bool) -> None:
    assert wants_encrypted_reasoning({"include": include}) is expected
