from __future__ import annotations

from typing import Any

import pytest

from forwarder.protocols.chat_responses_mappings import (
    FINISH_REASONS,
    INCOMPLETE_REASONS,
    find_error,
    find_minimax_error,
    map_format_to_chat,
    map_format_to_responses,
    map_moderation_to_chat,
    map_moderation_to_responses,
    map_tier_to_chat,
    map_tier_to_responses,
    map_usage_to_chat,
    map_usage_to_responses,
    nest_annotation,
    read_usage,
    shift_annotation,
    to_response_error,
    to_upstream_error,
)
from tests.helpers.check_cases import check_each


@check_each(
    ("event", "error"),
    [
        ({"error": {"message": "m"}, "choices": [{}]}, {"message": "m"}),
        ({"error": "m"}, "m"),
        ({"object": "error", "message": "m"}, {"object": "error", "message": "m"}),
        ({"code": "c", "message": "m", "choices": None}, {"code": "c", "message": "m", "choices": None}),
        ({"code": "c", "message": "m", "choices": [{}]}, None),
        ({"code": 0, "message": "Success", "choices": []}, None),
        ({"choices": [], "usage": {}}, None),
        ({"message": {"role": "assistant"}, "code": 7}, None),
        ({"error": None}, None),
    ],
)  # fmt: skip
def test_find_error(event: Any, error: Any) -> None:
    assert find_error(event) == error


@check_each("base_resp", [None, {}, {"status_code": 0, "status_msg": "success"}, "x"])
def test_find_minimax_error_in_successful_answer(base_resp: Any) -> None:
    assert find_minimax_error({"base_resp": base_resp}) is None


@check_each(("code", "status"), [(1002, 429), (1008, 402), (2013, 400), (9999, 502)])
def test_find_minimax_error_maps_status(code: int, status: int) -> None:
    event = {"choices": None, "base_resp": {"status_code": code, "status_msg": "no"}}

    error = find_error(event)

    assert (error["code"], error["message"]) == (status, "no")


def test_find_minimax_error_without_message() -> None:
    error = find_minimax_error({"base_resp": {"status_code": 1039, "status_msg": ""}})
    assert error == {
        "message": "The upstream reported the error 1039.",
        "code": 429,
        "type": "upstream_error",
    }


def make_responses_usage(
    input_tokens: int,
    output_tokens: int,
    total: int,
    cached: int = 0,
    reasoning: int = 0,
    cache_writes: int = 0,
) -> dict[str, Any]:
    return {
        "input_tokens": input_tokens,
        "input_tokens_details": {"cached_tokens": cached, "cache_write_tokens": cache_writes},
        "output_tokens": output_tokens,
        "output_tokens_details": {"reasoning_tokens": reasoning},
        "total_tokens": total,
    }


PLAIN = {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8}


@check_each(
    ("chat", "responses"),
    [
        pytest.param(PLAIN, make_responses_usage(5, 3, 8), id="plain"),
        pytest.param(
            {**PLAIN, "prompt_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 1},
             "completion_tokens_details": {"reasoning_tokens": 2}},
            make_responses_usage(5, 3, 8, cached=4, reasoning=2, cache_writes=1),
            id="details",
        ),
        pytest.param(
            {**PLAIN, "prompt_cache_hit_tokens": 4}, make_responses_usage(5, 3, 8, cached=4), id="DeepSeek"
        ),
        pytest.param(
            {"prompt_tokens": 5, "completion_tokens": 3}, make_responses_usage(5, 3, 8), id="no total"
        ),
        pytest.param(
            {**PLAIN, "prompt_tokens_details": None, "completion_tokens_details": {"reasoning_tokens": None}},
            make_responses_usage(5, 3, 8),
            id="null details",
        ),
        pytest.param({"prompt_tokens": 5, "completion_tokens": None}, make_responses_usage(5, 0, 5), id="null"),
        pytest.param({}, None, id="empty"),
        pytest.param(None, None, id="none"),
    ],
)  # fmt: skip
def test_map_usage_to_responses(chat: Any, responses: Any) -> None:
    assert map_usage_to_responses(chat) == responses


def test_usage_round_trip() -> None:
    usage = make_responses_usage(5, 3, 8, cached=4, reasoning=2, cache_writes=1)
    assert map_usage_to_responses(map_usage_to_chat(usage)) == usage
    assert map_usage_to_chat(None) is None


def test_map_usage_to_chat_without_cache_writes() -> None:
    usage = map_usage_to_chat({"input_tokens": 5, "output_tokens": 3})
    assert usage == {
        **PLAIN,
        "prompt_tokens_details": {"cached_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0},
    }


def test_finish_reason_round_trip() -> None:
    for finish in ("length", "content_filter"):
        assert FINISH_REASONS[INCOMPLETE_REASONS[finish]] == finish


@check_each(
    ("error", "status", "code"),
    [
        ({"message": "m", "code": "rate_limit_exceeded"}, 429, "rate_limit_exceeded"),
        ({"message": "m", "code": "server_error"}, 500, "server_error"),
        ({"message": "m", "code": "vector_store_timeout"}, 504, "vector_store_timeout"),
        ({"message": "m", "code": "invalid_prompt"}, 400, "invalid_prompt"),
        ({"message": "m", "type": "x", "code": "cyber_policy"}, 400, "cyber_policy"),
        ({"message": "m", "type": "x", "code": "image_too_small"}, 400, "image_too_small"),
        ({"message": "m", "type": "too_many_requests"}, 429, "rate_limit_exceeded"),
        ({"message": "m", "type": "overloaded_error"}, 503, "server_is_overloaded"),
        ({"message": "Insufficient balance.", "code": "1008"}, 429, "insufficient_quota"),
        ({"message": "No balance left.", "type": "server_error", "code": "1008"}, 500, "1008"),
        ({"message": "m", "type": "authentication_error"}, 401, "invalid_api_key"),
        ({"message": "m", "code": "permission_denied", "type": "x"}, 403, "permission_denied"),
        ({"message": "Model Not Exist"}, 404, "model_not_found"),
        ({"message": "Prompt is too long.", "code": 400}, 400, "context_length_exceeded"),
        ({"object": "error", "message": "m", "type": "BadRequestError", "code": None}, 400, None),
        ({"message": "m", "type": "server_error", "code": "1008"}, 500, "1008"),
        ({"message": "m", "type": "invalid_request_error", "code": "x"}, 400, "x"),
        ({"message": "m", "type": "invalid_request_error"}, 400, None),
        ({"message": "m", "type": "x", "code": "y"}, 502, "y"),
        ({"message": "m", "code": "y"}, 400, "y"),
        ({"message": "m", "code": 400}, 400, "400"),
        ({"message": "m", "code": 503}, 503, "503"),
        ({"message": "m", "code": 600}, 400, "600"),
        ({"message": "m", "code": 1302}, 400, "1302"),
        ({"message": "m"}, 502, None),
        ({}, 502, None),
        ("something", 502, "upstream_protocol"),
        ("overloaded", 503, "server_is_overloaded"),
    ],
)
def test_to_upstream_error_status(error: Any, status: int, code: str | None) -> None:
    upstream_error = to_upstream_error(error)
    assert (upstream_error.status, upstream_error.code) == (status, code)
    assert upstream_error.message


@check_each(
    ("code", "status", "expected"),
    [
        ("rate_limit_exceeded", 500, "rate_limit_exceeded"),
        ("upstream_unreachable", 502, "server_error"),
        (None, 429, "rate_limit_exceeded"),
        ("1210", 429, "rate_limit_exceeded"),
        ("unsupported_value", 400, "invalid_prompt"),
        ("not_found", 404, "invalid_prompt"),
        ("overloaded", 503, "server_is_overloaded"),
        ("ContextLengthExceeded", 400, "context_length_exceeded"),
        *(
            (code, 400, code)
            for code in (
                "context_length_exceeded", "model_not_found", "insufficient_quota", "cyber_policy",
                "server_is_overloaded", "slow_down", "usage_limit_reached", "usage_not_included",
            )
        ),
    ],
)  # fmt: skip
def test_to_response_error_code(code: str | None, status: int, expected: str) -> None:
    assert to_response_error({"code": code, "message": "m"}, status) == {
        "code": expected,
        "message": "m",
    }
    assert to_response_error({"code": code}, status)["message"]


SCHEMA = {"type": "object", "properties": {}}


@check_each(
    ("chat", "responses"),
    [
        ({"type": "text"}, {"type": "text"}),
        ({"type": "json_object"}, {"type": "json_object"}),
        (
            {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA, "strict": True}},
            {"type": "json_schema", "name": "n", "schema": SCHEMA, "strict": True},
        ),
    ],
)
def test_map_format_both_directions(chat: Any, responses: Any) -> None:
    assert map_format_to_responses(chat) == responses
    assert map_format_to_chat(responses) == chat


def test_map_format_adds_required_schema() -> None:
    responses_format = map_format_to_responses(
        {"type": "json_schema", "json_schema": {"name": "n"}}
    )
    assert responses_format == {"type": "json_schema", "name": "n", "schema": {"type": "object"}}


USAGE = {"prompt_tokens": 1}


@check_each(
    "chunk",
    [
        {"choices": [], "usage": USAGE},
        {"choices": [{"delta": {}}], "usage": None, "x_groq": {"usage": USAGE}},
        {"choices": [{"delta": {}, "finish_reason": "stop", "usage": USAGE}]},
    ],
)
def test_read_usage_from_each_place(chunk: dict[str, Any]) -> None:
    assert read_usage(chunk) == USAGE


@check_each("chunk", [{}, {"choices": None}, {"choices": [{}], "x_groq": None}])
def test_read_usage_finds_none(chunk: dict[str, Any]) -> None:
    assert read_usage(chunk) is None


@check_each(
    ("tier", "responses", "chat"),
    [
        ("flex", "flex", "flex"),
        ("ultrafast", "ultrafast", "priority"),
        ("on_demand", "default", "default"),
    ],
)
def test_unknown_service_tiers_become_default(tier: str, responses: str, chat: str) -> None:
    assert (map_tier_to_responses(tier), map_tier_to_chat(tier)) == (responses, chat)


RESULT = {"type": "moderation_result", "model": "omni", "flagged": False, "categories": {}}
FAILED = {"type": "error", "code": "server_error", "message": "No."}


def test_map_moderation() -> None:
    result_list = {"type": "moderation_results", "model": "omni", "results": [RESULT]}
    chat, response = {"input": result_list, "output": FAILED}, {"input": RESULT, "output": FAILED}
    assert map_moderation_to_responses(chat) == response
    assert map_moderation_to_chat(response) == chat


@check_each(
    "moderation",
    [None, [], {}, {"input": None}, {"input": {"type": "moderation_results", "results": []}}],
)
def test_map_moderation_without_results(moderation: Any) -> None:
    assert map_moderation_to_responses(moderation) is None


Json = dict[str, Any]


@check_each(
    ("annotation", "wrapped"),
    [
        (
            {"type": "url_citation", "url": "u", "title": "t"},
            {"type": "url_citation", "url_citation": {"url": "u", "title": "t"}},
        ),
        (
            {"type": "url_citation", "url_citation": {"url": "u"}},
            {"type": "url_citation", "url_citation": {"url": "u"}},
        ),
        ({"url": "u"}, {"url": "u"}),
    ],
)
def test_nest_annotation(annotation: Json, wrapped: Json) -> None:
    assert nest_annotation(annotation) == wrapped


def make_citation(start: int, end: int) -> Json:
    return {"type": "url_citation", "start_index": start, "end_index": end, "url": "u"}


@check_each("convert", [nest_annotation, dict])
@check_each("insertions", [[], [(0, 5)], [(2, 3)], [(0, 1), (3, 2), (6, 4)], [(4, 1)], [(9, 9)]])
def test_shift_annotation_keeps_the_same_words(
    convert: Any, insertions: list[tuple[int, int]]
) -> None:
    text = "abcdefgh"
    extended = "".join(
        "".join("-" * size for at, size in insertions if at == i) + c for i, c in enumerate(text)
    )
    for start in range(len(text)):
        for end in range(start + 1, len(text) + 1):
            shifted = shift_annotation(convert(make_citation(start, end)), insertions)
            inner = shifted.get("url_citation", shifted)
            span = extended[inner["start_index"] : inner["end_index"]]
            assert span.replace("-", "") == text[start:end]
            assert span[0] != "-"
            assert span[-1] != "-"


def test_shift_annotation_keeps_empty_span() -> None:
    shifted = shift_annotation(make_citation(2, 2), [(2, 3)])
    assert (shifted["start_index"], shifted["end_index"]) == (5, 5)
    assert shift_annotation(make_citation(0, 0), [(0, 4)])["end_index"] == 4


def test_shift_annotation_without_positions() -> None:
    for annotation in (
        {"type": "url_citation", "url": "u"},
        {"start_index": "1"},
        "odd",
        None,
        {"type": 1},
    ):
        assert shift_annotation(annotation, [(0, 3)]) == annotation
