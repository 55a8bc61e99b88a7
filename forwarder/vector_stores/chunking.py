"""Split texts into overlapping passages, and read the chunking strategy of a request."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from forwarder.core.errors import InvalidRequest
from forwarder.core.types import Json
from forwarder.core.validate import DICT, INT, STR, check_enum, require_field
from forwarder.protocols.token_estimate import CHARACTERS_PER_TOKEN, estimate_text_tokens

MIN_CHUNK_TOKENS, MAX_CHUNK_TOKENS = 100, 4096

BREAKS = ("\n\n", "\n", ". ", "。", " ")
"""Where a passage ends, best first."""

MIN_FILLED_SHARE = 0.5
"""A passage ends at a break only in its second half."""

MAX_WORD_LENGTH = 64
"""Characters within which the overlap starts at the beginning of a word."""


class ChunkingStrategy(NamedTuple):
    """The size of passages and of their overlap, in estimated tokens."""

    chunk_tokens: int = 800
    overlap_tokens: int = 400


def read_strategy(value: Json | None, param: str) -> ChunkingStrategy:
    """Return the strategy of a request, the default one for None. Raises InvalidRequest."""
    if value is None:
        return ChunkingStrategy()
    kind = require_field(value, "type", STR, f"{param}.type")
    if check_enum(kind, ("auto", "static"), f"{param}.type") == "auto":
        return ChunkingStrategy()
    static = require_field(value, "static", DICT, f"{param}.static")
    path = f"{param}.static.max_chunk_size_tokens"
    size = require_field(static, "max_chunk_size_tokens", INT, path)
    if not MIN_CHUNK_TOKENS <= size <= MAX_CHUNK_TOKENS:
        raise InvalidRequest(
            f"Invalid value for '{path}': expected an integer from {MIN_CHUNK_TOKENS} to "
            f"{MAX_CHUNK_TOKENS}.",
            param=path,
            code="invalid_value",
        )
    path = f"{param}.static.chunk_overlap_tokens"
    overlap = require_field(static, "chunk_overlap_tokens", INT, path)
    if not 0 <= overlap <= size // 2:
        raise InvalidRequest(
            f"Invalid value for '{path}': expected an integer from 0 to half of "
            f"'max_chunk_size_tokens'.",
            param=path,
            code="invalid_value",
        )
    return ChunkingStrategy(size, overlap)


def split_text(text: str, strategy: ChunkingStrategy) -> Iterator[str]:
    """Yield passages of at most ``chunk_tokens``; each repeats the end of the one before it."""
    start = 0
    while start < len(text):
        limit = find_limit(text, start, strategy.chunk_tokens)
        end = limit if limit == len(text) else find_break(text, start, limit)
        passage = text[start:end].strip()
        if passage:
            yield passage
        if end == len(text):
            return
        # A passage that ends early may be shorter than the overlap. The next passage starts at its
        # middle at the earliest, so that each passage contains new text.
        middle = start + max(1, (end - start) // 2)
        start = max(find_overlap_start(text, start, end, strategy.overlap_tokens), middle)


def find_limit(text: str, start: int, tokens: int) -> int:
    """Return the largest end of a passage that has at most this many tokens."""
    low, high = start + 1, min(len(text), start + int(tokens * CHARACTERS_PER_TOKEN))
    if estimate_text_tokens(text[start:high]) <= tokens:
        return high
    while low < high:
        middle = (low + high + 1) // 2
        if estimate_text_tokens(text[start:middle]) <= tokens:
            low = middle
        else:
            high = middle - 1
    return low


def find_break(text: str, start: int, limit: int) -> int:
    """Return the position after the last good break before the limit, or the limit itself."""
    earliest = start + int((limit - start) * MIN_FILLED_SHARE)
    for mark in BREAKS:
        position = text.rfind(mark, earliest, limit)
        if position > start:
            return position + len(mark)
    return limit


def find_overlap_start(text: str, start: int, end: int, tokens: int) -> int:
    """Return the start of the next passage, so that it repeats at most this many tokens."""
    low, high = max(start, end - int(tokens * CHARACTERS_PER_TOKEN)), end
    while low < high:
        middle = (low + high) // 2
        if estimate_text_tokens(text[middle:end]) <= tokens:
            high = middle
        else:
            low = middle + 1
    position = text.find(" ", low, min(low + MAX_WORD_LENGTH, end - 1))
    return low if position < 0 else position + 1
