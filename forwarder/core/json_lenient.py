"""Tolerant parsing of JSON from clients and upstreams, and limits of depth and number of values.

JavaScript can cut a string inside a surrogate pair and write a lone surrogate; Python writes
``NaN``.  Strict parsers refuse both, but a whole answer should not be lost because of them.
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
"""The nesting depth that orjson can write; it reads four times as deep."""

RESERVED_DEPTH = 16
"""Levels that stay free for the objects that later wrap a value."""

ALWAYS_SHALLOW_BYTES = MAX_WRITABLE_DEPTH - RESERVED_DEPTH
"""JSON text of up to this many bytes cannot be too deep."""


_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)


class NonFiniteLiteral(str):
    """``NaN``, ``Infinity`` or ``-Infinity``, which are not valid JSON."""


def parse_lenient(data: bytes) -> Any:
    """Parse JSON, with null for ``NaN`` and U+FFFD for lone surrogates.

    Raises ValueError if the text is not JSON apart from these.
    """
    with convert_recursion_errors():
        return replace_lone_surrogates(
            json.loads(data, strict=False, parse_constant=lambda name: None)
        )


def parse_strict(data: bytes) -> Any:
    """Parse JSON, with U+FFFD for lone surrogates, which the user of a client cannot avoid.

    Raises ValueError if the text is not JSON, and NonFiniteNumber for ``NaN``.
    """
    if data.isspace():  # megabytes of blanks are a cheap way to keep a parser busy
        raise ValueError("There is no value.")
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError as error:
        if not is_repairable(error):
            raise
    if len(data) > MAX_SLOW_PARSE_BYTES:
        repaired = replace_surrogate_escapes(data)
        give_way()
        return orjson.loads(repaired)
    with convert_recursion_errors():
        value = json.loads(data, parse_constant=NonFiniteLiteral)
        for path, name in find_non_finite_literals(value, ""):
            raise NonFiniteNumber(path, name)
        return replace_lone_surrogates(value)


MAX_SLOW_PARSE_BYTES = 2**20
"""Up to this size the tolerant parser is used, which takes much time and memory."""

_MAX_ESCAPES = 500_000
"""Larger texts are repaired only up to this many escapes; each escape is scanned several times."""

MAX_REPLACED_SURROGATES = 10_000
"""How many lone surrogates of each kind are replaced in larger texts."""

_LONE_SURROGATES = tuple(
    re.compile(pattern)
    for pattern in (
        # A literal prefix is found fast, so a lookbehind checks for the backslash in front of it.
        rb"\\u(?<!\\\\u)[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])",
        rb"\\u(?<!\\\\u)(?<!\\u[dD][89abAB][0-9a-fA-F]{2}\\u)[dD][c-fC-F][0-9a-fA-F]{2}",
        rb"\xed[\xa0-\xbf][\x80-\xbf]",
    )
)
"""High surrogate without a low one, low without a high one, and either one encoded in UTF-8."""


def replace_surrogate_escapes(data: bytes) -> bytes:
    give_way()
    if data.count(rb"\u") > _MAX_ESCAPES:
        raise ValueError("It has too many escapes to check for lone surrogates.")
    for half in _LONE_SURROGATES:
        give_way()
        data = half.sub(rb"\\ufffd", data, MAX_REPLACED_SURROGATES)
    return data.removeprefix(codecs.BOM_UTF8)


def is_repairable(error: orjson.JSONDecodeError) -> bool:
    """Return whether the error is a lone surrogate, a byte order mark or a ``NaN``."""
    at_constant = error.doc.startswith(("NaN", "Infinity"), error.pos)
    return at_constant or "surrogate" in error.msg or "BOM" in error.msg


class NonFiniteNumber(ValueError):
    """``NaN`` or an infinity at ``path``."""

    def __init__(self, path: str, name: str) -> None:
        super().__init__(f"{name} is not a number in JSON.")
        self.path = path


def is_too_deep(data: bytes, value: Any) -> bool:
    """Return whether ``value``, parsed from ``data``, is too deep to be serialized again."""
    if (
        len(data) < ALWAYS_SHALLOW_BYTES
        or data.count(b"[") + data.count(b"{") < ALWAYS_SHALLOW_BYTES
    ):
        return False
    return not is_writable(value)


def is_writable(value: Any) -> bool:
    """Return whether a parsed value can be serialized after more objects have wrapped it."""
    for _ in range(RESERVED_DEPTH):
        value = [value]
    try:
        orjson.dumps(value)
    except TypeError:
        return False
    return True


def has_more_values(data: bytes, limit: int) -> bool:
    """Return whether JSON text has more than about ``limit`` values, without parsing it.

    Parsing millions of tiny values takes seconds and a multiple of the text's size in memory.
    """
    return data.count(b",") > limit and count_values(data, limit) > limit


def count_values(data: bytes, limit: int) -> int:
    """Count about how many values JSON text has, by its commas outside of strings.

    Stops after ``limit``.  Returns 0 for text that is not JSON.
    """
    count = position = 0
    while count <= limit:
        quote = data.find(b'"', position)
        if quote < 0:
            return count + data.count(b",", position)
        count += data.count(b",", position, quote)
        string = _STRING.match(data, quote)
        if string is None:  # the string does not end, so this is not JSON
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
    """Replace lone surrogates in a parsed value, and integers beyond 64 bits by floats."""
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
