"""Token estimates: accuracy, monotonicity, and one estimate for both APIs."""

from __future__ import annotations

import time
from typing import Any

import pytest

from forwarder.core.errors import InvalidRequest
from forwarder.protocols.token_estimate import estimate_request_tokens, sum_text_tokens
from tests.helpers.check_cases import check_each

IMAGE_URL = "data:image/png;base64," + "A" * 10**6


def estimate(*items: Any, **request: Any) -> int:
    return estimate_request_tokens({**request, "input": list(items)})


@check_each(
    ("text", "tokens"),
    [
        ("The quick brown fox jumps over the lazy dog. " * 20, 200),
        ("你好世界，今天天气很好。" * 20, 170),
    ],
)
def test_estimate_is_close_to_tokenizers(text: str, tokens: int) -> None:
    assert estimate({"role": "user", "content": text}) == pytest.approx(tokens, rel=0.3)


def test_estimate_counts_every_part() -> None:
    user: Any = {"role": "user", "content": "hi"}
    alone = estimate(user)
    tool = {"type": "function", "name": "f", "parameters": {"type": "object"}}
    assert estimate(user, user) == 2 * alone
    assert estimate(user, instructions="Be kind.") > alone
    assert estimate(user, tools=[tool]) > alone
    assert estimate(user, text={"format": {"type": "json_schema", "schema": {}}}) > alone
    assert estimate({"type": "function_call_output", "output": "x" * 400}) > 100
    assert estimate({"type": "function_call", "arguments": "x" * 400}) > 100
    assert estimate() == 0


def test_string_input_counts_as_one_user_message() -> None:
    message = {"type": "message", "role": "user", "content": "Hello there."}
    assert estimate_request_tokens({"input": "Hello there."}) == estimate(message)
    with pytest.raises(InvalidRequest):
        estimate_request_tokens({"input": 5})


@check_each(
    ("part", "tokens"),
    [
        ({"type": "input_image", "image_url": IMAGE_URL}, 765),
        ({"type": "input_image", "image_url": IMAGE_URL, "detail": "low"}, 85),
        ({"type": "input_image", "file_id": "file-1", "detail": None}, 765),
        ({"type": "computer_screenshot", "image_url": IMAGE_URL}, 765),
        ({"type": "image_url", "image_url": {"url": IMAGE_URL}}, 765),
        ({"type": "image_url", "image_url": {"url": IMAGE_URL, "detail": "low"}}, 85),
        ({"type": "input_file", "file_data": IMAGE_URL}, 1000),
        ({"type": "file", "file": {"file_data": IMAGE_URL}}, 1000),
        ({"type": "input_audio", "input_audio": {"data": "A" * 10**6}}, 1000),
    ],
)
def test_media_count_by_type_rather_than_by_size(part: Any, tokens: int) -> None:
    empty = {"role": "user", "content": []}
    message = {"role": "user", "content": [part]}
    assert estimate(message) - estimate(empty) == tokens
    in_chat = [estimate_request_tokens({"messages": [m]}) for m in (message, empty)]
    assert in_chat[0] - in_chat[1] == tokens


def test_screenshots_and_generated_images_count_as_images() -> None:
    screenshot = {"type": "computer_screenshot", "image_url": IMAGE_URL}
    assert 765 <= estimate({"type": "computer_call_output", "output": screenshot}) < 800
    assert 765 <= estimate({"type": "image_generation_call", "result": "A" * 10**6}) < 800


def test_parameters_outside_the_prompt_do_not_count() -> None:
    assert estimate(user="c" * 400, metadata={"a": "b" * 400}) == 0


def test_unserializable_values_are_counted() -> None:
    tool = {"name": "f", "parameters": {"maximum": 2**70, "title": "\ud800"}}
    assert estimate(tools=[tool]) > 10
    assert sum_text_tokens(["\ud800"]) == 1


def test_texts_are_rounded_together() -> None:
    assert sum_text_tokens(["a"] * 40) == 10


def test_long_texts_are_counted_fast() -> None:
    started_at = time.process_time()
    estimate({"role": "user", "content": "x" * 10**7}, {"role": "user", "content": "日" * 10**6})
    assert time.process_time() - started_at < 0.5
