"""The demo's embeddings."""

from __future__ import annotations

from typing import Any

import pytest

from forwarder.core.errors import InvalidRequest
from forwarder.demo.embeddings import embed_texts
from tests.helpers.check_cases import check_each


def list_vectors(texts: Any, **more: Any) -> list[list[float]]:
    return [entry["embedding"] for entry in embed_texts({"input": texts, **more})["data"]]


def compute_similarity(one: list[float], other: list[float]) -> float:
    return sum(x * y for x, y in zip(one, other, strict=True))


def test_the_same_text_has_the_same_vector_of_length_one() -> None:
    [one, other] = list_vectors(["good morning", "good morning"])
    assert one == other == list_vectors("good morning")[0]
    assert compute_similarity(one, one) == pytest.approx(1)


def test_texts_that_share_words_have_similar_vectors() -> None:
    original, similar, different = list_vectors(
        ["red green blue", "red green black", "seven eight nine"]
    )
    assert compute_similarity(original, similar) > compute_similarity(original, different)


def test_tokens_are_words_and_there_may_be_fewer_dimensions() -> None:
    answer = embed_texts({"model": "m", "input": ["one two", "three"], "dimensions": 4})
    assert [len(entry["embedding"]) for entry in answer["data"]] == [4, 4]
    assert answer["usage"] == {"prompt_tokens": 3, "total_tokens": 3}
    assert answer["model"] == "m"


@check_each("invalid_input", [None, "", [], [""], [1], 7, {"a": 1}])
def test_embedding_input_must_be_text(invalid_input: Any) -> None:
    with pytest.raises(InvalidRequest) as caught:
        embed_texts({"input": invalid_input})
    assert caught.value.param == "input"


@check_each(
    ("name", "value"),
    [("dimensions", 17), ("dimensions", "4"), ("dimensions", -1), ("encoding_format", "base64")],
)
def test_unsupported_embedding_parameters_are_rejected(name: str, value: Any) -> None:
    with pytest.raises(InvalidRequest) as caught:
        embed_texts({"input": "hi", name: value})
    assert caught.value.param == name
