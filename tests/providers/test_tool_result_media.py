"""Images and files in tool results."""

from __future__ import annotations

from typing import Any

from forwarder.core.translation_context import LossReport
from forwarder.providers import PASSTHROUGH_PROFILE
from tests.helpers.check_cases import check_each
from tests.providers.adapting import Json, adapt, adapt_messages

TEXT = {"type": "text", "text": "a"}
IMAGE = {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}
FILE = {"type": "file", "file": {"file_id": "f"}}
MEDIA_NOTE = "[The tool's media is attached in the next message.]"
IMAGE_NOTE = "[An image was left out: it cannot be shown here.]"
USER = {"role": "user", "content": "U"}
CALLS = {"role": "assistant", "content": None, "tool_calls": [{"id": "x"}, {"id": "y"}]}


def make_tool_message(content: Any, call_id: str = "x") -> Json:
    return {"role": "tool", "tool_call_id": call_id, "content": content}


def adapt_with_losses(*originals: Json, **fields: Any) -> tuple[list[Json], list[str]]:
    loss_report = LossReport()
    body = adapt({"messages": list(originals)}, loss_report=loss_report, **fields)
    return body["messages"], list(loss_report.losses)


@check_each("next_messages", [[], [USER]])
def test_media_move_after_last_result(next_messages: list[Json]) -> None:
    originals = [
        CALLS,
        make_tool_message([TEXT, IMAGE, TEXT]),
        make_tool_message([FILE, IMAGE], "y"),
        *next_messages,
    ]
    assert adapt_messages(*originals) == [
        CALLS,
        make_tool_message(f"a\na\n{MEDIA_NOTE}"),
        make_tool_message(MEDIA_NOTE, "y"),
        {"role": "user", "content": [IMAGE, FILE, IMAGE]},
        *next_messages,
    ]


def test_media_move_per_turn() -> None:
    originals = [CALLS, make_tool_message([IMAGE]), USER, CALLS, make_tool_message([FILE])]
    assert [m["role"] for m in adapt_messages(*originals)] == [
        "assistant", "tool", "user", "user", "assistant", "tool", "user",
    ]  # fmt: skip
    assert [m["content"] for m in adapt_messages(*originals)][2::4] == [[IMAGE], [FILE]]


def test_media_stay_inline() -> None:
    originals = [CALLS, make_tool_message([TEXT, IMAGE]), make_tool_message([FILE], "y"), USER]
    assert adapt_with_losses(*originals, tool_image="inline") == (originals, [])
    assert PASSTHROUGH_PROFILE.tool_image == "inline"


def test_tool_images_are_dropped_and_reported() -> None:
    originals = [
        CALLS,
        make_tool_message([TEXT, IMAGE, FILE]),
        {"role": "user", "content": [IMAGE]},
    ]
    assert adapt_with_losses(*originals, tool_image="drop") == (
        [
            CALLS,
            make_tool_message(f"a\n{IMAGE_NOTE}\n{MEDIA_NOTE}"),
            {"role": "user", "content": [FILE]},
            {"role": "user", "content": [IMAGE]},
        ],
        ["tool_images"],
    )
    assert adapt_with_losses(make_tool_message([TEXT]), tool_image="drop") == (
        [make_tool_message("a")],
        [],
    )


def test_images_are_replaced_by_notes() -> None:
    originals = [make_tool_message([TEXT, IMAGE]), {"role": "user", "content": [TEXT, IMAGE]}, USER]
    assert adapt_with_losses(*originals, image_url="none") == (
        [
            make_tool_message(f"a\n{IMAGE_NOTE}"),
            {"role": "user", "content": f"a\n{IMAGE_NOTE}"},
            USER,
        ],
        ["images"],
    )
    assert adapt_with_losses(USER, image_url="none") == ([USER], [])


@check_each("tool_image", ["user", "inline", "drop"])
def test_text_results_are_unchanged(tool_image: str) -> None:
    originals = [
        CALLS,
        make_tool_message("a"),
        make_tool_message(None, "y"),
        make_tool_message([], "z"),
        {"content": [IMAGE]},
    ]
    assert adapt_messages(*originals, tool_image=tool_image, join_text_parts=False) == originals


def test_malformed_parts_are_unchanged() -> None:
    message = make_tool_message([1, {"type": ["image_url"]}, None])
    assert adapt_messages(message) == [message]
