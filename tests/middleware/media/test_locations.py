"""Finding images and files in requests, and replacing them."""

from __future__ import annotations

import copy
from typing import Any

from forwarder.middleware.media.locations import find_media, replace_media
from tests.helpers.check_cases import check_each

CHAT: dict[str, Any] = {
    "messages": [
        {"role": "system", "content": "text"},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "look"},
                {"type": "image_url", "image_url": {"url": "a"}},
                {"type": "image_url", "image_url": "b"},
                {"type": "file", "file": {"file_url": "c"}},
            ],
        },
        {"role": "assistant", "images": [{"type": "image_url", "image_url": {"url": "d"}}]},
        {"role": "tool", "content": [{"type": "image_url", "image_url": {"url": "e"}}]},
    ]
}
RESPONSES: dict[str, Any] = {
    "input": [
        {"role": "user", "content": "text"},
        {"role": "user", "content": [{"type": "input_image", "image_url": "a"}]},
        {"role": "user", "content": [{"type": "input_file", "file_url": "b"}]},
        {"type": "function_call_output", "output": [{"type": "input_image", "file_id": "f"}]},
        {
            "type": "computer_call_output",
            "output": {"type": "computer_screenshot", "image_url": "c"},
        },
        {"type": "function_call_output", "output": "text"},
    ]
}


def list_media(request: dict[str, Any], client: str) -> list[tuple[str, str, str, bool]]:
    return [(p.kind, p.url, p.url_path, p.in_result) for p in find_media(request, client)]


def test_all_images_and_files_of_a_chat_request_are_found() -> None:
    assert list_media(CHAT, "chat") == [
        ("image", "a", "messages[1].content[1].image_url.url", False),
        ("image", "b", "messages[1].content[2].image_url", False),
        ("file", "c", "messages[1].content[3].file.file_url", False),
        ("image", "d", "messages[2].images[0].image_url.url", False),
        ("image", "e", "messages[3].content[0].image_url.url", True),
    ]


def test_all_images_and_files_of_a_responses_request_are_found() -> None:
    assert list_media(RESPONSES, "responses") == [
        ("image", "a", "input[1].content[0].image_url", False),
        ("file", "b", "input[2].content[0].file_url", False),
        ("image", "", "input[3].output[0].image_url", True),
        ("image", "c", "input[4].output.image_url", True),
    ]


@check_each(
    "request_",
    [
        {},
        {"messages": None},
        {"messages": "text"},
        {"messages": [None, "text", 1, {}]},
        {"messages": [{"content": [None, "x", 1, {}, {"type": None}, {"type": ["image_url"]}]}]},
        {"messages": [{"content": {"type": {}}}]},
    ],
)
def test_malformed_requests_are_skipped(request_: dict[str, Any]) -> None:
    assert list_media(request_, "chat") == []


@check_each(("request_", "client"), [(CHAT, "chat"), (RESPONSES, "responses")])
def test_replacing_copies_only_the_changed_locations(request_: dict[str, Any], client: str) -> None:
    before = copy.deepcopy(request_)
    locations = list(find_media(request_, client))

    changed = replace_media(
        request_, [(location, {"new": i}) for i, location in enumerate(locations)]
    )

    assert request_ == before
    for i, location in enumerate(locations):
        value: Any = changed
        for step in location.steps:
            value = value[step]
        assert value == {"new": i}
    root = "messages" if client == "chat" else "input"
    assert changed[root][0] is request_[root][0]
