"""JSON schemas for providers without schema support."""

from __future__ import annotations

from typing import Any

import pytest

from forwarder.core.errors import InvalidRequest, UpstreamRefused
from forwarder.core.types import Batch, Event
from forwarder.middleware.json_schema import with_json_schema
from forwarder.middleware.json_schema_validation import MAX_STEPS
from forwarder.protocols.fold import fold_chat
from tests.helpers.check_cases import check_each
from tests.helpers.sdk import chunk_mistakes
from tests.helpers.translating import collect_events
from tests.middleware.chatting import (
    BASE,
    REQUEST,
    USAGE,
    Scripted,
    make_chunk,
    make_text_chunks,
    one_by_one,
)
from tests.middleware.test_json_schema_validation import PERSON

Json = dict[str, Any]

FORMAT = {
    "type": "json_schema",
    "json_schema": {"name": "person", "schema": PERSON, "strict": True},
}
SCHEMA_REQUEST = {**REQUEST, "response_format": FORMAT}
VALID, INVALID, NO_JSON = '{"name":"A"}', '{"nme":"A"}', "Certainly!"
LEVELS = check_each("level", ["json_object", "none"])


def read_answer(*scripts: Any, level: str = "json_object", **more: Any) -> tuple[Json, Scripted]:
    """The folded answer to a request with a schema, and its upstream."""
    upstream = Scripted(*scripts)
    return fold_chat(
        with_json_schema(upstream, level, MAX_STEPS)({**SCHEMA_REQUEST, **more})
    ), upstream


def make_whole_answer(text: str) -> list[Batch]:
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return [[{**BASE, "object": "chat.completion", "choices": [choice], "usage": USAGE}]]


def text_of(answer: Json) -> Any:
    return answer["choices"][0]["message"]["content"]


# -- the request --------------------------------------------------------------------------------


@LEVELS
def test_schema_moves_to_the_prompt_and_format_is_lowered(level: str) -> None:
    system = {"role": "developer", "content": "Be kind."}
    question = {"role": "user", "content": "Who?"}
    _, upstream = read_answer(
        one_by_one(make_text_chunks(VALID)), level=level, messages=[system, question]
    )
    [request] = upstream.requests
    assert request.get("response_format") == (
        {"type": "json_object"} if level == "json_object" else None
    )
    assert request["messages"][0] == system
    assert request["messages"][2] == question
    instruction = request["messages"][1]
    assert instruction["role"] == "system"
    assert "JSON" in instruction["content"]
    assert '"required":["name"]' in instruction["content"]


def test_json_object_is_requested_in_the_prompt_without_format_support() -> None:
    upstream = Scripted(
        one_by_one(make_text_chunks("Sure", "!")), one_by_one(make_text_chunks('{"any":1}'))
    )
    answer = fold_chat(
        with_json_schema(upstream, "none", MAX_STEPS)(
            {**REQUEST, "response_format": {"type": "json_object"}}
        )
    )
    assert text_of(answer) == '{"any":1}'
    assert "response_format" not in upstream.requests[0]


@check_each(
    ("level", "response_format"),
    [("json_object", None), ("json_object", {"type": "json_object"}), ("json_object", {"type": "text"}),
     ("none", None), ("none", {"type": "text"})],
)  # fmt: skip
def test_other_requests_get_the_inner_stream(level: str, response_format: Any) -> None:
    stream = iter([[]])
    handler = with_json_schema(lambda request: stream, level, MAX_STEPS)
    assert handler({**REQUEST, "response_format": response_format}) is stream
    assert handler(REQUEST) is stream


@check_each("level", ["json_schema", "schema_only"])
def test_provider_with_schemas_gets_the_request_unchanged(level: str) -> None:
    upstream = Scripted()
    assert with_json_schema(upstream, level, MAX_STEPS) is upstream


@check_each(
    ("response_format", "param"),
    [
        ("json", "response_format"),
        ({"type": "json_schema", "json_schema": 5}, "response_format.json_schema"),
        ({"type": "json_schema", "json_schema": {"schema": 5}}, "response_format.json_schema.schema"),
        ({"type": "json_schema", "json_schema": {"schema": {"type": "x"}}}, "response_format.json_schema.schema"),
    ],
)  # fmt: skip
def test_malformed_format_is_rejected_before_the_upstream_call(
    response_format: Any, param: str
) -> None:
    upstream = Scripted()
    with pytest.raises(InvalidRequest) as caught:
        with_json_schema(upstream, "json_object", MAX_STEPS)(
            {**REQUEST, "response_format": response_format}
        )
    assert caught.value.param == param
    assert upstream.requests == []


def test_upstream_refusal_is_raised_before_the_stream() -> None:
    with pytest.raises(UpstreamRefused):
        with_json_schema(Scripted(UpstreamRefused(429, {})), "json_object", MAX_STEPS)(
            SCHEMA_REQUEST
        )


# -- the answer ---------------------------------------------------------------------------------


@check_each(
    "text",
    [VALID, f"```json\n{VALID}\n```", f"```\n{VALID}\n```\n", f"<think>hm {{</think>\n{VALID}", f" {VALID}\n",
     f"<think>x</think>\n```json\n{VALID}\n```"],
)  # fmt: skip
def test_matching_answer_is_reduced_to_json(text: str) -> None:
    answer, upstream = read_answer(one_by_one(make_text_chunks(*text)))
    assert text_of(answer) == VALID
    assert answer["usage"] == USAGE
    assert "metadata" not in answer["choices"][0]["message"]
    assert len(upstream.requests) == 1


@check_each("first", [INVALID, NO_JSON, ""])
def test_mismatching_answer_is_requested_once_more(first: str) -> None:
    answer, upstream = read_answer(
        one_by_one(make_text_chunks(first)), one_by_one(make_text_chunks(VALID))
    )
    assert text_of(answer) == VALID
    first_request, second = upstream.requests
    assert second["messages"][:-2] == first_request["messages"]
    assert second["messages"][-2] == {"role": "assistant", "content": first}
    assert second["messages"][-1]["role"] == "user"
    assert "does not fit" in second["messages"][-1]["content"]


def test_retry_prompt_names_the_mistake() -> None:
    _, upstream = read_answer(
        one_by_one(make_text_chunks(INVALID)), one_by_one(make_text_chunks(VALID))
    )
    assert "'name' is a required property" in upstream.requests[1]["messages"][-1]["content"]


def test_usage_includes_both_attempts() -> None:
    answer, _ = read_answer(
        one_by_one(make_text_chunks(INVALID)), one_by_one(make_text_chunks(VALID))
    )
    assert answer["usage"]["prompt_tokens"] == 20
    assert answer["usage"]["completion_tokens"] == 60
    assert answer["usage"]["total_tokens"] == 80


def test_second_mismatch_is_sent_with_schema_error() -> None:
    answer, upstream = read_answer(
        one_by_one(make_text_chunks(INVALID)), one_by_one(make_text_chunks(NO_JSON))
    )
    assert text_of(answer) == NO_JSON
    assert "not valid JSON" in answer["choices"][0]["message"]["metadata"]["schema_error"]
    assert len(upstream.requests) == 2


def test_first_answer_is_sent_if_the_retry_fails() -> None:
    answer, _ = read_answer(
        one_by_one(make_text_chunks(INVALID)), UpstreamRefused(429, {"message": "slow down"})
    )
    assert text_of(answer) == INVALID
    assert answer["choices"][0]["message"]["metadata"]["schema_error"]


@check_each("finish", ["length", "content_filter"])
def test_truncated_answer_is_not_retried(finish: str) -> None:
    answer, upstream = read_answer(one_by_one(make_text_chunks('{"na', finish=finish)))
    assert text_of(answer) == '{"na'
    assert answer["choices"][0]["finish_reason"] == finish
    assert len(upstream.requests) == 1


def test_calls_and_refusals_are_not_validated() -> None:
    call = {"index": 0, "id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    answer, _ = read_answer([[make_chunk({"tool_calls": [call]})], [make_chunk({}, "tool_calls")]])
    assert answer["choices"][0]["message"]["tool_calls"][0]["id"] == "c"
    answer, _ = read_answer([[make_chunk({"refusal": "No."})], [make_chunk({}, "stop")]])
    assert answer["choices"][0]["message"]["refusal"] == "No."


def test_think_block_before_the_json_becomes_reasoning() -> None:
    answer, _ = read_answer(one_by_one(make_text_chunks(f"<think>hm {{}}</think>\n{VALID}")))
    assert answer["choices"][0]["message"]["reasoning_content"] == "hm {}"


def test_reasoning_is_kept() -> None:
    answer, _ = read_answer(
        [[make_chunk({"reasoning_content": "hm"})], *one_by_one(make_text_chunks(VALID))]
    )
    assert answer["choices"][0]["message"]["reasoning_content"] == "hm"


def test_streaming_client_gets_the_answer_in_one_chunk() -> None:
    script: list[Batch] = [[], *one_by_one(make_text_chunks(*VALID)), []]
    batches = list(with_json_schema(Scripted(script), "json_object", MAX_STEPS)(SCHEMA_REQUEST))
    assert batches[:-1] == [[], []]
    answer: list[Event] = batches[-1]
    assert [event["object"] for event in answer] == ["chat.completion.chunk"] * 2
    assert answer[0]["choices"][0]["delta"]["content"] == VALID
    assert answer[0]["choices"][0]["finish_reason"] == "stop"
    assert "usage" not in answer[0]
    assert answer[1]["choices"] == []
    assert [mistake for event in answer for mistake in chunk_mistakes(event)] == []


def test_waiting_client_gets_heartbeats() -> None:
    upstream = Scripted([[], *one_by_one(make_text_chunks(*VALID)), []])
    batches = list(with_json_schema(upstream, "json_object", MAX_STEPS)(SCHEMA_REQUEST))
    assert batches[:-1] == [[], []]


def test_whole_answer_remains_one_object() -> None:
    upstream = Scripted(make_whole_answer(INVALID), make_whole_answer(f"```json\n{VALID}\n```"))
    [[answer]] = with_json_schema(upstream, "json_object", MAX_STEPS)(
        {**SCHEMA_REQUEST, "stream": False}
    )
    assert answer["object"] == "chat.completion"
    assert text_of(answer) == VALID


def test_every_choice_is_validated() -> None:
    def choices(*texts: str) -> list[Batch]:
        return [[make_chunk({"content": text}, "stop", index=i)] for i, text in enumerate(texts)]

    upstream = Scripted(choices(VALID, INVALID), choices(f" {VALID}", VALID))
    events = collect_events(
        with_json_schema(upstream, "json_object", MAX_STEPS)({**SCHEMA_REQUEST, "n": 2})
    )
    assert [event["choices"][0]["delta"]["content"] for event in events] == [VALID, VALID]


@LEVELS
def test_answer_over_the_step_budget_is_sent_unchecked(level: str) -> None:
    names = "[" + ",".join(f'"{i}"' for i in range(500)) + "]"
    response_format = {"type": "json_schema", "json_schema": {"schema": {"uniqueItems": True}}}
    upstream = Scripted(one_by_one(make_text_chunks(f"```json\n{names}\n```")))
    handler = with_json_schema(upstream, level, max_steps=300)

    answer = fold_chat(handler({**SCHEMA_REQUEST, "response_format": response_format}))

    assert text_of(answer) == names
    assert (
        "300 steps (limit: FORWARDER_MAX_SCHEMA_NODES)"
        in (answer["choices"][0]["message"]["metadata"]["schema_error"])
    )
    assert len(upstream.requests) == 1
