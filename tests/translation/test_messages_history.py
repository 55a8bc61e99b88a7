"""Conversations of Messages requests that are malformed, or come in unusual forms."""

from __future__ import annotations

from typing import Any

import pytest

from forwarder.core.errors import InvalidRequest, Unsupported
from forwarder.core.translation_context import TranslationContext
from forwarder.translation.messages_history import (
    AssistantBlock,
    Thinking,
    read_conversation,
    read_system,
)
from forwarder.translation.messages_request_content import PathBlock
from tests.helpers.check_cases import check_each
from tests.helpers.translating import SEAL, make_translator_context

Json = dict[str, Any]
Entry = tuple[str, Any]

CALL = {"type": "tool_use", "id": "toolu_1", "name": "f", "input": {}}
RESULT = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "x"}
IMAGE = {"type": "base64", "media_type": "image/png", "data": "AAAA"}


class RecordingBuilder:
    """Records the entries of the conversation."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []

    def add_system(self, text: str) -> None:
        self.entries.append(("system", text))

    def add_user(self, parts: list[PathBlock]) -> None:
        self.entries.append(("user", [part.get("text", part) for part, _ in parts]))

    def add_result(self, call_id: str, content: list[PathBlock]) -> None:
        self.entries.append((call_id, [part.get("text", part) for part, _ in content]))

    def add_assistant(self, blocks: list[AssistantBlock]) -> None:
        self.entries.append(("assistant", [b if isinstance(b, str) else tuple(b) for b in blocks]))


def read_entries(*messages: Any, context: TranslationContext | None = None) -> list[Entry]:
    builder = RecordingBuilder()
    read_conversation(list(messages), builder, context or make_translator_context())
    return builder.entries


def make_user_message(*content: Any) -> Json:
    return {"role": "user", "content": list(content)}


def make_assistant_message(*content: Any) -> Json:
    return {"role": "assistant", "content": list(content)}


def make_text_block(value: str) -> Json:
    return {"type": "text", "text": value}


def test_messages_of_one_role_are_one_turn() -> None:
    second = {**CALL, "id": "toolu_2"}
    entries = read_entries(
        {"role": "user", "content": "a"},
        make_user_message(make_text_block("b")),
        make_assistant_message(CALL),
        make_assistant_message(second),
        make_user_message(RESULT),
        make_user_message(
            {**RESULT, "tool_use_id": "toolu_2", "content": [make_text_block("y")]},
            make_text_block("c"),
        ),
    )

    assert [kind for kind, _ in entries] == ["user", "assistant", "toolu_1", "toolu_2", "user"]
    assert entries[0] == ("user", ["a", "b"])
    assert entries[-1] == ("user", ["c"])


def test_results_come_before_the_rest_of_the_turn() -> None:
    assert read_entries(
        make_user_message(make_text_block("a")),
        make_assistant_message(CALL),
        make_user_message(make_text_block("b"), RESULT),
    )[2:] == [
        ("toolu_1", ["x"]),
        ("user", ["b"]),
    ]


def test_system_texts_between_calls_and_results_follow_the_results() -> None:
    system = {"role": "system", "content": "s"}
    assert read_entries(
        make_user_message(make_text_block("a")),
        system,
        make_assistant_message(CALL),
        system,
        make_user_message(RESULT),
    ) == [
        ("user", ["a"]),
        ("system", "s"),
        ("assistant", [("toolu_1", "f", "{}")]),
        ("toolu_1", ["x"]),
        ("system", "s"),
    ]


def test_system_messages_may_change_tools_and_settings() -> None:
    context = make_translator_context()
    removal = {"type": "tool_removal", "tool": {"type": "tool_reference", "name": "f"}}
    changed = {
        "role": "system",
        "content": [make_text_block("s"), removal],
        "clear_at": "next_user_message",
    }
    effort = {"role": "system", "output_config": {"effort": "low"}}

    assert read_entries(
        make_user_message(make_text_block("a")), effort, changed, context=context
    ) == [
        ("user", ["a"]),
        ("system", "s"),
    ]
    assert sorted(context.loss_report.losses) == [
        "messages.clear_at",
        "messages.output_config",
        "messages.tool_removal",
    ]


def test_system_prompt_is_one_text_without_the_billing_block() -> None:
    billing = make_text_block("x-anthropic-billing-header: cc_version=1")

    assert (
        read_system(
            {"system": [billing, make_text_block("a"), make_text_block(""), make_text_block("b")]}
        )
        == "a\n\nb"
    )
    assert read_system({"system": "a"}) == "a"
    assert read_system({}) == ""


def test_failed_call_is_noted_in_its_result() -> None:
    failed = {**RESULT, "is_error": True}
    assert read_entries(
        make_user_message(make_text_block("a")),
        make_assistant_message(CALL),
        make_user_message(failed),
    )[-1] == (
        "toolu_1",
        ["[The tool call failed.]", "x"],
    )


def test_references_to_tools_become_texts() -> None:
    result = {**RESULT, "content": [{"type": "tool_reference", "tool_name": "g"}]}
    assert read_entries(
        make_user_message(make_text_block("a")),
        make_assistant_message(CALL),
        make_user_message(result),
    )[-1][1] == ["The tool 'g' is available."]


def test_foreign_signatures_are_dropped_without_the_text() -> None:
    thinking = {"type": "thinking", "thinking": "so", "signature": "EqQB"}
    sealed = {**thinking, "signature": f'{SEAL}{{"a": 1}}'}

    assert read_entries(
        make_user_message(make_text_block("a")), make_assistant_message(thinking, sealed)
    )[-1][1] == [
        tuple(Thinking("so", None)),
        tuple(Thinking("so", {"a": 1})),
    ]


def test_redacted_thinking_of_others_is_dropped() -> None:
    redacted = {"type": "redacted_thinking", "data": "EqQB"}
    context = make_translator_context()

    assert read_entries(
        make_user_message(make_text_block("a")),
        make_assistant_message(redacted, make_text_block("b")),
        context=context,
    )[-1][1] == ["b"]
    assert list(context.loss_report.losses) == ["messages.redacted_thinking"]
    with pytest.raises(Unsupported):
        read_entries(
            make_user_message(make_text_block("a")),
            make_assistant_message(redacted),
            context=make_translator_context(strict=True),
        )


MALFORMED: dict[str, tuple[list[Any], str]] = {
    "no object": (["a"], "messages[0]"),
    "no role": ([{"content": "a"}], "messages[0].role"),
    "unknown role": ([{"role": "tool", "content": "a"}], "messages[0].role"),
    "no content": ([{"role": "user"}], "messages[0].content"),
    "content of another type": ([{"role": "user", "content": 1}], "messages[0].content"),
    "block without a type": ([make_user_message({})], "messages[0].content[0].type"),
    "unknown block": ([make_user_message({"type": "video"})], "messages[0].content[0].type"),
    "call of a user": ([make_user_message(CALL)], "messages[0].content[0].type"),
    "image of the assistant": (
        [make_assistant_message({"type": "image", "source": IMAGE})],
        "messages[0].content[0].type",
    ),
    "text that is none": (
        [make_user_message({"type": "text", "text": 1})],
        "messages[0].content[0].text",
    ),
    "image without a source": (
        [make_user_message({"type": "image"})],
        "messages[0].content[0].source",
    ),
    "image of an unknown source": (
        [make_user_message({"type": "image", "source": {"type": "x"}})],
        "messages[0].content[0].source.type",
    ),
    "image that is not base64": (
        [make_user_message({"type": "image", "source": {**IMAGE, "data": "\u00e9"}})],
        "messages[0].content[0].source",
    ),
    "image of an evil type": (
        [make_user_message({"type": "image", "source": {**IMAGE, "media_type": "image/png,x"}})],
        "messages[0].content[0].source",
    ),
    "unknown document": (
        [make_user_message({"type": "document", "source": {"type": "x"}})],
        "messages[0].content[0].source.type",
    ),
    "result without a call": ([make_user_message(RESULT)], "messages[0].content[0].tool_use_id"),
    "call without a result": (
        [
            make_user_message(make_text_block("a")),
            make_assistant_message(CALL),
            make_user_message(make_text_block("b")),
        ],
        "messages[2]",
    ),
    "call at the end": (
        [make_user_message(make_text_block("a")), make_assistant_message(CALL)],
        "messages[1]",
    ),
    "two calls of one id": ([make_assistant_message(CALL, CALL)], "messages[0]"),
    "result twice": (
        [
            make_user_message(make_text_block("a")),
            make_assistant_message(CALL),
            make_user_message(RESULT, RESULT),
        ],
        "messages[2].content[1].tool_use_id",
    ),
    "input that is no object": (
        [make_assistant_message({**CALL, "input": "x"})],
        "messages[0].content[0].input",
    ),
}


@check_each("name", MALFORMED)
def test_malformed_conversations_are_refused(name: str) -> None:
    messages, param = MALFORMED[name]
    with pytest.raises(InvalidRequest) as caught:
        read_entries(*messages)
    assert caught.value.param == param
