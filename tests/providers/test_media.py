"""Where images and files go that are the result of a tool."""

from __future__ import annotations

from typing import Any

import pytest

from forwarder.core.translation_context import LossReport
from forwarder.providers import PASSTHROUGH_PROFILE
from tests.providers.mending import Json, mended, messages

TEXT = {"type": "text", "text": "a"}
IMAGE = {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}
FILE = {"type": "file", "file": {"file_id": "f"}}
NEXT = "[The tool's media is attached in the next message.]"
LEFT_OUT = "[An image was left out: it cannot be shown here.]"
USER = {"role": "user", "content": "U"}
CALLS = {"role": "assistant", "content": None, "tool_calls": [{"id": "x"}, {"id": "y"}]}


def result(content: Any, call_id: str = "x") -> Json:
    return {"role": "tool", "tool_call_id": call_id, "content": content}


def made(*given: Json, **knobs: Any) -> tuple[list[Json], list[str]]:
    ledger = LossReport()
    body = mended({"messages": list(given)}, ledger=ledger, **knobs)
    return body["messages"], list(ledger.losses)


@pytest.mark.parametrize("last", [[], [USER]])
def test_media_of_results_go_behind_the_last_result(last: list[Json]) -> None:
    given = [CALLS, result([TEXT, IMAGE, TEXT]), result([FILE, IMAGE], "y"), *last]
    assert messages(*given) == [
        CALLS,
        result(f"a\na\n{NEXT}"),
        result(NEXT, "y"),
        {"role": "user", "content": [IMAGE, FILE, IMAGE]},
        *last,
    ]


def test_each_batch_has_its_own_media() -> None:
    given = [CALLS, result([IMAGE]), USER, CALLS, result([FILE])]
    assert [m["role"] for m in messages(*given)] == [
        "assistant", "tool", "user", "user", "assistant", "tool", "user",
    ]  # fmt: skip
    assert [m["content"] for m in messages(*given)][2::4] == [[IMAGE], [FILE]]


def test_media_stay_in_the_result_where_they_may() -> None:
    given = [CALLS, result([TEXT, IMAGE]), result([FILE], "y"), USER]
    assert made(*given, tool_image="inline") == (given, [])
    assert PASSTHROUGH_PROFILE.tool_image == "inline"


def test_images_are_dropped_where_they_must_be_and_named() -> None:
    given = [CALLS, result([TEXT, IMAGE, FILE]), {"role": "user", "content": [IMAGE]}]
    assert made(*given, tool_image="drop") == (
        [
            CALLS,
            result(f"a\n{LEFT_OUT}\n{NEXT}"),
            {"role": "user", "content": [FILE]},
            {"role": "user", "content": [IMAGE]},
        ],
        ["tool_images"],
    )
    assert made(result([TEXT]), tool_image="drop") == ([result("a")], [])


def test_who_cannot_see_is_told_of_every_image() -> None:
    given = [result([TEXT, IMAGE]), {"role": "user", "content": [TEXT, IMAGE]}, USER]
    assert made(*given, image_url="none") == (
        [result(f"a\n{LEFT_OUT}"), {"role": "user", "content": f"a\n{LEFT_OUT}"}, USER],
        ["images"],
    )
    assert made(USER, image_url="none") == ([USER], [])


@pytest.mark.parametrize("knob", ["user", "inline", "drop"])
def test_text_alone_is_nobodys_concern(knob: str) -> None:
    given = [CALLS, result("a"), result(None, "y"), result([], "z"), {"content": [IMAGE]}]
    assert messages(*given, tool_image=knob, join_text_parts=False) == given


def test_parts_that_are_none_are_left_alone() -> None:
    odd = result([1, {"type": ["image_url"]}, None])
    assert messages(odd) == [odd]
