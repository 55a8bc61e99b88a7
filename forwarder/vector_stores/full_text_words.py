"""Words for the full-text index: the same for texts and queries, and for both databases."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

MAX_WORD_LENGTH = 64
MAX_QUERY_WORDS = 64

_WORD = re.compile(r"[^\W_]+")
_UNSPACED = re.compile(r"([\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff]+)")
"""Scripts without spaces between words: Thai, Lao, Burmese, Khmer, Japanese and Chinese."""


def split_words(text: str) -> Iterator[str]:
    """Yield the words of a text in lower case.

    Scripts without spaces are split into overlapping pairs of characters.
    """
    normal = unicodedata.normalize("NFKC", text).lower()
    for match in _WORD.finditer(normal):
        for i, part in enumerate(_UNSPACED.split(match[0])):
            if i % 2 == 0:
                if part:
                    yield part[:MAX_WORD_LENGTH]
            elif len(part) == 1:
                yield part
            else:
                yield from (part[i : i + 2] for i in range(len(part) - 1))


def split_query(text: str) -> list[str]:
    """Return the distinct words of a query, at most `MAX_QUERY_WORDS`."""
    words: dict[str, None] = {}
    for word in split_words(text):
        words[word] = None
        if len(words) == MAX_QUERY_WORDS:
            break
    return list(words)
