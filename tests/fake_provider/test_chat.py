"""Answers in the format of Chat Completions, checked by the SDK's types and accumulator."""

from __future__ import annotations

from typing import Any

import pytest
from openai import OpenAI
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from tests.fake_provider import Answer, Call, ScriptedUpstream
from tests.fake_provider.answers import Json, ModelRequest
from tests.fake_provider.chat import make_chunks, make_completion
from tests.fake_provider.samples import ANSWERS, CUSTOM
from tests.helpers.check_cases import check_each

QUESTION: list[Any] = [{"role": "user", "content": "hello"}]

kinds = check_each("answer", ANSWERS.values(), ids=ANSWERS)


def make_request(**body: Any) -> ModelRequest:
    """A request on Chat Completions."""
    return ModelRequest("chat", {"model": "m", "messages": QUESTION, **body})


def fold_message(chunks: list[Json]) -> Json:
    """Return the message that the deltas add up to."""
    message: Json = {"tool_calls": {}}
    for choice in (choice for chunk in chunks for choice in chunk["choices"]):
        for name, value in choice["delta"].items():
            if name == "tool_calls":
                _fold_calls(message["tool_calls"], value)
            elif value is not None:
                message[name] = message[name] + value if name in message else value
    return message


def _fold_calls(calls: dict[int, Json], deltas: list[Json]) -> None:
    for delta in deltas:
        call = calls.setdefault(delta["index"], delta)
        if call is not delta:
            call["function"]["arguments"] += delta["function"]["arguments"]


@kinds
def test_every_chunk_matches_the_sdk_s_type(answer: Answer) -> None:
    for chunk in make_chunks(
        answer, make_request(stream=True, stream_options={"include_usage": True})
    ):
        ChatCompletionChunk.model_validate(chunk, strict=True)


@kinds
def test_whole_completion_matches_the_sdk_s_type(answer: Answer) -> None:
    ChatCompletion.model_validate(make_completion(answer, make_request()), strict=True)


@kinds
def test_stream_and_whole_completion_are_equal(answer: Answer) -> None:
    choice = make_completion(answer, make_request())["choices"][0]
    chunks = make_chunks(answer, make_request(stream=True))

    message = fold_message(chunks)

    assert (message.get("content") or None) == (choice["message"]["content"] or None)
    assert message.get("refusal") == choice["message"]["refusal"]
    assert chunks[-1]["choices"][0]["finish_reason"] == choice["finish_reason"]
    calls = [
        {k: v for k, v in call.items() if k != "index"} for call in message["tool_calls"].values()
    ]
    assert calls == choice["message"].get("tool_calls", [])


def test_usage_is_last_and_only_on_request() -> None:
    chunks_with_usage = make_chunks(
        Answer(text="a"), make_request(stream=True, stream_options={"include_usage": True})
    )
    chunks_without_usage = make_chunks(Answer(text="a"), make_request(stream=True))

    assert chunks_with_usage[-1]["choices"] == []
    assert chunks_with_usage[-1]["usage"]["total_tokens"] == 30
    assert {str(chunk["usage"]) for chunk in chunks_with_usage[:-1]} == {"None"}
    assert not any("usage" in chunk for chunk in chunks_without_usage)


def test_calls_are_counted_and_only_their_head_has_a_name() -> None:
    """Indexes count the calls; ids are the call's own or generated."""
    chunks = make_chunks(ANSWERS["parallel_calls"], make_request(stream=True))
    calls = [c for chunk in chunks for c in chunk["choices"][0]["delta"].get("tool_calls", ())]

    heads = [call for call in calls if "id" in call]
    assert [(call["index"], call["id"]) for call in heads] == [(0, "call_0_1"), (1, "call_mine")]
    assert all("name" not in call["function"] for call in calls if call not in heads)


def test_custom_calls_have_their_own_shape() -> None:
    """They have ``custom`` with ``input`` instead of ``function`` with ``arguments``."""
    call = make_completion(CUSTOM, make_request())["choices"][0]["message"]["tool_calls"][0]

    assert call["type"] == "custom"
    assert call["custom"] == {"name": "apply_patch", "input": "*** Begin Patch"}


def test_a_namespace_is_part_of_the_name() -> None:
    """Chat Completions has no namespaces."""
    answer = Answer(calls=[Call("find", namespace="mcp")])

    message = make_completion(answer, make_request())["choices"][0]["message"]

    assert message["tool_calls"][0]["function"]["name"] == "mcp__find"


def test_number_of_choices_is_n() -> None:
    chunks = make_chunks(Answer(text="a"), make_request(stream=True, n=2))

    assert {choice["index"] for chunk in chunks for choice in chunk["choices"]} == {0, 1}
    assert len(make_completion(Answer(text="a"), make_request(n=2))["choices"]) == 2


def test_obfuscation_is_sent_unless_disabled() -> None:
    request = make_request(stream=True, stream_options={"include_obfuscation": False})

    assert "obfuscation" in make_chunks(Answer(text="a"), make_request(stream=True))[0]
    assert not any("obfuscation" in chunk for chunk in make_chunks(Answer(text="a"), request))


@pytest.mark.parametrize("name", sorted(ANSWERS.keys() - {"length", "filtered"}))
def test_sdk_s_stream_helper_accumulates_the_same_message(
    name: str, upstream: ScriptedUpstream, sdk: OpenAI
) -> None:
    """The helper raises for the two endings that are left out."""
    answer = ANSWERS[name]
    upstream.script(answer, answer)

    with sdk.chat.completions.stream(model="m", messages=QUESTION) as stream:
        final = stream.get_final_completion().choices[0]
    choice = sdk.chat.completions.create(model="m", messages=QUESTION).choices[0]

    assert (final.message.content or None) == (choice.message.content or None)
    assert final.finish_reason == choice.finish_reason
    names = [call.function.name for call in final.message.tool_calls or ()]
    assert names == [call.name for call in answer.calls]
