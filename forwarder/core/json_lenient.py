"""Tolerant parsing of JSON from clients and upstreams; depth, number of values and memory of JSON.

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

from forwarder.core.paced_iteration import LARGE_BYTES, give_way

MAX_WRITABLE_DEPTH = 254
"""The nesting depth that orjson can write; it reads four times as deep."""

RESERVED_DEPTH = 16
"""Levels that stay free for the objects that later wrap a value."""

MAX_DEPTH = MAX_WRITABLE_DEPTH - RESERVED_DEPTH

ALWAYS_SHALLOW_BYTES = 2 * MAX_DEPTH
"""JSON text of up to this many bytes cannot be too deep: each level has two brackets."""


_STRING_PART = re.compile(rb'[^"\\]*+(?:\\.[^"\\]*+)*+', re.DOTALL)

_BEYOND_BMP = re.compile(rb"[\xf0-\xf7]")
_ESCAPE_BEYOND_BMP = re.compile(rb"\\u[dD][89a-fA-F]")
"""The characters that Python stores in four bytes: in UTF-8, and one half of an escape."""

_QUOTES_PER_SLICE = 10_000
_MAX_QUOTES = 100
_BACKSLASH = 92

_SURROGATE_BYTES = 12
"""Bytes of two escapes."""

_END_BYTES = 64
"""Bytes in which the end of an object is looked for."""

_WINDOW_BYTES = 2**14
"""Bytes of JSON text that are measured together."""


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
    end = data[-_END_BYTES:].rstrip()
    if data.startswith(b"{") and end and not end.endswith(b"}"):
        # The body was cut off.  The parser would read all of it and copy it into the error, which
        # takes twice as long as parsing a valid body.  Other invalid texts still take that time.
        raise ValueError("The object does not end.")
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
    if len(data) < ALWAYS_SHALLOW_BYTES:
        return False
    # Serializing a value is several times faster than counting the brackets in its text, but takes
    # memory for another copy.
    if len(data) >= LARGE_BYTES and data.count(b"[") + data.count(b"{") < MAX_DEPTH:
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
    if len(data) <= 2 * limit:  # each value has at least one byte and a comma
        return False
    return data.count(b",") > limit and count_values(data, limit) > limit


def count_values(data: bytes, limit: int) -> int:
    """Count about how many values JSON text has, by its commas outside of strings.

    Stops after ``limit``.  Returns 0 for text that is not JSON.
    """
    count = position = 0
    for begin, end in iter_strings(data):
        count += data.count(b",", position, begin)
        if count > limit:
            return count
        if end < 0:  # the string does not end, so this is not JSON
            return 0
        position = end
    return count + data.count(b",", position)


def measure_text(data: bytes) -> int:
    """Return about how many bytes the strings of JSON text take in memory beyond their length.

    One character beyond Latin-1 makes Python store all characters of its string in two bytes, one
    beyond U+FFFF in four, and a copy in UTF-8 is kept beside them.  Text with lone surrogates is
    copied as a whole to repair it.
    """
    more = repair = 0
    span_width = span_bytes = 0  # of the string that reaches into the window
    for at in range(0, len(data), _WINDOW_BYTES):
        if at % LARGE_BYTES == 0:
            give_way()
        window = data[at : at + _WINDOW_BYTES]
        width = measure_width(window)
        if (width == 4 or b"\xed" in window) and not repair and has_lone_surrogate(data, at):
            repair = len(data)
        first, last = find_quote(window), rfind_quote(window)
        if first is None or last is None:
            span_width, span_bytes = max(span_width, width), span_bytes + len(window)
            continue
        head, tail = window[:first], window[last:]
        span_width = max(span_width, measure_width(head) if width else 0)
        more += span_width * (span_bytes + first)
        if width and first < last:
            more += measure_width(window[first:last]) * (last - first)
        span_width, span_bytes = measure_width(tail) if width else 0, len(tail)
    return repair + more + span_width * span_bytes


def find_quote(window: bytes) -> int | None:
    """Return the position of the first quote that follows no backslash.

    Such a quote begins or ends a string.  Returns None if there is none among the first quotes.
    """
    at = 0
    for _ in range(_MAX_QUOTES):
        at = window.find(b'"', at + 1)
        if at < 0:
            return None
        if window[at - 1] != _BACKSLASH:
            return at
    return None


def rfind_quote(window: bytes) -> int | None:
    """Like `find_quote`, from the end: return the position of the last such quote."""
    at = len(window)
    for _ in range(_MAX_QUOTES):
        at = window.rfind(b'"', 1, at)
        if at < 0:
            return None
        if window[at - 1] != _BACKSLASH:
            return at
    return None


def measure_width(window: bytes) -> int:
    """Return how many more bytes of memory a string takes per byte of its text: 0, 2 or 4."""
    width = 0
    if not window.isascii():
        width = 4 if _BEYOND_BMP.search(window) else 2
    if width < 4 and b"\\" in window and rb"\u" in window:
        width = 4 if _ESCAPE_BEYOND_BMP.search(window) else 2
    return width


def has_lone_surrogate(data: bytes, at: int) -> bool:
    """Return whether a lone surrogate begins in the window at ``at``."""
    end = at + _WINDOW_BYTES
    matches = (half.search(data, at, end + _SURROGATE_BYTES) for half in _LONE_SURROGATES)
    return any(match is not None and match.start() < end for match in matches)


def iter_strings(data: bytes) -> Iterator[tuple[int, int]]:
    """Yield begin and end of each string in JSON text; the end is -1 for an unclosed string.

    Pauses regularly.
    """
    number = position = 0
    while (begin := data.find(b'"', position)) >= 0:
        number += 1
        if number % _QUOTES_PER_SLICE == 0:
            give_way()
        position = find_string_end(data, begin + 1)
        yield begin, position
        if position < 0:
            return


def find_string_end(data: bytes, begin: int) -> int:
    """Return the position after the quote that ends a string, or -1."""
    quote = data.find(b'"', begin)  # much faster than the pattern
    if quote < 0 or data[quote - 1] != _BACKSLASH:
        return quote + 1 if quote >= 0 else -1
    position = begin
    while part := _STRING_PART.match(data, position, position + LARGE_BYTES):
        end = part.end()
        if data.startswith(b'"', end):
            return end + 1
        if end == position:
            break
        position = end
        give_way()
    return -1


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
