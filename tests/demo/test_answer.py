from __future__ import annotations

import json
from typing import Any

import pytest

from forwarder.core.errors import InvalidRequest
from forwarder.demo.answer import DemoPrompt, make_answer
from forwarder.demo.options import AnswerFormat, OfferedTool
from tests.helpers.check_cases import check_each

SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
ADD = OfferedTool("function", "add", SCHEMA, "tools[0].parameters")
PATCH = OfferedTool("custom", "patch", {}, "tools[0].parameters")
FORMAT = AnswerFormat(SCHEMA, "text.format.schema")


def make_last_part(**options: Any) -> tuple[str, str]:
    """Return the kind and the text of the last part of the answer."""
    last = make_answer(DemoPrompt("hello there", 2, **options)).parts[-1]
    return last.kind, last.text


@check_each(
    ("options", "kind", "text"),
    [
        ({}, "text", "[demo upstream] You said: hello there"),
        ({"tool": ADD}, "function", '{"n": 1}'),
        ({"tool": ADD, "format": FORMAT}, "function", '{"n": 1}'),
        ({"tool": PATCH}, "custom", "[demo upstream] You said: hello there"),
        ({"format": FORMAT}, "text", '{"n": 1}'),
        (
            {"tool": ADD, "tool_results": ("4", "5")},
            "text",
            "[demo upstream] The tool answered: 4; 5",
        ),
        ({"format": FORMAT, "tool_results": ("4",)}, "text", '{"n": 1}'),
    ],
)
def test_answer_follows_the_requested_format(options: dict[str, Any], kind: str, text: str) -> None:
    assert make_last_part(**options) == (kind, text)


def test_reasoning_precedes_the_text_unless_disabled() -> None:
    thoughtful = make_answer(DemoPrompt("hi", 1)).parts
    assert [piece.kind for piece in thoughtful] == ["reasoning", "text"]
    assert thoughtful[0].text == "The demo thinks: I say it back."
    assert [
        piece.kind for piece in make_answer(DemoPrompt("hi", 1, includes_reasoning=False)).parts
    ] == ["text"]


@check_each("text", ["", "a", "  two\n\nlines  ", "日本 語", "\u2028 a\u0085b "])
def test_streamed_words_join_to_the_text(text: str) -> None:
    assert make_answer(DemoPrompt(text, 0)).parts[-1].text == f"[demo upstream] You said: {text}"


def test_words_are_counted_as_tokens() -> None:
    reply = make_answer(DemoPrompt("one two", word_count=2))
    assert (reply.input_words, reply.reasoning_words, reply.output_words) == (2, 7, 13)


@check_each(
    ("limit", "kinds", "cut_pieces"),
    [
        (3, ["reasoning"], [True]),
        (7, ["reasoning"], [False]),
        (8, ["reasoning", "text"], [False, True]),
        (11, ["reasoning", "text"], [False, True]),
    ],
)
def test_a_limit_below_the_word_count_cuts_the_answer(
    limit: int, kinds: list[str], cut_pieces: list[bool]
) -> None:
    reply = make_answer(DemoPrompt("hi", 1, limit=limit))
    assert reply.is_cut
    assert reply.output_words == limit
    assert [piece.kind for piece in reply.parts] == kinds
    assert [piece.is_cut for piece in reply.parts] == cut_pieces


def test_sufficient_token_limit_does_not_cut() -> None:
    free, limited = make_answer(DemoPrompt("hi", 1)), make_answer(DemoPrompt("hi", 1, limit=12))
    assert not limited.is_cut
    assert limited == free


def test_text_beyond_ascii_stays_readable_in_json() -> None:
    format = AnswerFormat({"const": "héllo"}, "x")
    assert make_last_part(format=format)[1] == json.dumps("héllo", ensure_ascii=False)


def test_unsatisfiable_schema_is_refused_with_its_path() -> None:
    with pytest.raises(InvalidRequest) as caught:
        make_answer(DemoPrompt("hi", 1, format=AnswerFormat({"$ref": "#"}, "text.format.schema")))
    assert caught.value.param == "text.format.schema"
