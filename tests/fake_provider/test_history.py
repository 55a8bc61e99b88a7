"""Conversations of both protocols as one list of steps."""

from __future__ import annotations

from tests.fake_provider.answers import Json, ModelRequest
from tests.fake_provider.history import Step, Turn, as_items, list_steps, text_of
from tests.helpers.check_cases import check_each

MESSAGES: list[Json] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": [{"type": "text", "text": "hi"}]},
    {
        "role": "assistant",
        "content": "one moment",
        "tool_calls": [
            {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}},
            {"id": "b", "type": "custom", "custom": {"name": "c", "input": ""}},
        ],
    },
    {"role": "tool", "tool_call_id": "a", "content": "1"},
    {"role": "tool", "tool_call_id": "b", "content": "2"},
]

ITEMS: list[Json] = [
    {"role": "developer", "content": "Be brief."},
    {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hi"}]},
    {"type": "function_call", "call_id": "a", "name": "f", "arguments": "{}"},
    {"type": "custom_tool_call", "call_id": "b", "name": "c", "input": ""},
    {"type": "function_call_output", "call_id": "a", "output": "1"},
    {
        "type": "custom_tool_call_output",
        "call_id": "b",
        "output": [{"type": "input_text", "text": "2"}],
    },
]

STEPS = [
    Step("user", "hi"),
    Step("call", "f"),
    Step("call", "c"),
    Step("result", "1"),
    Step("result", "2"),
]


@check_each(
    "request",
    [ModelRequest("chat", {"messages": MESSAGES}), ModelRequest("responses", {"input": ITEMS})],
    ids=["chat", "responses"],
)
def test_both_protocols_have_the_same_steps(request: ModelRequest) -> None:
    assert [step for step in list_steps(request) if step.kind != "other"] == STEPS


def test_stored_turns_precede_the_input() -> None:
    turn = Turn.after(Turn.after(None, "hi", ITEMS[2:3]), ITEMS[4:5], [])

    steps = list_steps(ModelRequest("responses", {"input": "and now?"}), turn)

    assert [step.text for step in steps] == ["hi", "f", "1", "and now?"]


def test_text_and_input_may_be_strings_or_lists() -> None:
    assert text_of("a") == text_of([{"text": "a"}]) == "a"
    assert text_of(None) == text_of([{"type": "image_url"}]) == ""
    assert as_items("hi") == [{"role": "user", "content": "hi"}]
    assert as_items(None) == []
