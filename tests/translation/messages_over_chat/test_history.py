"""Earlier turns of a Messages conversation as chat messages."""

from __future__ import annotations

from typing import Any

from forwarder.translation.messages_history import Thinking, ToolCall
from forwarder.translation.messages_over_chat.history import ChatConversationBuilder
from tests.helpers.translating import make_translator_context

ORIGIN = "up/model"


def build_message(*blocks: Any, origin: str = ORIGIN) -> dict[str, Any]:
    builder = ChatConversationBuilder("", make_translator_context(origin=origin))
    builder.add_assistant(list(blocks))
    message: dict[str, Any] = builder.messages[0]
    return message


def test_system_prompt_comes_first() -> None:
    builder = ChatConversationBuilder("s", make_translator_context())
    builder.add_system("")

    assert builder.messages == [{"role": "system", "content": "s"}]


def test_reasoning_of_one_turn_is_joined() -> None:
    details: list[Any] = [{"signature": "a"}, {"signature": "b"}]
    sealed = [{"origin": ORIGIN, "reasoning_details": [detail]} for detail in details]

    message = build_message(Thinking("a", sealed[0]), Thinking("b", sealed[1]), "text")

    assert message["reasoning_content"] == "a\n\nb"
    assert message["reasoning_details"] == details


def test_objects_and_other_values_are_merged() -> None:
    sealed = [
        {"origin": ORIGIN, "extra_content": {"a": 1}, "reasoning_opaque": "x"},
        {"origin": ORIGIN, "extra_content": {"b": 2}, "reasoning_opaque": ["y"]},
    ]

    message = build_message(*(Thinking("", seal) for seal in sealed), "text")

    assert message["extra_content"] == {"a": 1, "b": 2}
    assert message["reasoning_opaque"] == ["y"]


def test_text_of_a_responses_reasoning_item_is_read() -> None:
    item = {"type": "reasoning", "summary": [{"text": "a"}, {"text": "b"}]}

    assert (
        build_message(Thinking("", {"origin": "x", "item": item}), "t")["reasoning_content"]
        == "a\n\nb"
    )


def test_signatures_of_another_model_are_not_sent() -> None:
    sealed = {"origin": "else/where", "calls": {"c": {"thought_signature": "x"}}, "reasoning_details": [1]}  # fmt: skip

    message = build_message(Thinking("so", sealed), ToolCall("c", "f", "{}"))

    assert message == {
        "role": "assistant",
        "content": None,
        "reasoning_content": "so",
        "tool_calls": [
            {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
        ],
    }


def test_turn_without_text_and_calls_adds_no_message() -> None:
    builder = ChatConversationBuilder("", make_translator_context())
    builder.add_assistant([Thinking("so", None)])

    assert builder.messages == []
