"""Words of texts and queries."""

from __future__ import annotations

from forwarder.vector_stores.full_text_words import MAX_QUERY_WORDS, split_query, split_words
from tests.helpers.check_cases import check_each


@check_each(
    ("text", "words"),
    [
        ("Hello, World!", ["hello", "world"]),
        ("snake_case x2 'quoted' a\"b", ["snake", "case", "x2", "quoted", "a", "b"]),
        ("Ｆｕｌｌ ﬁne", ["full", "fine"]),
        ("退款政策", ["退款", "款政", "政策"]),
        ("GPT模型 5", ["gpt", "模型", "5"]),
        ("猫", ["猫"]),
        ("", []),
        ("-- () *", []),
    ],
)
def test_words_of_a_text(text: str, words: list[str]) -> None:
    assert list(split_words(text)) == words


def test_query_has_each_word_once_and_not_too_many() -> None:
    assert split_query("a b a B c") == ["a", "b", "c"]
    assert len(split_query(" ".join(map(str, range(1000))))) == MAX_QUERY_WORDS
    assert [len(word) for word in split_query("x" * 1000)] == [64]
