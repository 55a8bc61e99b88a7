"""What the demo says: a Prompt in, an Answer out, no protocol in sight.

The same prompt always gets the same answer. A word stands for a token.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from typing import Any, Literal

from forwarder.core.errors import InvalidRequest
from forwarder.demo.formats import Format
from forwarder.demo.invent import ImpossibleSchema, invent
from forwarder.demo.tools import Tool

SIGN = "[demo upstream]"


@dataclass(frozen=True)
class Prompt:
    """What a request asks for."""

    said: str
    words: int
    """How many words the whole input has."""
    results: tuple[str, ...] = ()
    """The tool results that the request ends with."""
    tool: Tool | None = None
    """The tool to call, unless there are results to report."""
    format: Format | None = None
    limit: int | None = None
    """The most words the answer may have, reasoning included."""
    thinks: bool = True


@dataclass(frozen=True)
class Piece:
    """A stretch of the answer of one kind; the words join to its text without separators."""

    kind: Literal["reasoning", "text", "function", "custom"]
    words: tuple[str, ...]
    tool: Tool | None = None
    cut: bool = False

    @property
    def text(self) -> str:
        return "".join(self.words)


@dataclass(frozen=True)
class Answer:
    """At most one piece of reasoning, then at most one piece of text or one call."""

    pieces: tuple[Piece, ...]
    input_words: int
    cut: bool
    """Whether the limit ended it."""

    @property
    def reasoning_words(self) -> int:
        return sum(len(piece.words) for piece in self.pieces if piece.kind == "reasoning")

    @property
    def output_words(self) -> int:
        return sum(len(piece.words) for piece in self.pieces)


def answer(prompt: Prompt) -> Answer:
    """The demo's answer; raises InvalidRequest when a schema cannot be satisfied."""
    thought, piece = _think(prompt)
    reasoning = Piece("reasoning", _words(f"The demo thinks: {thought}"))
    pieces = (reasoning, piece) if prompt.thinks else (piece,)
    kept = _within(pieces, prompt.limit)
    return Answer(kept, prompt.words, cut=kept != pieces)


def _think(prompt: Prompt) -> tuple[str, Piece]:
    if prompt.tool and not prompt.results:
        return f"I call {prompt.tool.name}.", _call(prompt.tool, prompt.said)
    if prompt.format:
        text = _filled(prompt.format.schema, prompt.format.param)
        return "I fill in the schema.", Piece("text", _words(text))
    if prompt.results:
        quoted = f"{SIGN} The tool answered: {'; '.join(prompt.results)}"
        return "I quote the tool.", Piece("text", _words(quoted))
    return "I say it back.", Piece("text", _words(f"{SIGN} You said: {prompt.said}"))


def _call(tool: Tool, said: str) -> Piece:
    if tool.kind == "custom":
        return Piece("custom", _words(f"{SIGN} You said: {said}"), tool)
    return Piece("function", _words(_filled(tool.schema, tool.param)), tool)


def _filled(schema: Any, param: str) -> str:
    try:
        return json.dumps(invent(schema), ensure_ascii=False)
    except ImpossibleSchema as error:
        raise InvalidRequest(
            f"Invalid schema: {error}.", param=param, code="invalid_json_schema"
        ) from error


def _words(text: str) -> tuple[str, ...]:
    return tuple(re.findall(r"\s*\S+|\s+$", text))


def _within(pieces: tuple[Piece, ...], limit: int | None) -> tuple[Piece, ...]:
    kept: list[Piece] = []
    for piece in pieces:
        left = None if limit is None else limit - sum(len(one.words) for one in kept)
        if left is None or len(piece.words) <= left:
            kept.append(piece)
        elif left:
            kept.append(replace(piece, words=piece.words[:left], cut=True))
            break
    return tuple(kept)
