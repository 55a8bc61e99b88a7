"""Single parameters and refusals; tests/cases covers whole requests."""

from __future__ import annotations

from typing import Any

import pytest

from forwarder.core.errors import InvalidRequest, Unsupported
from forwarder.core.translation_context import TranslationContext
from forwarder.translation.chat_over_responses import translate_request
from tests.helpers.check_cases import check_each
from tests.helpers.translating import make_translator_context

Json = dict[str, Any]

FUNCTION = {"name": "f"}
FLAT = {
    "type": "function",
    "name": "f",
    "parameters": {"type": "object", "properties": {}},
    "strict": False,
}
TOOL = {"type": "function", "function": FUNCTION}


def translate_to_responses(context: TranslationContext | None = None, **request: Any) -> Json:
    body = {"model": "m", "messages": [{"role": "user", "content": "Hi."}], **request}
    return translate_request(body, context or make_translator_context()).upstream_request


BASE = translate_to_responses()

MAPPED: list[tuple[Json, Json]] = [
    ({"max_tokens": 100}, {"max_output_tokens": 100}),
    ({"max_completion_tokens": 1}, {"max_output_tokens": 16}),
    ({"max_tokens": 50, "max_completion_tokens": 100}, {"max_output_tokens": 100}),
    ({"max_completion_tokens": 100, "max_tokens": 50}, {"max_output_tokens": 100}),
    ({"reasoning_effort": "high"}, {"reasoning": {"effort": "high", "summary": "auto"}}),
    ({"reasoning_effort": "none"}, {"reasoning": {"effort": "none"}}),
    ({"verbosity": "low"}, {"text": {"verbosity": "low"}}),
    ({"response_format": {"type": "text"}}, {"text": {"format": {"type": "text"}}}),
    (
        {"verbosity": "low", "response_format": {"type": "json_object"}},
        {"text": {"verbosity": "low", "format": {"type": "json_object"}}},
    ),
    ({"store": True}, {"store": True}),
    ({"stream": False, "stream_options": {"include_usage": True}}, {"stream": False}),
    ({"stream": True, "stream_options": {"include_usage": True}}, {"stream": True}),
    ({"tools": [TOOL], "tool_choice": "required"}, {"tools": [FLAT], "tool_choice": "required"}),
    ({"tools": [], "tool_choice": "auto", "parallel_tool_calls": True}, {}),
    ({"functions": [FUNCTION]}, {"tools": [FLAT], "parallel_tool_calls": False}),
    (
        {"functions": [FUNCTION], "function_call": {"name": "f"}},
        {
            "tools": [FLAT],
            "parallel_tool_calls": False,
            "tool_choice": {"type": "function", "name": "f"},
        },
    ),
    ({"functions": [FUNCTION], "tools": []}, {"tools": [FLAT], "parallel_tool_calls": False}),
    ({"web_search_options": {}}, {"tools": [{"type": "web_search"}]}),
    (
        {
            "web_search_options": {
                "user_location": {"type": "approximate", "approximate": {"city": "Oslo"}}
            }
        },
        {
            "tools": [
                {"type": "web_search", "user_location": {"type": "approximate", "city": "Oslo"}}
            ]
        },
    ),
    (
        {"web_search_options": {}, "functions": [FUNCTION]},
        {"tools": [{"type": "web_search"}, FLAT], "parallel_tool_calls": False},
    ),
    ({"logprobs": True}, {"include": ["message.output_text.logprobs"]}),
    (
        {"logprobs": True, "top_logprobs": 3},
        {"include": ["message.output_text.logprobs"], "top_logprobs": 3},
    ),
    ({"logprobs": False, "top_logprobs": 0}, {}),
    ({"modalities": ["text"]}, {}),
    ({"modalities": ["text", "image"]}, {"tools": [{"type": "image_generation"}]}),
    ({"web_search_options": {}, "tools": [TOOL]}, {"tools": [{"type": "web_search"}, FLAT]}),
]


@check_each(("request_", "expected"), MAPPED)
def test_parameter_is_mapped(request_: Json, expected: Json) -> None:
    assert translate_to_responses(**request_) == {**BASE, **expected}


def test_modalities_extension_is_carried() -> None:
    modalities = ["text", "image"]
    context = make_translator_context(extensions=["modalities"])
    assert translate_to_responses(context, modalities=modalities) == {
        **BASE,
        "modalities": modalities,
    }


def test_extensions_of_the_upstream_are_carried() -> None:
    extensions = {"seed": 7, "top_k": 3, "frequency_penalty": 0}
    context = make_translator_context(strict=True, extensions=frozenset(extensions))
    assert translate_to_responses(context, **extensions) == {**BASE, **extensions}


def test_store_defaults_to_false() -> None:
    assert BASE["store"] is False


def test_summary_is_requested_from_reasoning_models() -> None:
    assert translate_to_responses(make_translator_context(can_summarize=True))["reasoning"] == {
        "summary": "auto"
    }
    assert "reasoning" not in BASE
    assert translate_to_responses(
        make_translator_context(can_summarize=True), reasoning_effort="none"
    )["reasoning"] == {"effort": "none"}


@check_each(
    ("request_", "legacy"),
    [({}, False), ({"tools": [TOOL]}, False), ({"functions": [FUNCTION]}, True),
     ({"functions": [FUNCTION], "tools": []}, True), ({"functions": [FUNCTION], "tools": [TOOL]}, False),
     ({"functions": None}, False), ({"functions": []}, False)],
)  # fmt: skip
def test_legacy_functions_select_function_call(request_: Json, legacy: bool) -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": "Hi."}], **request_}
    assert translate_request(body, make_translator_context()).uses_function_call is legacy


REFUSED: list[tuple[Json, Any, str]] = [
    ({"model": None}, InvalidRequest, "model"),
    ({"messages": None}, InvalidRequest, "messages"),
    ({"messages": []}, InvalidRequest, "messages"),
    ({"messages": "Hi."}, InvalidRequest, "messages"),
    ({"response_format": {}}, InvalidRequest, "response_format.type"),
    ({"response_format": {"type": "yaml"}}, InvalidRequest, "response_format.type"),
    ({"response_format": {"type": "json_schema"}}, InvalidRequest, "response_format.json_schema"),
    ({"response_format": {"type": "json_schema", "json_schema": {}}}, InvalidRequest, "response_format.json_schema.name"),
    ({"web_search_options": {"user_location": "Oslo"}}, InvalidRequest, "web_search_options.user_location"),
    ({"tool_choice": "required"}, InvalidRequest, "tool_choice"),
    ({"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "g"}}}, InvalidRequest, "tool_choice"),
    ({"top_logprobs": 2}, InvalidRequest, "top_logprobs"),
    ({"top_logprobs": 2, "logprobs": False}, InvalidRequest, "top_logprobs"),
    ({"modalities": ["image", 7]}, Unsupported, "modalities"),
    ({"modalities": ["text", "audio"]}, Unsupported, "modalities"),
    ({"audio": {"voice": "x", "format": "wav"}}, Unsupported, "audio"),
]  # fmt: skip


@check_each(("request_", "error", "param"), REFUSED)
def test_unsupported_parameter_error_names_it(request_: Json, error: Any, param: str) -> None:
    with pytest.raises(error) as caught:
        translate_to_responses(**request_)
    assert caught.value.status == 400
    assert caught.value.param == param
