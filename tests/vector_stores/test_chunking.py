"""Passages: their size, their overlap, and the strategies of requests."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forwarder.core.errors import InvalidRequest
from forwarder.protocols.token_estimate import estimate_text_tokens
from forwarder.vector_stores.chunking import ChunkingStrategy, read_strategy, split_text
from tests.helpers.check_cases import check_each

SMALL = ChunkingStrategy(100, 50)


def test_short_text_is_one_passage() -> None:
    assert list(split_text("  Hello.  ", ChunkingStrategy())) == ["Hello."]
    assert list(split_text("", ChunkingStrategy())) == []


def test_passages_overlap_and_end_at_sentences() -> None:
    sentences = [f"This is the sentence with the number {n} of them." for n in range(60)]
    passages = list(split_text(" ".join(sentences), SMALL))

    assert all(estimate_text_tokens(passage) <= 100 for passage in passages)
    assert all(passage.endswith("of them.") for passage in passages)
    for first, second in itertools.pairwise(passages):
        assert second[:40] in first
    assert all(any(sentence in passage for passage in passages) for sentence in sentences)


def test_passages_without_overlap_add_up_to_the_text() -> None:
    words = " ".join(str(n) for n in range(2000))

    passages = list(split_text(words, ChunkingStrategy(100, 0)))

    assert " ".join(passages) == words


@given(
    st.text(alphabet="ab .\n中ä", max_size=3000),
    st.sampled_from([SMALL, ChunkingStrategy(100, 0), ChunkingStrategy(150, 75)]),
)
def test_every_text_is_split_completely(text: str, strategy: ChunkingStrategy) -> None:
    passages = list(split_text(text, strategy))

    assert all(estimate_text_tokens(passage) <= strategy.chunk_tokens for passage in passages)
    position = 0
    for passage in passages:
        start = text.index(passage, max(0, position - 4 * strategy.chunk_tokens))
        assert not text[position:start].strip()
        position = max(position, start + len(passage))
    assert not text[position:].strip()
    # Each passage has at least half of its length as new text.
    assert len(passages) <= 1 + len(text) / (strategy.chunk_tokens * 1.5 / 4)


def test_work_grows_with_the_text() -> None:
    text = "word " * 40_000 + "中" * 40_000 + "x" * 100_000

    assert 100 < len(list(split_text(text, ChunkingStrategy()))) < 500


@check_each(
    ("value", "strategy"),
    [
        (None, ChunkingStrategy(800, 400)),
        ({"type": "auto"}, ChunkingStrategy(800, 400)),
        (
            {"type": "static", "static": {"max_chunk_size_tokens": 100, "chunk_overlap_tokens": 0}},
            ChunkingStrategy(100, 0),
        ),
    ],
)
def test_strategy_of_a_request(value: Any, strategy: ChunkingStrategy) -> None:
    assert read_strategy(value, "chunking_strategy") == strategy


@check_each(
    ("value", "param"),
    [
        ({}, "c.type"),
        ({"type": "other"}, "c.type"),
        ({"type": "static"}, "c.static"),
        ({"type": "static", "static": {}}, "c.static.max_chunk_size_tokens"),
        ({"type": "static", "static": {"max_chunk_size_tokens": 99}},
         "c.static.max_chunk_size_tokens"),
        ({"type": "static", "static": {"max_chunk_size_tokens": 4097}},
         "c.static.max_chunk_size_tokens"),
        ({"type": "static", "static": {"max_chunk_size_tokens": "100"}},
         "c.static.max_chunk_size_tokens"),
        ({"type": "static", "static": {"max_chunk_size_tokens": 100, "chunk_overlap_tokens": 51}},
         "c.static.chunk_overlap_tokens"),
        ({"type": "static", "static": {"max_chunk_size_tokens": 100}},
         "c.static.chunk_overlap_tokens"),
    ],
)  # fmt: skip
def test_invalid_strategy_is_refused(value: Any, param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read_strategy(value, "c")
    assert caught.value.param == param
