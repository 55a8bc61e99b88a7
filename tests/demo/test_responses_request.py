from __future__ import annotations

from typing import Any, get_args, get_type_hints

import pytest
from openai.types.responses import response_input_item_param

from forwarder.core.errors import InvalidRequest, NotFound
from forwarder.demo.responses_request import ITEM_TYPES, read_prompt

USER = {"role": "user", "content": "hi there"}
TOOL = {"type": "function", "name": "add", "parameters": {"type": "object"}}
CALL = {"type": "function_call", "call_id": "c1", "name": "add", "arguments": "{}"}
RESULT = {"type": "function_call_output", "call_id": "c1", "output": "four"}
CUSTOM = {"type": "custom_tool_call", "call_id": "c2", "name": "patch", "input": "x"}
CUSTOM_RESULT = {"type": "custom_tool_call_output", "call_id": "c2", "output": "five"}


def request(*items: Any, **more: Any) -> dict[str, Any]:
    return {"model": "demo", "input": list(items) or "hi there", **more}


def test_a_string_is_what_the_user_said() -> None:
    prompt = read_prompt(request(instructions="be brief please"))
    assert (prompt.user_text, prompt.word_count) == ("hi there", 5)


def test_the_last_user_message_is_what_was_said() -> None:
    parts = [{"type": "input_text", "text": "what is"}, {"type": "input_image", "image_url": "x"}]
    spoken = {"type": "message", "role": "assistant", "content": [
        {"type": "output_text", "text": "ok", "annotations": []}
    ]}  # fmt: skip
    prompt = read_prompt(
        request(USER, spoken, {"type": "message", "role": "user", "content": parts})
    )
    assert prompt.user_text == "what is [input_image]"


def test_the_results_at_the_end_are_read_in_order() -> None:
    parts = {**CUSTOM_RESULT, "output": [{"type": "input_text", "text": "five"}]}
    assert read_prompt(request(USER, CALL, CUSTOM, RESULT, parts)).tool_results == ("four", "five")


def test_results_of_client_tools_are_results_too() -> None:
    shell = {"type": "local_shell_call_output", "id": "c", "output": '{"stdout": "x"}'}
    screen = {"type": "computer_call_output", "output": {"type": "computer_screenshot"}}
    assert read_prompt(request(USER, shell)).tool_results == ('{"stdout": "x"}',)
    assert read_prompt(request(USER, screen)).tool_results == ("[computer_screenshot]",)


def test_results_before_a_new_user_message_are_history() -> None:
    assert read_prompt(request(USER, CALL, RESULT, USER)).tool_results == ()


def test_tools_may_come_with_the_request_or_among_the_items() -> None:
    more = {"type": "additional_tools", "role": "developer", "tools": [TOOL]}
    with_request, among_items = (
        read_prompt(request(tools=[TOOL])).tool,
        read_prompt(request(more, USER)).tool,
    )
    assert with_request
    assert among_items
    assert with_request.param == "tools[0].parameters"
    assert among_items.param == "input[0].tools[0].parameters"


def test_no_effort_is_no_thought() -> None:
    assert not read_prompt(request(reasoning={"effort": "none"})).includes_reasoning
    assert read_prompt(request(reasoning={"effort": "low"})).includes_reasoning


def test_the_format_is_read_in_its_flat_form() -> None:
    wanted = {"type": "json_schema", "name": "n", "schema": {"const": 1}}
    form = read_prompt(request(text={"format": wanted})).format
    assert form
    assert form.schema == {"const": 1}


def test_null_and_unknown_parameters_are_let_through() -> None:
    assert (
        read_prompt(request(temperature=None, tools=None, presence_penalty=1)).user_text
        == "hi there"
    )


def test_every_item_type_of_the_sdk_is_known() -> None:
    known: set[str] = set()
    for item in get_args(response_input_item_param.ResponseInputItemParam):
        kind = get_type_hints(item).get("type")
        known |= _strings(kind)
    assert known == set(ITEM_TYPES)


def _strings(hint: Any) -> set[str]:
    if isinstance(hint, str):
        return {hint}
    return {name for inner in get_args(hint) for name in _strings(inner)}


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"input": "hi"}, "model"),
        ({"model": "demo"}, "input"),
        ({"model": "demo", "input": 3}, "input"),
        (request("hi"), "input[0]"),
        (request({"content": "hi"}), "input[0].type"),
        (request({"type": "text"}), "input[0].type"),
        (request({"role": "tool", "content": "hi"}), "input[0].role"),
        (request({"role": "user"}), "input[0].content"),
        (request({**USER, "content": [{"type": "text"}]}), "input[0].content[0].type"),
        (
            request({"role": "assistant", "content": [{"type": "input_text", "text": "x"}]}),
            "input[0].content[0].type",
        ),
        (request(USER, {**CALL, "arguments": {}}, RESULT), "input[1].arguments"),
        (request(USER, CALL, {**RESULT, "output": {}}), "input[2].output"),
        (request(USER, CALL), "input"),
        (request(USER, RESULT), "input"),
        (request(USER, CALL, RESULT, RESULT), "input"),
        (request(USER, CALL, {**CUSTOM_RESULT, "call_id": "c1"}), "input"),
        (request(max_output_tokens=15), "max_output_tokens"),
        (request(temperature="hot"), "temperature"),
        (request(previous_response_id="resp_1"), "previous_response_id"),
        (request(tool_choice="required"), "tool_choice"),
        (request(tools=[{"type": "function", "function": {"name": "nested"}}]), "tools[0].name"),
        (request(text={"format": {"type": "json_schema", "name": 1}}), "text.format.name"),
        (request(text={"format": "json"}), "text.format"),
    ],
)
def test_a_bad_request_is_refused_by_its_place(body: Any, param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read_prompt(body)
    assert caught.value.param == param


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (request(USER, conversation="conv_1"), "conversation"),
        (request({"type": "item_reference", "id": "msg_1"}), "input"),
    ],
)
def test_what_would_need_a_memory_is_not_found(body: Any, param: str) -> None:
    with pytest.raises(NotFound) as caught:
        read_prompt(body)
    assert caught.value.param == param
