"""Reports of fields that no translation reads."""

from __future__ import annotations

from typing import Any

import pytest

from forwarder.core.errors import Unsupported
from tests.helpers.check_cases import check_each
from tests.helpers.translating import make_translator_context, translate

Json = dict[str, Any]

CALL: Json = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
RESULT: Json = {"role": "tool", "tool_call_id": "c1", "name": "f", "content": "1"}
URL = "https://e.test/a.png"


def make_user_message(**part: Any) -> Json:
    return {"role": "user", "content": [part]}


def make_request(client: str, **request: Any) -> tuple[str, Json]:
    extra: Json = (
        {"messages": [make_user_message(type="text", text="hi")]}
        if client == "chat"
        else {"input": "hi"}
    )
    direction = "chat_over_responses" if client == "chat" else "responses_over_chat"
    return direction, {"model": "m", **extra, **request}


DROPPED: list[tuple[str, Json, str]] = [
    ("chat", {"messages": [{"role": "user", "content": "a", "zebra": 1}]}, "messages.zebra"),
    ("chat", {"messages": [make_user_message(type="text", text="a", cache_control={"type": "ephemeral"})]},
     "messages.content.cache_control"),
    ("chat", {"messages": [make_user_message(type="image_url", image_url={"url": URL, "zebra": 1})]},
     "messages.content.image_url.zebra"),
    ("chat", {"messages": [make_user_message(type="file", file={"file_id": "f", "zebra": 1})]},
     "messages.content.file.zebra"),
    ("chat", {"messages": [{"role": "assistant", "tool_calls": [CALL]}, {**RESULT, "zebra": 1}]},
     "messages.zebra"),
    ("chat", {"tools": [{"type": "function", "function": {"name": "f", "zebra": 1}}]},
     "tools.function.function.zebra"),
    ("chat", {"web_search_options": {"zebra": 1}}, "web_search_options.zebra"),
    ("responses", {"input": [{"role": "user", "content": "a", "zebra": 1}]}, "input.zebra"),
    ("responses", {"input": [make_user_message(type="input_image", image_url=URL, zebra=1)]},
     "input.content.zebra"),
    ("responses", {"input": [{"role": "user", "content": "a"}, {
        "type": "function_call", "call_id": "c", "name": "f", "arguments": "{}", "zebra": 1},
        {"type": "function_call_output", "call_id": "c", "output": "1"}]}, "input.zebra"),
    ("responses", {"input": [{"role": "user", "content": "a"}, {
        "type": "reasoning", "summary": [], "zebra": 1}]}, "input.zebra"),
    ("responses", {"reasoning": {"zebra": 1}}, "reasoning.zebra"),
    ("responses", {"text": {"zebra": 1}}, "text.zebra"),
    ("responses", {"tools": [{"type": "function", "name": "f", "output_schema": {"type": "object"}}]},
     "tools.function.output_schema"),
    ("responses", {"tools": [{"type": "namespace", "name": "n", "tools": [
        {"type": "function", "name": "f", "zebra": 1}]}]}, "tools.function.zebra"),
    ("responses", {"tools": [{"type": "custom", "name": "c", "zebra": 1}]}, "tools.custom.zebra"),
    ("responses", {"input": [
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c", "output": [
            {"type": "input_text", "text": "a", "zebra": 1}]}]}, "input.output.zebra"),
    ("responses", {"input": [{"role": "user", "content": "a"}, {
        "type": "additional_tools", "role": "developer",
        "tools": [{"type": "function", "name": "f", "zebra": 1}]}]}, "tools.function.zebra"),
]  # fmt: skip


@check_each(("client", "request_", "name"), DROPPED)
def test_unread_fields_are_dropped(client: str, request_: Json, name: str) -> None:
    context = make_translator_context()
    translate(*make_request(client, **request_), context)
    assert list(context.loss_report.losses) == [name]
    with pytest.raises(Unsupported) as caught:
        translate(*make_request(client, **request_), make_translator_context(strict=True))
    assert caught.value.param == name


NOTED: list[tuple[str, Json, list[str]]] = [
    ("chat", {"messages": [{"role": "assistant", "content": "a", "reasoning": "b",
                            "reasoning_details": [{"type": "reasoning.encrypted"}]}]},
     ["messages.reasoning", "messages.reasoning_details"]),
    ("chat", {"messages": [{"role": "assistant", "tool_calls": [
        {**CALL, "extra_content": {"google": {}}}]}, RESULT]},
     ["messages.tool_calls.extra_content"]),
    ("responses", {"input": [{"role": "assistant", "phase": "commentary", "content": [
        {"type": "output_text", "text": "a", "annotations": [{}], "logprobs": [{}]}]}]},
     ["input.content.annotations", "input.content.logprobs", "input.phase"]),
]  # fmt: skip


@check_each(("client", "request_", "names"), NOTED)
def test_unread_answer_fields_are_noted(client: str, request_: Json, names: list[str]) -> None:
    context = make_translator_context(strict=True)
    translate(*make_request(client, **request_), context)
    assert sorted(context.loss_report.losses) == names


READ: list[tuple[str, Json]] = [
    ("chat", {"messages": [
        make_user_message(type="text", text="a", prompt_cache_breakpoint={"mode": "explicit"}),
        {"role": "assistant", "content": None, "refusal": None, "audio": None, "annotations": [],
         "tool_calls": [{"index": 0, **CALL}], "function_call": None, "metadata": {}},
        RESULT,
        {"role": "assistant", "content": "", "images": [
            {"type": "image_url", "id": "ig_1", "index": 0, "image_url": {"url": URL}}]}]}),
    ("responses", {
        "input": [{"type": "message", "id": "msg_1", "status": "completed", "role": "assistant",
                   "phase": None,
                   "internal_chat_message_metadata_passthrough": {"turn_id": "t"},
                   "content": [{"type": "output_text", "text": "a", "annotations": []}]}],
        "reasoning": {"effort": "low", "summary": "auto", "context": "auto"},
        "text": {"format": {"type": "text"}, "verbosity": "low"},
        "tools": [{"type": "function", "name": "f", "parameters": {}, "strict": False,
                   "description": "d", "defer_loading": True, "allowed_callers": None}]}),
]  # fmt: skip


@check_each(("client", "request_"), READ)
def test_read_and_empty_fields_are_not_reported(client: str, request_: Json) -> None:
    context = make_translator_context(strict=True)
    translate(*make_request(client, **request_), context)
    assert context.loss_report.losses == {}


THOUGHT = {"role": "assistant", "content": "Four.", "reasoning_content": "2 + 2"}


def test_reasoning_text_is_sent_to_upstreams_that_accept_it() -> None:
    context = make_translator_context(strict=True, extensions=["reasoning_text"])
    request = make_request(
        "chat", messages=[make_user_message(type="text", text="2 + 2?"), THOUGHT]
    )
    items = translate(*request, context).request["input"]
    assert items[1] == {
        "type": "reasoning",
        "id": "rs_1",
        "summary": [],
        "content": [{"type": "reasoning_text", "text": "2 + 2"}],
    }
    assert items[2]["role"] == "assistant"
    assert context.loss_report.losses == {}


def test_reasoning_precedes_its_calls() -> None:
    extra = [{"role": "assistant", "tool_calls": [CALL], "reasoning": "Which?"}, RESULT]
    request = make_request("chat", messages=extra)
    items = translate(*request, make_translator_context(extensions=["reasoning_text"])).request[
        "input"
    ]
    assert [i["type"] for i in items] == ["reasoning", "function_call", "function_call_output"]
