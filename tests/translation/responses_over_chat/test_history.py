from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forwarder.core.errors import InvalidRequest, Unsupported
from forwarder.core.translation_context import LossReport, TranslationContext
from forwarder.providers import PROFILES, adapt_request
from forwarder.translation.responses_over_chat.history import ResponsesHistoryReader
from forwarder.translation.responses_over_chat.tools import Toolbox
from tests.fake_provider import check_chat
from tests.helpers.check_cases import check_each
from tests.helpers.translating import SEAL, catch_error, make_translator_context

Json = dict[str, Any]


def read_messages(*items: Any, context: TranslationContext | None = None) -> list[Json]:
    context = context or make_translator_context()
    return ResponsesHistoryReader(Toolbox(context), context).read_items(list(items))


def make_user_message(text: str) -> Json:
    return {"role": "user", "content": text}


def make_assistant_message(text: str) -> Json:
    return {
        "type": "message",
        "role": "assistant",
        "content": [{"type": "output_text", "text": text}],
    }


def make_call(call_id: str, **more: Any) -> Json:
    return {"type": "function_call", "call_id": call_id, "name": "f", "arguments": "{}", **more}


def make_output(call_id: str, result: Any = "done", **more: Any) -> Json:
    return {"type": "function_call_output", "call_id": call_id, "output": result, **more}


def make_reasoning(text: str, **more: Any) -> Json:
    return {
        "type": "reasoning",
        "id": "rs_1",
        "summary": [{"type": "summary_text", "text": text}],
        **more,
    }


def summarize_turns(*items: Any) -> list[str]:
    """Return the messages in brief: ``assistant:text+a+b`` has a text and the calls a and b."""
    lines = []
    for message in read_messages(*items):
        calls = [f"+{call['id']}" for call in message.get("tool_calls", ())]
        name = message.get("tool_call_id") or message["content"] or ""
        thinking = f"({message['reasoning_content']})" if "reasoning_content" in message else ""
        lines.append(f"{message['role']}:{thinking}{name}{''.join(calls)}")
    return lines


TURNS: dict[str, tuple[list[Json], list[str]]] = {
    "a call and its text are one message": (
        [make_assistant_message("Look."), make_call("a"), make_output("a")],
        ["assistant:Look.+a", "tool:a"],
    ),
    "a text after its call joins it": (
        [make_call("a"), make_assistant_message("Look."), make_output("a")],
        ["assistant:Look.+a", "tool:a"],
    ),
    "parallel calls are one message, answered in order": (
        [make_call("a"), make_call("b"), make_output("b"), make_output("a")],
        ["assistant:+a+b", "tool:a", "tool:b"],
    ),
    "a call after an answer is another turn": (
        [make_call("a"), make_output("a"), make_call("b"), make_output("b")],
        ["assistant:+a", "tool:a", "assistant:+b", "tool:b"],
    ),
    "outputs may come between parallel calls": (
        [
            make_call("a"),
            make_call("b"),
            make_output("a"),
            make_call("c"),
            make_output("b"),
            make_output("c"),
        ],
        ["assistant:+a+b+c", "tool:a", "tool:b", "tool:c"],
    ),
    "an id may be used again in another turn": (
        [
            make_call("a"),
            make_output("a"),
            make_user_message("More."),
            make_call("a"),
            make_output("a"),
        ],
        ["assistant:+a", "tool:a", "user:More.", "assistant:+a", "tool:a"],
    ),
    "a user's message waits for the answers": (
        [
            make_call("a"),
            make_user_message("Hurry!"),
            make_output("a"),
            make_user_message("Thanks."),
        ],
        ["assistant:+a", "tool:a", "user:Hurry!", "user:Thanks."],
    ),
    "a second text waits for the answers": (
        [
            make_assistant_message("One."),
            make_call("a"),
            make_assistant_message("Two."),
            make_output("a"),
        ],
        ["assistant:One.+a", "tool:a", "assistant:Two."],
    ),
    "a text after the answers is another turn": (
        [make_call("a"), make_output("a"), make_assistant_message("Done.")],
        ["assistant:+a", "tool:a", "assistant:Done."],
    ),
    "two texts are two messages": (
        [make_assistant_message("One."), make_assistant_message("Two.")],
        ["assistant:One.", "assistant:Two."],
    ),
    "reasoning goes to the message that it led to": (
        [make_reasoning("Hm"), make_assistant_message("Yes.")],
        ["assistant:(Hm)Yes."],
    ),
    "reasoning goes to the call that it led to": (
        [
            make_assistant_message("Yes."),
            make_user_message("And?"),
            make_reasoning("Hm"),
            make_call("a"),
            make_output("a"),
        ],
        ["assistant:Yes.", "user:And?", "assistant:(Hm)+a", "tool:a"],
    ),
    "reasoning in one turn is gathered": (
        [
            make_reasoning("A"),
            make_reasoning("B"),
            make_call("a"),
            make_reasoning("C"),
            make_call("b"),
            make_output("a"),
            make_output("b"),
        ],
        ["assistant:(A\n\nB\n\nC)+a+b", "tool:a", "tool:b"],
    ),
    "reasoning between turns goes to the later one": (
        [
            make_reasoning("A"),
            make_call("a"),
            make_output("a"),
            make_reasoning("B"),
            make_call("b"),
            make_output("b"),
        ],
        ["assistant:(A)+a", "tool:a", "assistant:(B)+b", "tool:b"],
    ),
    "reasoning that led to nothing is left out": (
        [
            make_reasoning("A"),
            make_user_message("Hi."),
            make_assistant_message("Yes."),
            make_reasoning("B"),
        ],
        ["user:Hi.", "assistant:Yes."],
    ),
}


@check_each("name", TURNS)
def test_items_are_grouped_into_turns(name: str) -> None:
    items, expected = TURNS[name]
    assert summarize_turns(*items) == expected


ITEMS = st.lists(
    st.one_of(
        st.sampled_from("abc").map(make_call),
        st.sampled_from("abc").map(make_output),
        st.sampled_from([make_user_message("Hi."), make_assistant_message("Yes."), make_assistant_message(""), make_reasoning("Hm"), {"role": "developer", "content": "Be."}]),
        st.just({"type": "web_search_call", "id": "ws_1", "status": "completed"}),
    ),
    max_size=12,
)  # fmt: skip


@given(ITEMS)
def test_any_items_give_a_valid_history_or_an_error(items: list[Json]) -> None:
    refusal = catch_error(lambda: read_messages(*items))
    if refusal is not None:
        assert (refusal.status, bool(refusal.param)) == (400, True)
        return
    chat_messages = read_messages(*items)
    assert check_chat({"model": "m", "messages": chat_messages or [make_user_message("Hi.")]}) == []
    result_ids = [i["call_id"] for i in items if i.get("type") == "function_call_output"]
    assert sorted(m["tool_call_id"] for m in chat_messages if m["role"] == "tool") == sorted(
        result_ids
    )
    for text, role in (("Hi.", "user"), ("Be.", "developer"), ("Yes.", "assistant")):
        text_items = [i for i in items if i.get("role") == role and text in str(i["content"])]
        assert sum(m["content"] == text for m in chat_messages if m["role"] == role) == len(
            text_items
        )


# -- media --------------------------------------------------------------------------------------

MEDIA_PARTS: list[Callable[[str], Json]] = [
    lambda mark: {"type": "input_image", "image_url": f"https://example.org/{mark}.png"},
    lambda mark: {"type": "input_file", "file_id": mark},
    lambda mark: {"type": "input_audio", "input_audio": {"data": mark, "format": "wav"}},
]


@st.composite
def media_items(draw: st.DrawFn) -> list[Json]:
    """Draw a conversation of messages, images and batches of calls; each image has its own mark."""
    marks = map("{:04}".format, itertools.count())

    def draw_content() -> list[Json]:
        part_makers = draw(st.lists(st.sampled_from([*MEDIA_PARTS, None]), max_size=3))
        return [
            make_part(next(marks)) if make_part else {"type": "input_text", "text": "t"}
            for make_part in part_makers
        ]

    def draw_call_batch() -> list[Json]:
        ids = draw(st.sampled_from(["a", "ab", "abc"]))
        results = [make_output(i, draw_content()) for i in ids]
        interruption = [make_user_message("Hurry!")] if draw(st.booleans()) else []
        return [*map(make_call, ids), *interruption, *results]

    turns: list[Callable[[], list[Json]]] = [
        lambda: [{"role": "user", "content": draw_content()}],
        lambda: [make_assistant_message("Yes.")],
        lambda: [make_image_call(1, result=next(marks))],
        draw_call_batch,
    ]
    return [
        item
        for turn in draw(st.lists(st.sampled_from(turns), min_size=1, max_size=6))
        for item in turn()
    ]


MARK = re.compile(r"(?<!\d)\d{4}(?!\d)")


@given(media_items())
def test_media_keep_their_order_and_calls_their_results(
    items: list[Json],
) -> None:
    chat_messages = read_messages(*items)
    marks = MARK.findall(str([i for i in items if i.get("type") != "image_generation_call"]))
    generated_marks = [i["result"] for i in items if i.get("type") == "image_generation_call"]
    for profile in (PROFILES["generic"], PROFILES["openai"]):
        adapted = adapt_request(
            {"model": "m", "messages": chat_messages}, "chat", profile, LossReport()
        )["messages"]
        nonempty = [m for m in adapted if m["content"] != []] or [make_user_message("Hi.")]
        assert check_chat({"model": "m", "messages": nonempty}) == []
        adapted_marks = MARK.findall(str(adapted))
        assert [mark for mark in adapted_marks if mark not in generated_marks] == marks
        assert [mark for mark in adapted_marks if mark in generated_marks] == generated_marks


# -- content ------------------------------------------------------------------------------------

IMAGE = {"type": "input_image", "image_url": "https://example.org/a.png"}
CHAT_IMAGE = {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}


@check_each(
    ("item", "message"),
    [
        (make_user_message("Hi."), make_user_message("Hi.")),
        ({"role": "user", "content": None}, make_user_message("")),
        ({"role": "user"}, make_user_message("")),
        ({"role": "system", "content": "Be."}, {"role": "system", "content": "Be."}),
        ({"type": "message", "role": "user", "content": [IMAGE]}, {"role": "user", "content": [CHAT_IMAGE]}),
        ({"type": None, "role": "user", "content": "Hi."}, make_user_message("Hi.")),
        ({"role": "assistant", "content": ""}, {"role": "assistant", "content": ""}),
        ({"role": "assistant", "content": []}, {"role": "assistant", "content": ""}),
        (
            {"role": "assistant", "content": [{"type": "output_text", "text": "A"}, {"type": "input_text", "text": "B"}]},
            {"role": "assistant", "content": "AB"},
        ),
        (
            {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]},
            {"role": "assistant", "content": None, "refusal": "No."},
        ),
    ],
)  # fmt: skip
def test_message_content_is_converted(item: Json, message: Json) -> None:
    assert read_messages(item) == [message]


@check_each(
    ("result", "content"),
    [
        ("done", "done"),
        ("", ""),
        ([], ""),
        ([{"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}], "ab"),
        ([IMAGE], [CHAT_IMAGE]),
        (
            [IMAGE, {"type": "input_text", "text": "a"}, IMAGE],
            [CHAT_IMAGE, {"type": "text", "text": "a"}, CHAT_IMAGE],
        ),
    ],
)
def test_tool_output_is_text_unless_it_has_media(result: Any, content: Any) -> None:
    chat_messages = read_messages(
        make_call("a"),
        make_call("b"),
        make_output("a", result),
        make_output("b"),
        make_user_message("Next."),
    )
    assert [m["content"] for m in chat_messages[1:]] == [content, "done", "Next."]


def make_image_call(number: int, **more: Any) -> Json:
    return {
        "type": "image_generation_call",
        "id": f"ig_{number}",
        "result": f"iVBOR{number}",
        **more,
    }


IMAGES: dict[str, tuple[list[Json], list[str]]] = {
    "an image follows the text that came with it": (
        [
            make_user_message("Draw."),
            make_assistant_message("Here."),
            make_image_call(1),
            make_user_message("Thanks."),
        ],
        ["user:Draw.", "assistant:Here.", "user:1", "user:Thanks."],
    ),
    "an image follows the text that came after it": (
        [make_image_call(1), make_assistant_message("Here."), make_user_message("Thanks.")],
        ["assistant:Here.", "user:1", "user:Thanks."],
    ),
    "images of one turn are one message": (
        [make_image_call(1), make_image_call(2), make_user_message("Thanks.")],
        ["user:1+2", "user:Thanks."],
    ),
    "an image waits for the answers": (
        [
            make_call("a"),
            make_image_call(1),
            make_user_message("Hurry!"),
            make_output("a"),
            make_assistant_message("Done."),
        ],
        ["assistant:", "tool:done", "user:1", "user:Hurry!", "assistant:Done."],
    ),
    "an image after the answers is another turn": (
        [make_call("a"), make_output("a"), make_image_call(1), make_call("b"), make_output("b")],
        ["assistant:", "tool:done", "assistant:", "tool:done", "user:1"],
    ),
}


@check_each("name", IMAGES)
def test_generated_image_becomes_a_user_message(name: str) -> None:
    items, expected = IMAGES[name]
    assert [
        f"{m['role']}:{describe_content(m['content'])}" for m in read_messages(*items)
    ] == expected


def describe_content(content: Any) -> str:
    if not isinstance(content, list):
        return content or ""
    notes, images = content[::2], content[1::2]
    assert {part["text"] for part in notes} == {"[You made this image:]"}
    return "+".join(part["image_url"]["url"][-1] for part in images)


@check_each(
    ("more", "url"),
    [
        ({"result": "AAAA", "output_format": "svg"}, "data:image/svg+xml;base64,AAAA"),
        ({"result": "/9j/AAAA", "output_format": None}, "data:image/jpeg;base64,/9j/AAAA"),
        ({"result": "data:image/gif;base64,AAAA"}, "data:image/gif;base64,AAAA"),
    ],
)
def test_generated_image_becomes_a_data_url(more: Json, url: str) -> None:
    [message] = read_messages(make_image_call(1, **more))
    assert message["content"][1] == {"type": "image_url", "image_url": {"url": url}}


def test_top_level_audio_becomes_a_user_message() -> None:
    audio = {"type": "input_audio", "input_audio": {"data": "SUQz", "format": "mp3"}}
    assert read_messages(make_call("a"), audio, make_output("a"))[2] == {
        "role": "user",
        "content": [audio],
    }


def test_own_encrypted_reasoning_is_decrypted_other_is_read_as_text() -> None:
    sealed = SEAL + '{"reasoning_content": "sealed", "reasoning_details": [1], "role": "user"}'
    [decrypted] = read_messages(
        make_reasoning("shown", encrypted_content=sealed), make_assistant_message("Yes.")
    )
    assert (decrypted["reasoning_content"], decrypted["reasoning_details"], decrypted["role"]) == (
        "sealed",
        [1],
        "assistant",
    )
    [foreign] = read_messages(
        make_reasoning("shown", encrypted_content="gAAAA"), make_assistant_message("Yes.")
    )
    assert foreign["reasoning_content"] == "shown"
    [unreadable] = read_messages(
        {"type": "reasoning", "summary": [], "encrypted_content": "gAAAA"},
        make_assistant_message("Yes."),
    )
    assert unreadable == {"role": "assistant", "content": "Yes."}


def test_reasoning_text_takes_precedence_over_its_summary() -> None:
    content = [{"type": "reasoning_text", "text": "A"}, {"type": "reasoning_text", "text": "B"}]
    [message] = read_messages(
        make_reasoning("short", content=content), make_assistant_message("Yes.")
    )
    assert message["reasoning_content"] == "A\n\nB"


def test_local_shell_output_matches_its_call_by_either_id() -> None:
    shell = {
        "type": "local_shell_call",
        "id": "lsh_1",
        "call_id": "a",
        "action": {"command": ["ls"]},
    }
    for name in ("a", "lsh_1"):
        result = {"type": "local_shell_call_output", "id": name, "output": "{}"}
        assert read_messages(shell, result)[1] == {
            "role": "tool",
            "tool_call_id": "a",
            "content": "{}",
        }


def test_hosted_tool_items_are_dropped_and_reported() -> None:
    context = make_translator_context()
    items = [
        make_user_message("Hi."),
        {"type": "mcp_call", "id": "mcp_1"},
        {"type": "image_generation_call", "id": "ig_1"},
    ]
    assert read_messages(*items, context=context) == [make_user_message("Hi.")]
    assert set(context.loss_report.losses) == {"input.mcp_call", "input.image_generation_call"}
    with pytest.raises(Unsupported):
        read_messages(*items, context=make_translator_context(strict=True))


# -- refusals -----------------------------------------------------------------------------------

REFUSED: list[tuple[list[Any], str, str]] = [
    ([make_output("a")], "input", "No tool call found for function call output with call_id a."),
    ([make_call("a"), make_output("a"), make_output("a")], "input", "No tool call found"),
    ([make_call("a"), make_output("a"), make_user_message("Hi."), make_output("a")], "input", "No tool call found"),
    ([make_output("a"), make_call("a")], "input", "No tool call found"),
    ([make_call("a")], "input", "No tool output found for function call a."),
    ([make_call("a"), make_call("b"), make_output("a"), make_user_message("Hi.")], "input", "No tool output found for function call b."),
    ([make_call("a"), make_call("a"), make_output("a")], "input[1].call_id", "Two calls have the call_id 'a'."),
    (["Hi."], "input[0]", "expected an object"),
    ([{}], "input[0].type", "Missing required parameter"),
    ([{"type": "telepathy"}], "input[0].type", "'telepathy'"),
    ([{"type": 1}], "input[0].type", "expected a string"),
    ([{"id": "msg_1"}], "input[0].id", "Item with id 'msg_1' not found."),
    ([{"type": "item_reference", "id": "rs_1"}], "input[0].id", "Item with id 'rs_1' not found."),
    ([{"role": "critic", "content": "x"}], "input[0].role", "'critic'"),
    ([{"role": "user", "content": 1}], "input[0].content", "expected a string or an array"),
    ([{"role": "system", "content": [IMAGE]}], "input[0].content[0].type", "'input_image'"),
    ([{"type": "function_call", "call_id": "a"}], "input[0].name", "Missing required parameter"),
    ([{"type": "function_call", "name": "f"}], "input[0].call_id", "Missing required parameter"),
    ([make_call("a", arguments={})], "input[0].arguments", "expected a string"),
    ([make_call("a", namespace=1)], "input[0].namespace", "expected a string"),
    ([make_call("a"), make_output("a", None)], "input[1].output", "Missing required parameter"),
    ([make_call("a"), {"type": "apply_patch_call_output", "call_id": "a"}], "input[1].status", "Missing"),
    ([make_reasoning("x", summary="x")], "input[0].summary", "expected an array"),
    ([make_reasoning("x", summary=[{"text": 1}])], "input[0].summary[0].text", "expected a string"),
    ([{"type": "additional_tools", "tools": "x"}], "input[0].tools", "expected an array"),
    ([{"type": "image_generation_call", "result": 1}], "input[0].result", "expected a string"),
    ([{"type": "input_audio", "input_audio": {"data": "x", "format": "wav"}}],
     "input[0].input_audio.data", "not valid base64"),
    ([{"role": "user", "content": ["a", {}]}], "input[0].content[0]", "expected an object"),
    ([{"type": "compaction", "encrypted_content": "x"}], "input[0]", "cannot decrypt it"),
]  # fmt: skip


@check_each(("items", "param", "words"), REFUSED)
def test_malformed_item_error_names_the_path(items: list[Any], param: str, words: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read_messages(*items)
    assert caught.value.param == param
    assert words in caught.value.message
