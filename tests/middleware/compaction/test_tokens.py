"""The estimate of how long a conversation is."""

from __future__ import annotations

from forwarder.middleware.compaction.tokens import tokens_in, tokens_of


def test_all_that_goes_before_the_model_counts_and_nothing_else() -> None:
    request = {"instructions": "a" * 40, "input": [{"content": "b" * 40}], "user": "c" * 400}

    assert tokens_in(request) == 20
    assert tokens_in({**request, "tools": [{"name": "d" * 40}]}) == 30


def test_images_in_the_text_do_not_count_by_their_bytes() -> None:
    assert tokens_of({"image_url": "data:image/png;base64," + "A" * 4000}) == 0
