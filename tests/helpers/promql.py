"""Reads the metrics and labels that a PromQL expression names."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

_TOKEN = re.compile(
    r"""\s*(?:(?P<string>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')
    |(?P<range>\[[^\]]*\])
    |(?P<number>\d[\w.]*)
    |(?P<name>[A-Za-z_:][\w:]*)
    |(?P<operator>=~|!~|!=|==|<=|>=|[-+*/%^<>=(){},@]))""",
    re.VERBOSE,
)
_KEYWORDS = frozenset({"and", "or", "unless", "bool", "offset"})
_CLAUSES = frozenset({"by", "without", "on", "ignoring", "group_left", "group_right"})


class Selector(NamedTuple):
    """A metric in an expression, the matchers of its labels, and the labels that it is grouped by.

    ``matchers`` maps a label to its value. ``grouping`` is None outside of an aggregation by labels.
    """

    metric: str
    matchers: dict[str, str]
    grouping: frozenset[str] | None


def split_tokens(expression: str) -> list[str]:
    """Return the tokens. Raises ValueError for text that is not PromQL."""
    tokens, end = [], 0
    text = expression.rstrip()
    while end < len(text):
        match = _TOKEN.match(text, end)
        if match is None:
            raise ValueError(f"this is not PromQL: {text[end:]!r}")
        tokens.append(match[0].strip())
        end = match.end()
    return tokens


def read_selectors(expression: str) -> list[Selector]:
    """Return the selectors of an expression, whose aggregations are written ``sum by (…) (…)``.

    Raises ValueError for another form, or for parentheses that do not match.
    """
    return list(_Parser(split_tokens(expression)).parse())


class _Parser:
    def __init__(self, tokens: list[str]) -> None:
        self._tokens = tokens
        self._at = 0
        self._groupings: list[frozenset[str] | None] = []
        """The labels of each open parenthesis."""

    def parse(self) -> Iterator[Selector]:
        grouping: frozenset[str] | None = None  # of the next parenthesis
        while (token := self._take()) is not None:
            if token == "(":
                outer = self._groupings[-1] if self._groupings else None
                self._groupings.append(grouping if grouping is not None else outer)
                grouping = None
            elif token == ")":
                if not self._groupings:
                    raise ValueError("a parenthesis that was not opened")
                self._groupings.pop()
            elif token in _CLAUSES:
                names = self._read_names()
                if token == "by":
                    grouping = names
                    if self._peek() != "(":
                        raise ValueError("an aggregation that is not written `sum by (…) (…)`")
            elif self._is_metric(token):
                current = self._groupings[-1] if self._groupings else None
                yield Selector(token, self._read_matchers(), current)
        if self._groupings:
            raise ValueError("a parenthesis that is not closed")

    def _is_metric(self, token: str) -> bool:
        """Return whether a token is a metric, not a function, aggregation, keyword or number."""
        is_name = re.match(r"[A-Za-z_:]", token) is not None and token not in _KEYWORDS
        return is_name and self._peek() not in ("(", "by", "without")

    def _peek(self) -> str | None:
        return self._tokens[self._at] if self._at < len(self._tokens) else None

    def _take(self, expected: str | None = None) -> str | None:
        token = self._peek()
        self._at += 1
        if expected is not None and token != expected:
            raise ValueError(f"{token!r} instead of {expected!r}")
        return token

    def _read_names(self) -> frozenset[str]:
        self._take("(")
        names = set()
        while (token := self._take()) != ")":
            if token is None:
                raise ValueError("a list of labels that is not closed")
            if token != ",":
                names.add(token)
        return frozenset(names)

    def _read_matchers(self) -> dict[str, str]:
        matchers: dict[str, str] = {}
        if self._peek() != "{":
            return matchers
        self._take("{")
        while (name := self._take()) != "}":
            if name == ",":
                continue
            operator, value = self._take(), self._take()
            if name is None or value is None or operator not in ("=", "!=", "=~", "!~"):
                raise ValueError(f"the matcher of {name!r}")
            matchers[name] = value[1:-1]
        return matchers
