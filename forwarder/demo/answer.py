"""The demo's answers, independent of protocols: makes a DemoAnswer from a DemoPrompt.

The same prompt always gets the same answer. One word counts as one token.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from typing import Any, Literal

from forwarder.core.errors import InvalidRequest, shorten_value
from forwarder.demo.invent import ImpossibleSchema, invent_value
from forwarder.demo.options import AnswerFormat, OfferedTool

DEMO_SIGN = "[demo upstream]"


@dataclass(frozen=True)
class DemoPrompt:
    """A parsed request of either protocol."""

    user_text: str
    """The text of the last user message."""
    word_count: int
    """Number of words of the whole input."""
    tool_results: tuple[str, ...] = ()
    """The tool results at the end of the request."""
    tool: OfferedTool | None = None
    """The tool to call if there are no tool results."""
    format: AnswerFormat | None = None
    limit: int | None = None
    """Maximum number of words of the answer, including reasoning."""
    includes_reasoning: bool = True


@dataclass(frozen=True)
class DemoAnswerPart:
    """A part of the answer of one kind. Its text is the concatenation of ``words``."""

    kind: Literal["reasoning", "text", "function", "custom"]
    words: tuple[str, ...]
    tool: OfferedTool | None = None
    is_cut: bool = False

    @property
    def text(self) -> str:
        return "".join(self.words)


@dataclass(frozen=True)
class DemoAnswer:
    """At most one reasoning part, then at most one text part or tool call."""

    parts: tuple[DemoAnswerPart, ...]
    input_words: int
    is_cut: bool
    """True if the word limit truncated the answer."""

    @property
    def reasoning_words(self) -> int:
        return sum(len(part.words) for part in self.parts if part.kind == "reasoning")

    @property
    def output_words(self) -> int:
        return sum(len(part.words) for part in self.parts)


def make_answer(prompt: DemoPrompt) -> DemoAnswer:
    """Return the answer to a prompt; raises InvalidRequest if a schema cannot be satisfied."""
    thought, part = choose_output(prompt)
    reasoning = DemoAnswerPart("reasoning", split_words(f"The demo thinks: {thought}"))
    all_parts = (reasoning, part) if prompt.includes_reasoning else (part,)
    parts = cut_to_limit(all_parts, prompt.limit)
    return DemoAnswer(parts, prompt.word_count, is_cut=parts != all_parts)


def choose_output(prompt: DemoPrompt) -> tuple[str, DemoAnswerPart]:
    if prompt.tool and not prompt.tool_results:
        return f"I call {prompt.tool.name}.", make_call(prompt.tool, prompt.user_text)
    if prompt.format:
        text = fill_schema(prompt.format.schema, prompt.format.param)
        return "I fill in the schema.", DemoAnswerPart("text", split_words(text))
    if prompt.tool_results:
        quoted = f"{DEMO_SIGN} The tool answered: {'; '.join(prompt.tool_results)}"
        return "I quote the tool.", DemoAnswerPart("text", split_words(quoted))
    return "I say it back.", DemoAnswerPart(
        "text", split_words(f"{DEMO_SIGN} You said: {prompt.user_text}")
    )


def make_call(tool: OfferedTool, user_text: str) -> DemoAnswerPart:
    if tool.kind == "custom":
        return DemoAnswerPart("custom", split_words(f"{DEMO_SIGN} You said: {user_text}"), tool)
    return DemoAnswerPart("function", split_words(fill_schema(tool.schema, tool.param)), tool)


def fill_schema(schema: Any, param: str) -> str:
    try:
        return json.dumps(invent_value(schema), ensure_ascii=False)
    except ImpossibleSchema as error:
        raise InvalidRequest(
            f"Invalid schema: {shorten_value(error)}.", param=param, code="invalid_json_schema"
        ) from error


def split_words(text: str) -> tuple[str, ...]:
    return tuple(re.findall(r"\s*\S+|\s+$", text))


def cut_to_limit(
    parts: tuple[DemoAnswerPart, ...], limit: int | None
) -> tuple[DemoAnswerPart, ...]:
    shortened: list[DemoAnswerPart] = []
    for part in parts:
        left = None if limit is None else limit - sum(len(one.words) for one in shortened)
        if left is None or len(part.words) <= left:
            shortened.append(part)
        elif left:
            shortened.append(replace(part, words=part.words[:left], is_cut=True))
            break
    return tuple(shortened)
