"""The estimate of how long a conversation is."""

from __future__ import annotations

from forwarder.middleware.compaction.tokens import estimate_item_tokens, estimate_request_tokens


def test_all_that_goes_before_the_model_counts_and_nothing_else() -> None:
    request = {"instructions": "a" * 40, "input": [{"content": "b" * 40}], "user": "c" * 400}

    assert estimate_request_tokens(request) == 20
    assert estimate_request_tokens({**request, "tools": [{"name": "d" * 40}]}) == 30


def test_images_in_the_text_do_not_count_by_their_bytes() -> None:
    assert estimate_item_tokens({"image_url": "data:image/png;base64," + "A" * 4000}) == 0
