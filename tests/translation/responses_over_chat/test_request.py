"""Single parameters and refusals; tests/cases covers whole requests."""

from __future__ import annotations

from typing import Any, get_args

import pytest
from openai.types.responses import ResponseIncludable

from forwarder.core.errors import InvalidRequest, Unsupported
from forwarder.core.translation_context import TranslationContext
from forwarder.translation.responses_over_chat import translate_request
from tests.helpers.check_cases import check_each
from tests.helpers.translating import make_translator_context

Json = dict[str, Any]

FUNCTION = {"type": "function", "name": "f"}


def translate_to_chat(context: TranslationContext | None = None, **request: Any) -> Json:
    body = {"model": "m", "input": "Hi.", **request}
    return translate_request(body, context or make_translator_context()).upstream_request


BASE = {
    "model": "m",
    "messages": [{"role": "user", "content": "Hi."}],
}

SCHEMA = {"type": "object", "properties": {}}

MAPPED: list[tuple[Json, Json]] = [
    ({}, {}),
    ({"stream": False, "stream_options": {"include_obfuscation": True}}, {"stream": False}),
    ({"stream": True}, {"stream": True, "stream_options": {"include_usage": True}}),
    (
        {"stream": True, "stream_options": {"include_obfuscation": True}},
        {"stream": True, "stream_options": {"include_usage": True}},
    ),
    ({"max_output_tokens": 5}, {"max_completion_tokens": 5}),
    ({"reasoning": {"effort": "high", "summary": "auto"}}, {"reasoning_effort": "high"}),
    ({"reasoning": {"effort": None}}, {}),
    ({"reasoning": {}}, {}),
    ({"service_tier": "ultrafast"}, {"service_tier": "priority"}),
    ({"service_tier": "flex"}, {"service_tier": "flex"}),
    ({"text": {"format": {"type": "text"}, "verbosity": "low"}}, {"verbosity": "low"}),
    ({"text": {"format": None, "verbosity": None}}, {}),
    ({"text": {"format": {"type": "json_object"}}}, {"response_format": {"type": "json_object"}}),
    (
        {
            "text": {
                "format": {"type": "json_schema", "name": "n", "schema": SCHEMA, "strict": None}
            }
        },
        {
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "n", "schema": SCHEMA},
            }
        },
    ),
    ({"prompt_cache_options": {"ttl": "12h"}}, {"prompt_cache_options": {"ttl": "30m"}}),
    ({"prompt_cache_options": {"prewarm": True}}, {}),
    ({"top_logprobs": 0}, {}),
    ({"top_logprobs": 3}, {"logprobs": True, "top_logprobs": 3}),
    ({"include": ["message.output_text.logprobs"]}, {"logprobs": True}),
    (
        {"include": ["message.output_text.logprobs"], "top_logprobs": 3},
        {"logprobs": True, "top_logprobs": 3},
    ),
    ({"store": True, "include": [], "max_tool_calls": 1}, {}),
    ({"seed": 1, "logit_bias": {"5": 1}}, {"seed": 1, "logit_bias": {"5": 1}}),
    ({"stop": "a", "presence_penalty": 0.5}, {"stop": "a", "presence_penalty": 0.5}),
    ({"stop": ["a", "b"], "frequency_penalty": 0}, {"stop": ["a", "b"], "frequency_penalty": 0}),
    ({"parallel_tool_calls": False, "tool_choice": "auto"}, {}),
    ({"tools": [], "tool_choice": "none"}, {}),
]


@check_each(("request_", "expected"), MAPPED)
def test_parameter_is_mapped(request_: Json, expected: Json) -> None:
    assert translate_to_chat(**request_) == {**BASE, **expected}


def test_instructions_come_first() -> None:
    messages = translate_to_chat(
        instructions="Be brief.", input=[{"role": "system", "content": "Be kind."}]
    )["messages"]
    assert [(m["role"], m["content"]) for m in messages] == [
        ("developer", "Be brief."),
        ("system", "Be kind."),
    ]
    assert translate_to_chat(instructions="") == BASE


def test_parallel_tool_calls_need_tools() -> None:
    chat_request = translate_to_chat(
        tools=[FUNCTION], parallel_tool_calls=False, tool_choice="required"
    )
    assert (
        chat_request["parallel_tool_calls"],
        chat_request["tool_choice"],
        len(chat_request["tools"]),
    ) == (
        False,
        "required",
        1,
    )


def test_last_configuration_update_wins() -> None:
    def make_update(effort: str, kind: str) -> Json:
        return {
            "type": "configuration_update",
            "reasoning": {"effort": effort},
            "text": {"format": {"type": kind}},
        }

    items = [
        {"role": "user", "content": "Hi."},
        make_update("low", "text"),
        make_update("high", "json_object"),
    ]
    chat_request = translate_to_chat(input=items, reasoning={"effort": "none"})
    assert (chat_request["reasoning_effort"], chat_request["response_format"]) == (
        "high",
        {"type": "json_object"},
    )
    assert "response_format" not in translate_to_chat(
        input=items[:2], text={"format": {"type": "json_object"}}
    )


def test_unsupported_settings_are_reported() -> None:
    context = make_translator_context()
    translate_to_chat(
        context,
        reasoning={"mode": "pro", "context": "all_turns"},
        prompt_cache_options={"prewarm": True, "comparison_response_id": "r"},
    )
    assert set(context.loss_report.losses) == {
        "reasoning.mode",
        "reasoning.context",
        "prompt_cache_options.prewarm",
        "prompt_cache_options.comparison_response_id",
    }
    translate_to_chat(
        make_translator_context(strict=True), reasoning={"mode": "standard", "context": "auto"}
    )


def test_unknown_include_values_are_reported() -> None:
    context = make_translator_context()
    translate_to_chat(context, include=["nonsense", "reasoning.encrypted_content"])
    assert set(context.loss_report.losses) == {"include.nonsense"}
    with pytest.raises(Unsupported) as caught:
        translate_to_chat(make_translator_context(strict=True), include=["nonsense"])
    assert caught.value.param == "include.nonsense"


@check_each("name", get_args(ResponseIncludable))
def test_known_include_values_are_not_reported(name: str) -> None:
    assert "include" not in translate_to_chat(make_translator_context(strict=True), include=[name])


def test_search_sources_are_reported_with_native_search() -> None:
    context = make_translator_context(web_search=True)
    body = {"tools": [{"type": "web_search"}], "include": ["web_search_call.action.sources"]}
    assert translate_to_chat(context, **body)["web_search_options"] == {}
    assert set(context.loss_report.losses) == {"include.web_search_call.action.sources"}


@check_each("name", ["n", "max_tokens", "response_format", "reasoning_effort"])
def test_chat_parameter_is_reported_as_such(name: str) -> None:
    context = make_translator_context()
    translate_to_chat(context, **{name: 1})
    assert context.loss_report.losses == {name: "only the other API knows this parameter"}


REFUSED: list[tuple[Json, Any, str]] = [
    ({"model": None}, InvalidRequest, "model"),
    ({"model": 1}, InvalidRequest, "model"),
    ({"input": None}, InvalidRequest, "input"),
    ({"input": {}}, InvalidRequest, "input"),
    ({"include": [5]}, InvalidRequest, "include[0]"),
    ({"stop": 5}, InvalidRequest, "stop"),
    ({"seed": "x"}, InvalidRequest, "seed"),
    ({"text": {"format": {}}}, InvalidRequest, "text.format.type"),
    ({"text": {"format": {"type": "yaml"}}}, InvalidRequest, "text.format.type"),
    ({"text": {"format": {"type": "json_schema"}}}, InvalidRequest, "text.format.name"),
    ({"text": {"format": {"type": "json_schema", "name": "n"}}}, InvalidRequest, "text.format.schema"),
    ({"text": {"verbosity": 1}}, InvalidRequest, "text.verbosity"),
    ({"reasoning": {"effort": 1}}, InvalidRequest, "reasoning.effort"),
    ({"input": [{"type": "configuration_update", "text": "x"}]}, InvalidRequest, "input[0].text"),
    ({"prompt": {"id": "p"}}, Unsupported, "prompt"),
    ({"tool_choice": {"type": "web_search"}}, Unsupported, "tool_choice"),
    ({"include": "x"}, InvalidRequest, "include"),
    ({"top_logprobs": "2"}, InvalidRequest, "top_logprobs"),
    ({"tool_choice": {"type": "function", "name": "g"}, "tools": [FUNCTION]}, InvalidRequest, "tool_choice"),
    ({"tool_choice": {"type": "web_search"}, "tools": [{"type": "web_search"}]}, Unsupported, "tool_choice"),
    ({"tool_choice": "required"}, InvalidRequest, "tool_choice"),
    ({"tools": [FUNCTION, {"type": "namespace", "name": "n", "tools": [
        {"type": "custom", "name": "g"}]}, {"type": "function", "name": "n__g"}]}, InvalidRequest, "tools[2]"),
]  # fmt: skip


@check_each(("request_", "error", "param"), REFUSED)
def test_unsupported_parameter_error_names_it(request_: Json, error: Any, param: str) -> None:
    with pytest.raises(error) as caught:
        translate_to_chat(**request_)
    assert caught.value.status == 400
    assert caught.value.param == param
