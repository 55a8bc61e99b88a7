"""Ollama requests as Chat requests; tests/protocols tests the parameter tables."""

from __future__ import annotations

from typing import Any

import pytest

from forwarder.core.errors import InvalidRequest, Unsupported
from forwarder.translation.ollama_over_chat.endpoints import GENERATE_ENDPOINT
from tests.fake_provider import check_chat
from tests.helpers.check_cases import check_each
from tests.helpers.ollama import USER, chat, translate_ollama_request
from tests.helpers.translating import make_translator_context

Json = dict[str, Any]

TOOL: Json = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}


def test_stream_requests_usage() -> None:
    usage = {"include_usage": True}
    assert chat() == {"model": "m", "messages": [USER], "stream": True, "stream_options": usage}
    assert chat(stream=False) == {"model": "m", "messages": [USER], "stream": False}


def test_options_become_parameters() -> None:
    fields = {"temperature": 0, "top_p": 0.5, "seed": 7.0, "stop": ["x"], "num_predict": 12,
             "presence_penalty": 1, "frequency_penalty": -1}  # fmt: skip
    body = chat(options=fields)
    named = {**fields, "seed": 7, "max_completion_tokens": 12}
    del named["num_predict"]
    assert {k: v for k, v in body.items() if k in named} == named
    assert type(body["seed"]) is int
    assert check_chat(body) == []


@check_each("limit", [-1, -2, 0])
def test_unlimited_num_predict_is_omitted(limit: int) -> None:
    assert "max_completion_tokens" not in chat(options={"num_predict": limit})


@check_each(("stop", "expected"), [("x", "x"), (["x"], ["x"]), ([], None), ("", None)])
def test_empty_stop_is_omitted(stop: Any, expected: Any) -> None:
    assert chat(options={"stop": stop}).get("stop") == expected


@check_each(
    ("takes", "fields", "expected"),
    [
        ({"top_k", "min_p"}, {"top_k": 3, "min_p": 0.1}, {"top_k": 3, "min_p": 0.1}),
        ({"repetition_penalty"}, {"repeat_penalty": 1.2}, {"repetition_penalty": 1.2}),
        ({"repeat_penalty"}, {"repeat_penalty": 1.2}, {"repeat_penalty": 1.2}),
        ({"dry_base"}, {"dry_base": 2}, {"dry_base": 2}),
        ({"seed"}, {"seed": 2}, {"seed": 2}),
    ],
)
def test_extensions_of_the_upstream_are_carried(
    takes: set[str], fields: Json, expected: Json
) -> None:
    context = make_translator_context(extensions=takes)
    body = translate_ollama_request(context, options=fields).upstream_request
    assert {k: v for k, v in body.items() if k in expected} == expected
    assert not any(name.startswith("options.") for name in body)
    assert context.loss_report.losses == {}


@check_each(
    ("think", "effort"),
    [(True, "medium"), (False, "none"), ("low", "low"), ("max", "max"), (None, None)],
)
def test_think_becomes_a_reasoning_effort(think: Any, effort: str | None) -> None:
    translated = translate_ollama_request(think=think)
    assert translated.upstream_request.get("reasoning_effort") == effort
    assert translated.wants_reasoning is (think is not False)


def test_format_is_json_or_a_schema() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    wrapped = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
    assert chat(format=schema)["response_format"] == wrapped
    assert chat(format="json")["response_format"] == {"type": "json_object"}
    assert "response_format" not in chat(format="")
    assert check_chat(chat(format=schema)) == []


@check_each(
    ("fields", "expected"),
    [
        ({}, {}),
        ({"logprobs": False, "top_logprobs": 3}, {}),
        ({"logprobs": True}, {"logprobs": True}),
        ({"logprobs": True, "top_logprobs": 3}, {"logprobs": True, "top_logprobs": 3}),
    ],
)
def test_top_logprobs_need_logprobs(fields: Json, expected: Json) -> None:
    translated = translate_ollama_request(**fields)
    assert {k: v for k, v in translated.upstream_request.items() if "logprobs" in k} == expected
    assert translated.wants_logprobs is bool(expected)


def test_tools_are_converted() -> None:
    minimal_tool = {"function": {"name": "g", "description": None, "extra": 1}, "items": 2}
    tools = chat(tools=[TOOL, minimal_tool])["tools"]
    assert tools == [TOOL, {"type": "function", "function": {"name": "g"}}]
    assert "tools" not in chat(tools=[])


@check_each(
    ("fields", "param"),
    [
        ({"model": None}, "model"),
        ({"options": [1]}, "options"),
        ({"options": {"temperature": "hot"}}, "options.temperature"),
        ({"stream": 1}, "stream"),
        ({"messages": "hi"}, "messages"),
        ({"format": "yaml"}, "format"),
        ({"think": "hard"}, "think"),
        ({"think": 1}, "think"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"top_logprobs": -1}, "top_logprobs"),
        ({"options": {"seed": 1e30}}, "options.seed"),
        ({"options": {"num_predict": 1e30}}, "options.num_predict"),
        ({"tools": [1]}, "tools[0]"),
        ({"tools": [{}]}, "tools[0].function"),
        ({"tools": [{"function": {}}]}, "tools[0].function.name"),
        ({"tools": [{"function": {"name": "f", "parameters": 1}}]}, "tools[0].function.parameters"),
    ],
)
def test_malformed_parameter_is_named(fields: Json, param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        translate_ollama_request(**fields)
    assert caught.value.param == param


def test_other_tool_types_are_refused() -> None:
    with pytest.raises(Unsupported) as caught:
        translate_ollama_request(tools=[{"type": "web_search"}])
    assert caught.value.param == "tools[0].type"


@check_each(
    ("keep_alive", "done_reason"),
    [(None, "load"), ("5m", "load"), (-1, "load"), (0.5, "load"), ("0.5s", "load"),
     (0, "unload"), (0.0, "unload"), ("0", "unload"), ("0s", "unload"), ("0.0m", "unload")],
)  # fmt: skip
def test_empty_request_loads_or_unloads_the_model(keep_alive: Any, done_reason: str) -> None:
    for translated in (
        translate_ollama_request(messages=[], keep_alive=keep_alive),
        translate_ollama_request(messages=None, keep_alive=keep_alive),
        translate_ollama_request(form=GENERATE_ENDPOINT, prompt="", keep_alive=keep_alive),
        translate_ollama_request(
            form=GENERATE_ENDPOINT, prompt=None, system="x", keep_alive=keep_alive
        ),
    ):
        assert (translated.upstream_request, translated.load_action) == ({}, done_reason)


def test_keep_alive_is_ignored_with_messages() -> None:
    assert translate_ollama_request(keep_alive=0).load_action == ""
    assert "keep_alive" not in chat(keep_alive="5m")
