"""Earlier turns of a Messages conversation as Responses items."""

from __future__ import annotations

from typing import Any

from forwarder.translation.messages_history import Thinking, ToolCall
from forwarder.translation.messages_over_responses.history import ResponsesConversationBuilder
from tests.helpers.translating import make_translator_context

ORIGIN = "up/model"
ITEM = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "x"}


def build_items(*blocks: Any, **changes: Any) -> tuple[list[Any], dict[str, str]]:
    context = make_translator_context(origin=ORIGIN, **changes)
    builder = ResponsesConversationBuilder(context)
    builder.add_assistant(list(blocks))
    return builder.items, context.loss_report.losses


def test_items_keep_the_order_of_the_blocks() -> None:
    sealed = {"origin": ORIGIN, "item": ITEM}
    items, losses = build_items(Thinking("so", sealed), "a", ToolCall("c", "f", "{}"), "b")

    assert items[0] == ITEM
    assert [item["type"] for item in items[1:]] == ["message", "function_call", "message"]
    assert losses == {}


def test_item_of_another_model_is_omitted() -> None:
    items, losses = build_items(Thinking("", {"origin": "else/where", "item": ITEM}), "a")

    assert [item["type"] for item in items] == ["message"]
    assert list(losses) == ["messages.thinking.signature"]


def test_reasoning_text_is_sent_to_upstreams_that_accept_it() -> None:
    sealed = {"origin": ORIGIN, "reasoning_content": "hidden"}
    thinking = Thinking("", sealed), Thinking("so", None)
    items, losses = build_items(*thinking, "a", extensions=["reasoning_text"])

    assert [item["content"][0]["text"] for item in items] == ["hidden", "so", "a"]
    assert [item["id"] for item in items[:2]] == ["rs_0", "rs_1"]
    assert losses == {}


def test_reasoning_text_is_noted_for_other_upstreams() -> None:
    items, losses = build_items(Thinking("so", None), Thinking("", None), "a")

    assert len(items) == 1
    assert list(losses) == ["messages.thinking"]


def test_trailing_reasoning_is_omitted() -> None:
    sealed = {"origin": ORIGIN, "item": ITEM}
    items, _ = build_items(Thinking("", sealed), "a", Thinking("", sealed))

    assert [item["type"] for item in items] == ["reasoning", "message"]
    assert build_items(Thinking("", sealed)) == ([], {})


def test_system_messages_become_developer_messages() -> None:
    builder = ResponsesConversationBuilder(make_translator_context())
    builder.add_system("")
    builder.add_system("s")

    assert [item["role"] for item in builder.items] == ["developer"]
