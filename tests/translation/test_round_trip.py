"""Chat histories survive the translation to Responses items and back, in content and order."""

from __future__ import annotations

from typing import Any

from tests.helpers.check_cases import check_each
from tests.helpers.translating import make_translator_context, translate

Json = dict[str, Any]

PNG = "data:image/png;base64,iVBORw0KGgo="
PDF = "data:application/pdf;base64,JVBERi0="


def make_text_part(value: str) -> Json:
    return {"type": "text", "text": value}


def make_image_part(url: str = PNG, detail: str = "auto") -> Json:
    return {"type": "image_url", "image_url": {"url": url, "detail": detail}}


def make_file_part(**source: str) -> Json:
    return {"type": "file", "file": source}


def make_call(name: str, call_id: str) -> Json:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": '{"a": 1}'}}


def make_tool_message(call_id: str, content: Any) -> Json:
    return {"role": "tool", "tool_call_id": call_id, "content": content}


def translate_round_trip(messages: list[Json]) -> list[Json]:
    """Translate chat messages to input items and back."""
    chat = {"model": "m", "messages": messages}
    responses_request = translate(
        "chat_over_responses", chat, make_translator_context(extensions=["input_audio"])
    ).request
    responses = {"model": "m", "input": responses_request["input"]}
    chat_messages: list[Json] = translate(
        "responses_over_chat", responses, make_translator_context()
    ).request["messages"]
    return chat_messages


def normalize_message(message: Json) -> Json:
    """Return the message with a lone text as a string, and without null fields."""
    content = message.get("content")
    if isinstance(content, list) and all(part["type"] == "text" for part in content):
        content = "".join(part["text"] for part in content)
    return {k: v for k, v in {**message, "content": content}.items() if v is not None}


CONVERSATIONS: dict[str, list[Json]] = {
    "words": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi."},
        {"role": "assistant", "content": "Hello."},
        {"role": "user", "content": "Bye."},
    ],
    "media between words": [
        {"role": "user", "content": [make_text_part("a"), make_image_part(), make_text_part("b"), make_file_part(file_data=PDF, filename="a.pdf"),
                                     make_image_part("https://e.test/b.png", "low"), make_text_part("c")]},
        {"role": "assistant", "content": "Two images, one file."},
        {"role": "user", "content": [make_file_part(file_id="file-1"), make_text_part("And this?")]},
    ],
    "sound": [
        {"role": "user", "content": [make_text_part("a"), {"type": "input_audio",
                                                 "input_audio": {"data": "UklGRg==", "format": "wav"}}]},
    ],
    "calls and results": [
        {"role": "user", "content": [make_text_part("Look."), make_image_part()]},
        {"role": "assistant", "content": "I look.", "tool_calls": [make_call("f", "c1"), make_call("g", "c2")]},
        make_tool_message("c1", "one"),
        make_tool_message("c2", "two"),
        {"role": "assistant", "tool_calls": [make_call("f", "c3")]},
        make_tool_message("c3", "three"),
        {"role": "assistant", "content": "Done."},
    ],
}  # fmt: skip


@check_each("messages", CONVERSATIONS.values(), ids=CONVERSATIONS)
def test_conversation_survives_the_round_trip(messages: list[Json]) -> None:
    assert [*map(normalize_message, translate_round_trip(messages))] == messages


def test_media_of_tool_results_stay_in_their_results() -> None:
    """The provider profile moves them later if necessary."""
    image_part, file_part = (
        make_image_part("https://e.test/1.png"),
        make_file_part(file_data=PDF, filename="b.pdf"),
    )
    messages = [
        {"role": "user", "content": [make_text_part("Compare."), make_image_part()]},
        {
            "role": "assistant",
            "tool_calls": [make_call("f", "c1"), make_call("g", "c2"), make_call("h", "c3")],
        },
        make_tool_message("c1", [make_text_part("A screen."), image_part]),
        make_tool_message("c2", [file_part, make_image_part()]),
        make_tool_message("c3", "words"),
        {"role": "assistant", "content": "They differ."},
    ]
    assert [*map(normalize_message, translate_round_trip(messages))] == messages


def test_generated_image_returns_as_a_user_image() -> None:
    """Chat's assistant messages cannot have images."""
    image = {"type": "image_url", "index": 0, "image_url": {"url": PNG}}
    messages = [
        {"role": "user", "content": "Draw."},
        {"role": "assistant", "content": "Here.", "images": [{"id": "ig_1", **image}]},
        {"role": "user", "content": "Again."},
    ]
    round_trip_messages = [*map(normalize_message, translate_round_trip(messages))]
    assert [m["role"] for m in round_trip_messages] == ["user", "assistant", "user", "user"]
    assert round_trip_messages[2]["content"][-1] == {"type": "image_url", "image_url": {"url": PNG}}
