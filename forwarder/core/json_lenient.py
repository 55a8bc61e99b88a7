"""JSON that others wrote: read as they meant it, and no deeper than it can be written again.

JavaScript cuts strings in the middle of a character and writes the half that is left; Python
writes ``NaN``.  No strict parser takes either, but a whole answer is not lost for it.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import orjson

from forwarder.core.pacing import give_way

MAX_WRITABLE_DEPTH = 254
"""How deep orjson writes; it reads four times as deep."""

RESERVED_DEPTH = 16
"""Levels that are left for what a value is wrapped in on its way."""

ALWAYS_SHALLOW_BYTES = MAX_WRITABLE_DEPTH - RESERVED_DEPTH
"""Bytes up to which nothing can be too deep."""


_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)


class NonFiniteLiteral(str):
    """``NaN``, ``Infinity`` or ``-Infinity``, which are no JSON."""


def parse_lenient(data: bytes) -> Any:
    """The value; a null for every ``NaN``, a replacement character for half a character.

    Raises ValueError when it is no JSON for all that.
    """
    with convert_recursion_errors():
        return replace_lone_surrogates(
            json.loads(data, strict=False, parse_constant=lambda name: None)
        )


def parse_strict(data: bytes) -> Any:
    """The value; half a character is replaced, since whoever sent it cannot help it.

    Raises ValueError when it is no JSON, and ``NonFiniteNumber`` for a ``NaN``.
    """
    if data.isspace():  # megabytes of blanks are a cheap way to keep a parser busy
        raise ValueError("There is no value.")
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError as error:
        if not is_repairable(error):
            raise
    if len(data) > MAX_SLOW_PARSE_BYTES:
        mended = replace_surrogate_escapes(data)
        give_way()
        return orjson.loads(mended)
    with convert_recursion_errors():
        value = json.loads(data, parse_constant=NonFiniteLiteral)
        for path, name in find_non_finite_literals(value, ""):
            raise NonFiniteNumber(path, name)
        return replace_lone_surrogates(value)


MAX_SLOW_PARSE_BYTES = 2**20
"""Bytes up to which a parser is used that takes everything, a lot of time and a lot of memory."""

_MAX_ESCAPES = 500_000
"""Escapes in what is larger up to which it is mended: each one is looked at several times."""

MAX_REPLACED_SURROGATES = 10_000
"""How many halves of characters, of each kind, are replaced in what is larger."""

_LONE_SURROGATES = tuple(
    re.compile(pattern)
    for pattern in (
        # A literal in front is found fast; so the backslash before it is looked for behind it.
        rb"\\u(?<!\\\\u)[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])",
        rb"\\u(?<!\\\\u)(?<!\\u[dD][89abAB][0-9a-fA-F]{2}\\u)[dD][c-fC-F][0-9a-fA-F]{2}",
        rb"\xed[\xa0-\xbf][\x80-\xbf]",
    )
)
"""The first half of a character without the second, the other way round, and either as a byte."""


def replace_surrogate_escapes(data: bytes) -> bytes:
    give_way()
    if data.count(rb"\u") > _MAX_ESCAPES:
        raise ValueError("It holds too many escapes to look for halves of characters.")
    for half in _LONE_SURROGATES:
        give_way()
        data = half.sub(rb"\\ufffd", data, MAX_REPLACED_SURROGATES)
    return data.removeprefix(codecs.BOM_UTF8)


def is_repairable(error: orjson.JSONDecodeError) -> bool:
    """Is it half a character, a mark in front, or a ``NaN``, rather than no JSON at all?"""
    at_constant = error.doc.startswith(("NaN", "Infinity"), error.pos)
    return at_constant or "surrogate" in error.msg or "BOM" in error.msg


class NonFiniteNumber(ValueError):
    """``NaN`` or an infinity, and the path where it stands."""

    def __init__(self, path: str, name: str) -> None:
        super().__init__(f"{name} is not a number in JSON.")
        self.path = path


def is_too_deep(data: bytes, value: Any) -> bool:
    """Could ``value``, read from ``data``, not be written again?  Small data is never too deep."""
    if (
        len(data) < ALWAYS_SHALLOW_BYTES
        or data.count(b"[") + data.count(b"{") < ALWAYS_SHALLOW_BYTES
    ):
        return False
    return not is_writable(value)


def is_writable(value: Any) -> bool:
    """Can a value that was read be written, and be wrapped in others before?"""
    for _ in range(RESERVED_DEPTH):
        value = [value]
    try:
        orjson.dumps(value)
    except TypeError:
        return False
    return True


def has_more_values(data: bytes, limit: int) -> bool:
    """Does JSON text hold more than about ``limit`` values?  Reads no further than that.

    Parsing millions of tiny values takes seconds and a multiple of the text's size in memory, so
    it has to be known before the text is parsed.
    """
    return data.count(b",") > limit and count_values(data, limit) > limit


def count_values(data: bytes, limit: int) -> int:
    """About how many values JSON text holds: its commas outside of strings.

    Reads no further than ``limit``; 0 for text that is not JSON.
    """
    count = position = 0
    while count <= limit:
        quote = data.find(b'"', position)
        if quote < 0:
            return count + data.count(b",", position)
        count += data.count(b",", position, quote)
        string = _STRING.match(data, quote)
        if string is None:  # it does not end, so this is not JSON
            return 0
        position = string.end()
    return count


@contextmanager
def convert_recursion_errors() -> Iterator[None]:
    try:
        yield
    except RecursionError:
        raise ValueError("It is nested too deeply.") from None


def replace_lone_surrogates(value: Any) -> Any:
    """The value with whole characters, and numbers as large as numbers are."""
    text = json.dumps(value, ensure_ascii=False)
    return orjson.loads(text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace"))


def find_non_finite_literals(value: Any, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, NonFiniteLiteral):
        yield path, value
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            yield from find_non_finite_literals(inner, f"{path}[{i}]")
    elif isinstance(value, dict):
        for name, inner in value.items():
            yield from find_non_finite_literals(inner, f"{path}.{name}" if path else name)
