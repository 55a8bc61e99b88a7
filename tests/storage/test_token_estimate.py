"""Token estimates: accuracy and monotonicity."""

from __future__ import annotations

from typing import Any

import pytest

from forwarder.storage.token_estimate import estimate_input_tokens


def estimate_tokens(*items: Any, **request: Any) -> int:
    return estimate_input_tokens(request, list(items))


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("The quick brown fox jumps over the lazy dog. " * 20, 200),
        ("你好世界，今天天气很好。" * 20, 170),
    ],
)
def test_estimate_is_close_to_tokenizers(text: str, tokens: int) -> None:
    assert estimate_tokens({"role": "user", "content": text}) == pytest.approx(tokens, rel=0.3)


def test_estimate_counts_every_part() -> None:
    user: Any = {"role": "user", "content": "hi"}
    alone = estimate_tokens(user)
    tool = {"type": "function", "name": "f", "parameters": {"type": "object"}}
    assert estimate_tokens(user, user) == 2 * alone
    assert estimate_tokens(user, instructions="Be kind.") > alone
    assert estimate_tokens(user, tools=[tool]) > alone
    assert estimate_tokens({"type": "function_call_output", "output": "x" * 400}) > 100
    assert estimate_tokens({"type": "function_call", "arguments": "x" * 400}) > 100
    image: Any = {"type": "input_image", "image_url": "data:" + "x" * 10**6}
    assert 700 < estimate_tokens({"role": "user", "content": [image]}) < 900
    assert 1000 < estimate_tokens({"role": "user", "content": [{"type": "input_file"}]}) < 1100
    assert 80 < estimate_tokens({"role": "user", "content": [{**image, "detail": "low"}]}) < 120
    assert estimate_tokens() == 0
