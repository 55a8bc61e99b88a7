from __future__ import annotations

from typing import Any

import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from pydantic import TypeAdapter

from forwarder.demo import chat_reply
from forwarder.demo.answer import DemoAnswer, DemoPrompt, make_answer
from forwarder.demo.tools import OfferedTool

ADD = OfferedTool("function", "add", {"properties": {"n": {"const": "a b"}}, "required": ["n"]}, "")
PATCH = OfferedTool("custom", "patch", {}, "")
ASK: dict[str, Any] = {"model": "any"}
COUNTED = {**ASK, "stream_options": {"include_usage": True}}
CHUNK = TypeAdapter(ChatCompletionChunk)
WHOLE = TypeAdapter(ChatCompletion)
ANSWERS = {
    "text": make_answer(DemoPrompt("hello  you\n", 2)),
    "thoughtless": make_answer(DemoPrompt("hello", 1, includes_reasoning=False)),
    "function": make_answer(DemoPrompt("hello", 1, tool=ADD)),
    "custom": make_answer(DemoPrompt("hello", 1, tool=PATCH)),
    "cut in the reasoning": make_answer(DemoPrompt("hello", 1, limit=3)),
    "cut in the text": make_answer(DemoPrompt("hello", 1, limit=9)),
    "cut in the arguments": make_answer(DemoPrompt("hello", 1, tool=ADD, limit=8)),
}
SHOWN = pytest.mark.parametrize("shown", ANSWERS.values(), ids=ANSWERS)


def chunks(shown: DemoAnswer, request: dict[str, Any] = COUNTED) -> list[dict[str, Any]]:
    return list(chat_reply.iter_chunks(request, shown, "k", 7))


def fold(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """The message that the deltas add up to."""
    message: dict[str, Any] = {}
    for part in parts:
        for choice in part["choices"]:
            _grow(message, choice["delta"])
    for call in message.get("tool_calls", ()):
        del call["index"]
    return message


def _grow(grown: dict[str, Any], delta: dict[str, Any]) -> None:
    for name, value in delta.items():
        if name == "tool_calls":
            _grow(grown.setdefault(name, [{}])[0], value[0])
        elif isinstance(value, dict):
            _grow(grown.setdefault(name, {}), value)
        elif isinstance(value, str) and isinstance(grown.get(name), str):
            grown[name] += value
        else:
            grown[name] = value


@SHOWN
def test_the_stream_folds_to_the_whole(shown: DemoAnswer) -> None:
    parts, whole = chunks(shown), chat_reply.build_completion(ASK, shown, "k", 7)
    assert fold(parts) == whole["choices"][0]["message"]
    assert parts[-2]["choices"][0]["finish_reason"] == whole["choices"][0]["finish_reason"]
    assert parts[-1]["usage"] == whole["usage"]
    assert all(part[name] == whole[name] for part in parts for name in ("id", "created", "model"))


@pytest.mark.parametrize("name", sorted(ANSWERS.keys() - {"custom"}))
def test_every_chunk_is_one_the_sdk_knows(name: str) -> None:
    for part in chunks(ANSWERS[name]):
        chunk = CHUNK.validate_python(part, strict=True)
        assert not chunk.model_extra
        for choice in chunk.choices:
            assert set(choice.delta.model_extra or ()) <= {"reasoning_content"}


def test_a_custom_call_streams_although_the_chunk_type_of_the_sdk_lacks_it() -> None:
    calls = [
        call
        for part in chunks(ANSWERS["custom"])
        for choice in part["choices"]
        for call in choice["delta"].get("tool_calls", ())
    ]
    opening = {"name": "patch", "input": ""}
    assert calls[0] == {"index": 0, "id": "call_k", "type": "custom", "custom": opening}
    assert calls[1] == {"index": 0, "custom": {"input": "[demo"}}


@SHOWN
def test_the_whole_is_one_the_sdk_knows(shown: DemoAnswer) -> None:
    whole = WHOLE.validate_python(chat_reply.build_completion(ASK, shown, "k", 7), strict=True)
    assert not whole.model_extra
    assert set(whole.choices[0].message.model_extra or ()) <= {"reasoning_content"}


@SHOWN
def test_the_role_comes_once_and_first_and_the_finish_once_and_last(shown: DemoAnswer) -> None:
    choices = [part["choices"][0] for part in chunks(shown, ASK)]
    assert ["role" in choice["delta"] for choice in choices] == [True] + [False] * (
        len(choices) - 1
    )
    assert [choice["finish_reason"] is None for choice in choices] == [True] * (
        len(choices) - 1
    ) + [False]
    assert choices[-1]["delta"] == {}


@pytest.mark.parametrize(
    ("name", "finish", "content"),
    [
        ("text", "stop", "[demo upstream] You said: hello  you\n"),
        ("function", "tool_calls", None),
        ("custom", "tool_calls", None),
        ("cut in the reasoning", "length", ""),
        ("cut in the text", "length", "[demo upstream]"),
        ("cut in the arguments", "length", None),
    ],
)
def test_the_finish_tells_how_it_ended(name: str, finish: str, content: str | None) -> None:
    choice = chat_reply.build_completion(ASK, ANSWERS[name], "k", 7)["choices"][0]
    assert (choice["finish_reason"], choice["message"]["content"]) == (finish, content)
    assert choice["message"]["refusal"] is None


def test_text_comes_word_by_word() -> None:
    deltas = [part["choices"][0]["delta"] for part in chunks(ANSWERS["text"], ASK)]
    words = [delta["content"] for delta in deltas if delta.get("content")]
    assert words == ["[demo", " upstream]", " You", " said:", " hello", "  you", "\n"]


def test_usage_comes_in_a_last_chunk_without_choices_when_asked() -> None:
    parts = chunks(ANSWERS["text"])
    assert parts[-1]["choices"] == []
    assert all(part["usage"] is None for part in parts[:-1])


@pytest.mark.parametrize("options", [None, {}, {"include_usage": False}])
def test_usage_is_not_sent_unasked(options: Any) -> None:
    parts = chunks(ANSWERS["text"], {**ASK, "stream_options": options})
    assert not any("usage" in part for part in parts)
    assert all(part["choices"] for part in parts)


def test_usage_counts_words() -> None:
    usage = chat_reply.build_completion(ASK, ANSWERS["cut in the text"], "k", 7)["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]) == (1, 9, 10)
    assert usage["completion_tokens_details"]["reasoning_tokens"] == 7
    assert usage["prompt_tokens_details"]["cached_tokens"] == 0
