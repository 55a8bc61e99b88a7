from __future__ import annotations

from typing import Any

import pytest

from forwarder.core.errors import InvalidRequest, Unsupported
from forwarder.core.translation_context import TranslationContext
from forwarder.translation.chat_over_responses.history import ChatHistoryReader
from tests.helpers.check_cases import check_each
from tests.helpers.translating import make_translator_context

Json = dict[str, Any]


def read_items(*messages: Any, context: TranslationContext | None = None) -> list[Json]:
    return ChatHistoryReader(context or make_translator_context()).read_messages(list(messages))


def make_user_message(text: str) -> Json:
    return {"role": "user", "content": text}


def make_calls(*ids: str, content: Any = None) -> Json:
    calls = [
        {"id": i, "type": "function", "function": {"name": "f", "arguments": "{}"}} for i in ids
    ]
    return {"role": "assistant", "content": content, "tool_calls": calls}


def make_result(call_id: str, content: Any = "done") -> Json:
    return {"role": "tool", "tool_call_id": call_id, "content": content}


def make_part(kind: str, text: str) -> Json:
    return {"type": kind, "text": text, **({"annotations": []} if kind == "output_text" else {})}


@check_each("role", ["system", "developer", "user"])
def test_roles_are_kept_in_order(role: str) -> None:
    for content in ("Hi.", [{"type": "text", "text": "Hi."}]):
        assert read_items({"role": role, "content": content}) == [
            {"type": "message", "role": role, "content": [make_part("input_text", "Hi.")]}
        ]


ASSISTANT: list[tuple[Json, list[Json]]] = [
    ({"content": "Hi."}, [make_part("output_text", "Hi.")]),
    ({"content": [{"type": "text", "text": "A"}, {"type": "text", "text": "B"}]},
     [make_part("output_text", "A"), make_part("output_text", "B")]),
    ({"content": None, "refusal": "No."}, [{"type": "refusal", "refusal": "No."}]),
    ({"content": "Well.", "refusal": "No."}, [make_part("output_text", "Well."), {"type": "refusal", "refusal": "No."}]),
    ({"content": [{"type": "refusal", "refusal": "No."}]}, [{"type": "refusal", "refusal": "No."}]),
]  # fmt: skip


@check_each(("message", "content"), ASSISTANT)
def test_assistant_content_becomes_output(message: Json, content: list[Json]) -> None:
    assert read_items({"role": "assistant", **message}) == [
        {"type": "message", "role": "assistant", "content": content}
    ]


@check_each("content", [None, "", []])
def test_empty_assistant_content_adds_no_message(content: Any) -> None:
    assert read_items({"role": "assistant", "content": content}) == []
    input_items = read_items(make_calls("a", content=content), make_result("a"))
    assert [item["type"] for item in input_items] == ["function_call", "function_call_output"]


def test_output_type_follows_its_call() -> None:
    custom = {"id": "b", "type": "custom", "custom": {"name": "c", "input": "x"}}
    message = make_calls("a")
    message["tool_calls"].append(custom)
    input_items = read_items(message, make_result("b"), make_result("a"))
    assert [(item["type"], item["call_id"]) for item in input_items] == [
        ("function_call", "a"),
        ("custom_tool_call", "b"),
        ("custom_tool_call_output", "b"),
        ("function_call_output", "a"),
    ]


@check_each(
    ("content", "output"),
    [
        ("done", "done"),
        (None, ""),
        ("", ""),
        ([], ""),
        ([{"type": "text", "text": "a"}], [make_part("input_text", "a")]),
        (
            [{"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}],
            [{"type": "input_image", "image_url": "https://example.org/a.png", "detail": "auto"}],
        ),
    ],
)
def test_tool_message_content_is_kept(content: Any, output: Any) -> None:
    assert read_items(make_calls("a"), make_result("a", content))[-1]["output"] == output


def test_call_without_type_and_arguments_is_a_function_call() -> None:
    call = {"id": "a", "function": {"name": "f", "arguments": None}}
    input_items = read_items({"role": "assistant", "tool_calls": [call]}, make_result("a"))
    assert input_items[0] == {
        "type": "function_call",
        "call_id": "a",
        "name": "f",
        "arguments": "{}",
    }


def test_legacy_call_ids_are_stable() -> None:
    def make_legacy_call(name: str) -> list[Json]:
        call_message = {
            "role": "assistant",
            "content": None,
            "function_call": {"name": name, "arguments": "{}"},
        }
        return [call_message, {"role": "function", "name": name, "content": "done"}]

    turns = [*make_legacy_call("f"), *make_legacy_call("g"), *make_legacy_call("f")]
    ids = [item["call_id"] for item in read_items(*turns)]
    assert ids == ["call_f_0", "call_f_0", "call_g_1", "call_g_1", "call_f_2", "call_f_2"]
    assert [i.get("call_id") for i in read_items(*turns, make_user_message("More."))][:6] == ids


def test_unsupported_fields_are_reported() -> None:
    context = make_translator_context()
    read_items(
        {**make_user_message("Hi."), "name": "ann"},
        {"role": "assistant", "content": "Yes.", "audio": {"id": "x"}},
        context=context,
    )
    assert set(context.loss_report.losses) == {"messages.name", "messages.audio"}
    with pytest.raises(Unsupported):
        read_items(
            {**make_user_message("Hi."), "name": "ann"},
            context=make_translator_context(strict=True),
        )


REFUSED: list[tuple[list[Any], str, str]] = [
    (["Hi."], "messages[0]", "expected an object"),
    ([{"content": "Hi."}], "messages[0].role", "Missing required parameter"),
    ([{"role": "critic", "content": "x"}], "messages[0].role", "'critic'"),
    ([{"role": "user"}], "messages[0].content", "Missing required parameter"),
    ([{"role": "user", "content": None}], "messages[0].content", "Missing required parameter"),
    ([{"role": "user", "content": 1}], "messages[0].content", "expected a string or an array"),
    ([{"role": "user", "content": ["a"]}], "messages[0].content[0]", "expected an object"),
    (
        [{"role": "assistant", "content": [{"type": "image_url"}]}],
        "messages[0].content[0].type",
        "'image_url'",
    ),
    ([{"role": "assistant", "tool_calls": "x"}], "messages[0].tool_calls", "expected an array"),
    ([{"role": "assistant", "tool_calls": [{}]}], "messages[0].tool_calls[0].id", "Missing"),
    (
        [{"role": "assistant", "tool_calls": [{"id": "a"}]}],
        "messages[0].tool_calls[0].function",
        "Missing",
    ),
    (
        [{"role": "assistant", "tool_calls": [{"id": "a", "type": "x"}]}],
        "messages[0].tool_calls[0].type",
        "'x'",
    ),
    ([make_calls("a")], "messages[0]", "These had no response: a."),
    (
        [make_calls("a"), make_user_message("Hi."), make_result("a")],
        "messages[1]",
        "These had no response: a.",
    ),
    (
        [make_calls("a", "b"), make_result("a"), make_user_message("Hi.")],
        "messages[2]",
        "These had no response: b.",
    ),
    ([make_result("a")], "messages[0].tool_call_id", "id 'a' awaits"),
    (
        [make_calls("a"), make_result("a"), make_result("a")],
        "messages[2].tool_call_id",
        "id 'a' awaits",
    ),
    ([{"role": "tool", "content": "x"}], "messages[0].tool_call_id", "Missing"),
    ([{"role": "function", "name": "f", "content": "x"}], "messages[0].name", "'f' was not called"),
    (
        [{"role": "assistant", "function_call": {"arguments": "{}"}}],
        "messages[0].function_call.name",
        "Missing",
    ),
]


@check_each(("messages", "param", "words"), REFUSED)
def test_malformed_message_error_names_the_path(
    messages: list[Any], param: str, words: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read_items(*messages)
    assert caught.value.param == param
    assert words in caught.value.message
