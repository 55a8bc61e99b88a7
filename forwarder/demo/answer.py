"""What the demo says: a Prompt in, an Answer out, no protocol in sight.

The same prompt always gets the same answer. A word stands for a token.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from typing import Any, Literal

from forwarder.core.errors import InvalidRequest
from forwarder.demo.formats import AnswerFormat
from forwarder.demo.invent import ImpossibleSchema, invent_value
from forwarder.demo.tools import OfferedTool

DEMO_SIGN = "[demo upstream]"


@dataclass(frozen=True)
class DemoPrompt:
    """What a request asks for."""

    user_text: str
    word_count: int
    """How many words the whole input has."""
    tool_results: tuple[str, ...] = ()
    """The tool results that the request ends with."""
    tool: OfferedTool | None = None
    """The tool to call, unless there are results to report."""
    format: AnswerFormat | None = None
    limit: int | None = None
    """The most words the answer may have, reasoning included."""
    includes_reasoning: bool = True


@dataclass(frozen=True)
class AnswerPart:
    """A stretch of the answer of one kind; the words join to its text without separators."""

    kind: Literal["reasoning", "text", "function", "custom"]
    words: tuple[str, ...]
    tool: OfferedTool | None = None
    is_cut: bool = False

    @property
    def text(self) -> str:
        return "".join(self.words)


@dataclass(frozen=True)
class DemoAnswer:
    """At most one piece of reasoning, then at most one piece of text or one call."""

    parts: tuple[AnswerPart, ...]
    input_words: int
    is_cut: bool
    """Whether the limit ended it."""

    @property
    def reasoning_words(self) -> int:
        return sum(len(piece.words) for piece in self.parts if piece.kind == "reasoning")

    @property
    def output_words(self) -> int:
        return sum(len(piece.words) for piece in self.parts)


def make_answer(prompt: DemoPrompt) -> DemoAnswer:
    """The demo's answer; raises InvalidRequest when a schema cannot be satisfied."""
    thought, piece = choose_output(prompt)
    reasoning = AnswerPart("reasoning", split_words(f"The demo thinks: {thought}"))
    pieces = (reasoning, piece) if prompt.includes_reasoning else (piece,)
    kept = cut_to_limit(pieces, prompt.limit)
    return DemoAnswer(kept, prompt.word_count, is_cut=kept != pieces)


def choose_output(prompt: DemoPrompt) -> tuple[str, AnswerPart]:
    if prompt.tool and not prompt.tool_results:
        return f"I call {prompt.tool.name}.", make_call(prompt.tool, prompt.user_text)
    if prompt.format:
        text = fill_schema(prompt.format.schema, prompt.format.param)
        return "I fill in the schema.", AnswerPart("text", split_words(text))
    if prompt.tool_results:
        quoted = f"{DEMO_SIGN} The tool answered: {'; '.join(prompt.tool_results)}"
        return "I quote the tool.", AnswerPart("text", split_words(quoted))
    return "I say it back.", AnswerPart(
        "text", split_words(f"{DEMO_SIGN} You said: {prompt.user_text}")
    )


def make_call(tool: OfferedTool, said: str) -> AnswerPart:
    if tool.kind == "custom":
        return AnswerPart("custom", split_words(f"{DEMO_SIGN} You said: {said}"), tool)
    return AnswerPart("function", split_words(fill_schema(tool.schema, tool.param)), tool)


def fill_schema(schema: Any, param: str) -> str:
    try:
        return json.dumps(invent_value(schema), ensure_ascii=False)
    except ImpossibleSchema as error:
        raise InvalidRequest(
            f"Invalid schema: {error}.", param=param, code="invalid_json_schema"
        ) from error


def split_words(text: str) -> tuple[str, ...]:
    return tuple(re.findall(r"\s*\S+|\s+$", text))


def cut_to_limit(pieces: tuple[AnswerPart, ...], limit: int | None) -> tuple[AnswerPart, ...]:
    kept: list[AnswerPart] = []
    for piece in pieces:
        left = None if limit is None else limit - sum(len(one.words) for one in kept)
        if left is None or len(piece.words) <= left:
            kept.append(piece)
        elif left:
            kept.append(replace(piece, words=piece.words[:left], is_cut=True))
            break
    return tuple(kept)
