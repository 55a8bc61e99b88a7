from __future__ import annotations

from typing import Any, get_args, get_type_hints

import pytest
from openai.types.responses import Response, ResponseStreamEvent, response_input_item_param
from pydantic import TypeAdapter

from forwarder.core.errors import InvalidRequest, NotFound
from forwarder.demo import responses
from forwarder.demo.answer import DemoAnswer, DemoPrompt, make_answer
from forwarder.demo.options import OfferedTool
from forwarder.demo.responses import ITEM_TYPES, read_prompt
from tests.helpers.check_cases import check_each

USER = {"role": "user", "content": "hi there"}
TOOL = {"type": "function", "name": "add", "parameters": {"type": "object"}}
CALL = {"type": "function_call", "call_id": "c1", "name": "add", "arguments": "{}"}
RESULT = {"type": "function_call_output", "call_id": "c1", "output": "four"}
CUSTOM_CALL = {"type": "custom_tool_call", "call_id": "c2", "name": "patch", "input": "x"}
CUSTOM_RESULT = {"type": "custom_tool_call_output", "call_id": "c2", "output": "five"}


def make_request(*items: Any, **more: Any) -> dict[str, Any]:
    return {"model": "demo", "input": list(items) or "hi there", **more}


def test_string_input_is_the_prompt() -> None:
    prompt = read_prompt(make_request(instructions="be brief please"))
    assert (prompt.user_text, prompt.word_count) == ("hi there", 5)


def test_prompt_is_the_last_user_message() -> None:
    parts = [{"type": "input_text", "text": "what is"}, {"type": "input_image", "image_url": "x"}]
    answer = {"type": "message", "role": "assistant", "content": [
        {"type": "output_text", "text": "ok", "annotations": []}
    ]}  # fmt: skip
    prompt = read_prompt(
        make_request(USER, answer, {"type": "message", "role": "user", "content": parts})
    )
    assert prompt.user_text == "what is [input_image]"


def test_the_results_at_the_end_are_read_in_order() -> None:
    parts = {**CUSTOM_RESULT, "output": [{"type": "input_text", "text": "five"}]}
    assert read_prompt(make_request(USER, CALL, CUSTOM_CALL, RESULT, parts)).tool_results == (
        "four",
        "five",
    )


def test_results_of_client_tools_are_read_as_tool_results() -> None:
    shell = {"type": "local_shell_call_output", "id": "c", "output": '{"stdout": "x"}'}
    screenshot_result = {"type": "computer_call_output", "output": {"type": "computer_screenshot"}}
    assert read_prompt(make_request(USER, shell)).tool_results == ('{"stdout": "x"}',)
    assert read_prompt(make_request(USER, screenshot_result)).tool_results == (
        "[computer_screenshot]",
    )


def test_results_before_a_new_user_message_are_history() -> None:
    assert read_prompt(make_request(USER, CALL, RESULT, USER)).tool_results == ()


def test_tools_may_come_with_the_request_or_among_the_items() -> None:
    more = {"type": "additional_tools", "role": "developer", "tools": [TOOL]}
    with_request, among_items = (
        read_prompt(make_request(tools=[TOOL])).tool,
        read_prompt(make_request(more, USER)).tool,
    )
    assert with_request
    assert among_items
    assert with_request.param == "tools[0].parameters"
    assert among_items.param == "input[0].tools[0].parameters"


def test_effort_none_disables_reasoning() -> None:
    assert not read_prompt(make_request(reasoning={"effort": "none"})).includes_reasoning
    assert read_prompt(make_request(reasoning={"effort": "low"})).includes_reasoning


def test_the_format_is_read_in_its_flat_form() -> None:
    response_format = {"type": "json_schema", "name": "n", "schema": {"const": 1}}
    form = read_prompt(make_request(text={"format": response_format})).format
    assert form
    assert form.schema == {"const": 1}


def test_null_and_unknown_parameters_are_let_through() -> None:
    assert (
        read_prompt(make_request(temperature=None, tools=None, presence_penalty=1)).user_text
        == "hi there"
    )


def test_every_item_type_of_the_sdk_is_known() -> None:
    sdk_types: set[str] = set()
    for item in get_args(response_input_item_param.ResponseInputItemParam):
        kind = get_type_hints(item).get("type")
        sdk_types |= _list_strings(kind)
    assert sdk_types == set(ITEM_TYPES)


def _list_strings(type_hint: Any) -> set[str]:
    if isinstance(type_hint, str):
        return {type_hint}
    return {name for inner in get_args(type_hint) for name in _list_strings(inner)}


@check_each(
    ("body", "param"),
    [
        ({"input": "hi"}, "model"),
        ({"model": "demo"}, "input"),
        ({"model": "demo", "input": 3}, "input"),
        (make_request("hi"), "input[0]"),
        (make_request({"content": "hi"}), "input[0].type"),
        (make_request({"type": "text"}), "input[0].type"),
        (make_request({"role": "tool", "content": "hi"}), "input[0].role"),
        (make_request({"role": "user"}), "input[0].content"),
        (make_request({**USER, "content": [{"type": "text"}]}), "input[0].content[0].type"),
        (
            make_request({"role": "assistant", "content": [{"type": "input_text", "text": "x"}]}),
            "input[0].content[0].type",
        ),
        (make_request(USER, {**CALL, "arguments": {}}, RESULT), "input[1].arguments"),
        (make_request(USER, CALL, {**RESULT, "output": {}}), "input[2].output"),
        (make_request(USER, CALL), "input"),
        (make_request(USER, RESULT), "input"),
        (make_request(USER, CALL, RESULT, RESULT), "input"),
        (make_request(USER, CALL, {**CUSTOM_RESULT, "call_id": "c1"}), "input"),
        (make_request(max_output_tokens=15), "max_output_tokens"),
        (make_request(temperature="hot"), "temperature"),
        (make_request(previous_response_id="resp_1"), "previous_response_id"),
        (make_request(tool_choice="required"), "tool_choice"),
        (
            make_request(tools=[{"type": "function", "function": {"name": "nested"}}]),
            "tools[0].name",
        ),
        (make_request(text={"format": {"type": "json_schema", "name": 1}}), "text.format.name"),
        (make_request(text={"format": "json"}), "text.format"),
    ],
)
def test_invalid_request_names_the_parameter(body: Any, param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read_prompt(body)
    assert caught.value.param == param


@check_each(
    ("body", "param"),
    [
        (make_request(USER, conversation="conv_1"), "conversation"),
        (make_request({"type": "item_reference", "id": "msg_1"}), "input"),
    ],
)
def test_references_to_stored_objects_are_not_found(body: Any, param: str) -> None:
    with pytest.raises(NotFound) as caught:
        read_prompt(body)
    assert caught.value.param == param


JSON = dict[str, Any]

ADD = OfferedTool(
    "function", "add", {"properties": {"n": {"const": "a b"}}, "required": ["n"]}, "", "crm"
)
PATCH = OfferedTool("custom", "patch", {}, "")
REQUEST: JSON = {"model": "any", "include": ["reasoning.encrypted_content"]}
EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
RESPONSE = TypeAdapter(Response)
# Fields that the API sends but the SDK's types do not contain.
UNNAMED = {"name", "presence_penalty", "frequency_penalty", "store"}
ANSWERS = {
    "text": make_answer(DemoPrompt("hello  you\n", 2)),
    "thoughtless": make_answer(DemoPrompt("hello", 1, includes_reasoning=False)),
    "function": make_answer(DemoPrompt("hello", 1, tool=ADD)),
    "custom": make_answer(DemoPrompt("hello", 1, tool=PATCH)),
    "cut in the reasoning": make_answer(DemoPrompt("hello", 1, limit=3)),
    "cut after the reasoning": make_answer(DemoPrompt("hello", 1, limit=7)),
    "cut in the text": make_answer(DemoPrompt("hello", 1, limit=9)),
    "cut in the arguments": make_answer(DemoPrompt("hello", 1, tool=ADD, limit=8)),
    "cut in the input": make_answer(DemoPrompt("hello", 1, tool=PATCH, limit=9)),
}
every_answer = check_each("answer", ANSWERS.values(), ids=ANSWERS)
START = ["response.created", "response.in_progress"]
REASONING = [
    "response.output_item.added",
    "response.reasoning_summary_part.added",
    "response.reasoning_summary_text.delta",
    "response.reasoning_summary_text.done",
    "response.reasoning_summary_part.done",
    "response.output_item.done",
]
TEXT = [
    "response.output_item.added",
    "response.content_part.added",
    "response.output_text.delta",
    "response.output_text.done",
    "response.content_part.done",
    "response.output_item.done",
]
FUNCTION = [
    "response.output_item.added",
    "response.function_call_arguments.delta",
    "response.function_call_arguments.done",
    "response.output_item.done",
]
CUSTOM = [
    "response.output_item.added",
    "response.custom_tool_call_input.delta",
    "response.custom_tool_call_input.done",
    "response.output_item.done",
]


def list_events(answer: DemoAnswer, request: JSON = REQUEST) -> list[JSON]:
    return list(responses.iter_events(request, answer, "k", 7))


def list_event_types(answer: DemoAnswer) -> list[str]:
    """Return the types of the events; consecutive deltas count once."""
    types = [event["type"] for event in list_events(answer)]
    return [kind for kind, before in zip(types, [None, *types], strict=False) if kind != before]


@check_each(
    ("name", "expected"),
    [
        ("text", [*START, *REASONING, *TEXT, "response.completed"]),
        ("thoughtless", [*START, *TEXT, "response.completed"]),
        ("function", [*START, *REASONING, *FUNCTION, "response.completed"]),
        ("custom", [*START, *REASONING, *CUSTOM, "response.completed"]),
        ("cut in the reasoning", [*START, *REASONING, "response.incomplete"]),
        ("cut after the reasoning", [*START, *REASONING, "response.incomplete"]),
        ("cut in the text", [*START, *REASONING, *TEXT, "response.incomplete"]),
        ("cut in the arguments", [*START, *REASONING, *FUNCTION, "response.incomplete"]),
    ],
)
def test_events_are_in_the_order_of_the_api(name: str, expected: list[str]) -> None:
    assert list_event_types(ANSWERS[name]) == expected


@every_answer
def test_events_have_the_sdk_type(answer: DemoAnswer) -> None:
    for event in list_events(answer):
        sdk_event = EVENT.validate_python(event, strict=True)
        assert sdk_event.type == event["type"]
        assert set(sdk_event.model_extra or ()) <= UNNAMED


@every_answer
def test_response_has_the_sdk_type(answer: DemoAnswer) -> None:
    response = RESPONSE.validate_python(
        responses.build_response(REQUEST, answer, "k", 7), strict=True
    )
    assert set(response.model_extra or ()) <= UNNAMED


@every_answer
def test_folded_stream_equals_the_response(answer: DemoAnswer) -> None:
    events, response = list_events(answer), responses.build_response(REQUEST, answer, "k", 7)
    done = [event["item"] for event in events if event["type"] == "response.output_item.done"]
    assert events[-1]["response"] == response
    assert done == response["output"]


@every_answer
def test_deltas_add_up_to_the_done_event(answer: DemoAnswer) -> None:
    texts: dict[int, str] = {}
    for event in list_events(answer):
        if "delta" in event:
            index = event["output_index"]
            texts[index] = texts.get(index, "") + event["delta"]
        for name in ("text", "arguments", "input"):
            if event["type"].endswith(".done") and name in event:
                assert event[name] == texts[event["output_index"]]
    assert list(texts.values()) == [piece.text for piece in answer.parts]


@every_answer
def test_events_are_numbered_and_items_keep_their_place_and_id(answer: DemoAnswer) -> None:
    events = list_events(answer)
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    response = events[-1]["response"]
    for event in events:
        if "item_id" in event:
            assert response["output"][event["output_index"]]["id"] == event["item_id"]
        if "item" in event:
            assert response["output"][event["output_index"]]["id"] == event["item"]["id"]


@every_answer
def test_added_item_is_empty_except_for_its_name(answer: DemoAnswer) -> None:
    for event in list_events(answer):
        if event["type"] == "response.output_item.added":
            item = event["item"]
            assert item["status"] == "in_progress"
            assert not any(item.get(name) for name in ("content", "summary", "arguments", "input"))
            assert item["type"] not in ("function_call", "custom_tool_call") or item["call_id"]


@check_each(
    ("name", "status", "last"),
    [
        ("text", "completed", "completed"),
        ("cut in the reasoning", "incomplete", "incomplete"),
        ("cut after the reasoning", "incomplete", "completed"),
        ("cut in the arguments", "incomplete", "incomplete"),
        ("cut in the input", "incomplete", "incomplete"),
    ],
)
def test_status_is_that_of_the_end_of_the_response(name: str, status: str, last: str) -> None:
    response = responses.build_response(REQUEST, ANSWERS[name], "k", 7)
    assert (response["status"], response["output"][-1]["status"]) == (status, last)
    reason = {"reason": "max_output_tokens"} if status == "incomplete" else None
    assert response["incomplete_details"] == reason


def test_a_call_has_its_ids_and_its_namespace() -> None:
    call = responses.build_response(REQUEST, ANSWERS["function"], "k", 7)["output"][-1]
    assert (call["id"], call["call_id"]) == ("fc_k", "call_k")
    assert (call["namespace"], call["name"]) == ("crm", "add")
    assert call["arguments"] == '{"n": "a b"}'


def test_reasoning_is_encrypted_only_if_included() -> None:
    sealed = responses.build_response(REQUEST, ANSWERS["text"], "k", 7)["output"][0]
    bare = responses.build_response({"model": "any"}, ANSWERS["text"], "k", 7)["output"][0]
    assert sealed["encrypted_content"]
    assert "encrypted_content" not in bare
    assert sealed["summary"] == bare["summary"]


def test_the_response_repeats_the_request() -> None:
    tool = {"type": "function", "name": "f"}
    parameters = {"temperature": 0.5, "store": False, "tool_choice": "none", "metadata": {"a": "b"}}
    request = {
        **REQUEST,
        **parameters,
        "tools": [tool],
        "reasoning": {"effort": "low"},
        "text": {"format": {"type": "json_object"}},
    }
    response = responses.build_response(request, ANSWERS["text"], "k", 7)
    assert {name: response[name] for name in parameters} == parameters
    assert response["tools"] == [{**tool, "description": None, "parameters": None, "strict": True}]
    assert response["reasoning"] == {"effort": "low", "summary": None}
    assert response["text"] == {"format": {"type": "json_object"}, "verbosity": "medium"}


def test_usage_counts_words() -> None:
    assert responses.build_response(REQUEST, ANSWERS["cut in the text"], "k", 7)["usage"] == {
        "input_tokens": 1,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": 9,
        "output_tokens_details": {"reasoning_tokens": 7},
        "total_tokens": 10,
    }
