from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from forwarder.protocols.chat_reasoning import (
    DetailMerger,
    ThinkTagSplitter,
    find_reasoning_field,
    is_reasoning_part,
    is_seal,
    read_text,
    split_content,
)
from tests.helpers.check_cases import check_each


@check_each(
    ("delta", "text"),
    [
        ({"reasoning_content": "a"}, "a"),
        ({"reasoning": "a"}, "a"),
        ({"reasoning_content": "a", "reasoning": "a"}, "a"),
        ({"reasoning_content": "", "reasoning": "a"}, "a"),
        ({"reasoning_content": None, "reasoning_details": [{"type": "reasoning.text", "text": "a"}]}, "a"),
        ({"reasoning_details": [{"type": "reasoning.summary", "summary": "a"}, {"text": "b"}]}, "ab"),
        ({"reasoning_details": [{"type": "reasoning.encrypted", "data": "x"}]}, ""),
        ({"thinking_blocks": [{"type": "thinking", "thinking": "a"}, {"type": "redacted_thinking", "data": "x"}]}, "a"),
        ({"reasoning_content": "a", "thinking_blocks": [{"type": "thinking", "thinking": "a"}]}, "a"),
        ({"reasoning_details": [{"text": None}, "a", 1]}, "a"),
        ({"reasoning": {"effort": "low"}, "content": "a"}, ""),
        ({}, ""),
    ],
)  # fmt: skip
def test_read_text_reads_each_reasoning_field_once(delta: dict[str, Any], text: str) -> None:
    assert read_text(delta) == text


@check_each(
    ("content", "expected"),
    [
        ([{"type": "text", "text": "a"}], ("", "a")),
        (
            [{"type": "thinking", "thinking": [{"type": "text", "text": "t"}]}, {"text": "a"}],
            ("t", "a"),
        ),
        ([{"type": "thinking", "thinking": "t"}, {"type": "text", "text": "a"}, "b"], ("t", "ab")),
        ([{"type": "reasoning", "text": "t"}], ("t", "")),
        ([{"type": "thinking", "thinking": None}, None, 1], ("", "")),
    ],
)
def test_split_content(content: list[Any], expected: tuple[str, str]) -> None:
    assert split_content(content) == expected
    assert is_reasoning_part(content[0]) == bool(expected[0] or content[-1] == 1)


def test_detail_merger_restores_the_list() -> None:
    merger = DetailMerger()
    first_detail = {"type": "reasoning.text", "text": "a", "index": 0, "signature": None}
    for details in (
        [first_detail],
        [{"type": "reasoning.text", "text": "b", "index": 0}],
        [{"type": "reasoning.text", "signature": "s", "index": 0}],
        [{"type": "reasoning.text", "text": "c", "index": 1}],
        [{"type": "reasoning.encrypted", "data": "x", "index": 2}],
        [{"type": "reasoning.encrypted", "data": "y", "index": 2}],
    ):
        merger.add(details)
        merged = merger.read()  # may be read at any time
    assert (
        merged
        == merger.read()
        == [
            {"type": "reasoning.text", "text": "ab", "index": 0, "signature": "s"},
            {"type": "reasoning.text", "text": "c", "index": 1},
            {"type": "reasoning.encrypted", "data": "x", "index": 2},
            {"type": "reasoning.encrypted", "data": "y", "index": 2},
        ]
    )
    assert first_detail["text"] == "a"


def split_pieces(pieces: list[str]) -> list[tuple[str, str]]:
    """Split the pieces; join neighbours of one kind."""
    splitter = ThinkTagSplitter()
    parts = [part for piece in pieces for part in splitter.feed(piece)]
    joined: list[tuple[str, str]] = []
    for kind, text in [*parts, *splitter.flush()]:
        assert text
        if joined and joined[-1][0] == kind:
            joined[-1] = (kind, joined[-1][1] + text)
        else:
            joined.append((kind, text))
    return joined


@check_each(
    ("content", "expected"),
    [
        ("plain", [("text", "plain")]),
        ("<think>t</think>a", [("reasoning", "t"), ("text", "a")]),
        (" \n<think>t</think>\n\na\n", [("reasoning", "t"), ("text", "a\n")]),
        ("<think></think>a", [("text", "a")]),
        ("<think>\n\n</think>\n\na", [("reasoning", "\n\n"), ("text", "a")]),
        ("<think>t < u </thin</think>a", [("reasoning", "t < u </thin"), ("text", "a")]),
        ("<think>cut off</thi", [("reasoning", "cut off</thi")]),
        ("a<think>b</think>", [("text", "a<think>b</think>")]),
        ("<think>t</think>a<think>b</think>", [("reasoning", "t"), ("text", "a<think>b</think>")]),
        ("<thi", [("text", "<thi")]),
        ("  ", [("text", "  ")]),
        ("<thought>x", [("text", "<thought>x")]),
        ("", []),
    ],
)
def test_think_tag_splitter_removes_leading_block(
    content: str, expected: list[tuple[str, str]]
) -> None:
    assert split_pieces([content]) == expected
    assert split_pieces(list(content)) == expected


TEXTS = st.lists(st.sampled_from(["<think>", "</think>", "<", "</th", "\n", " ", "a", "think>"]))


@given(content=TEXTS.map("".join), data=st.data())
def test_think_tag_splitter_with_any_chunks(content: str, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(content)))))
    pieces = [content[a:b] for a, b in zip([0, *cuts], [*cuts, len(content)], strict=True)]
    assert split_pieces(pieces) == split_pieces([content])


def test_think_tag_splitter_is_reasoning() -> None:
    splitter = ThinkTagSplitter()
    states = []
    for piece in ("\n", "<think>", "Hm.", "</think>", "\n", "Hi"):
        list(splitter.feed(piece))
        states.append(splitter.is_reasoning)
    assert states == [False, True, True, True, True, False]


def test_think_tag_splitter_is_done_with_plain_text() -> None:
    splitter = ThinkTagSplitter()
    assert not splitter.is_done
    list(splitter.feed("<think>a"))
    assert not splitter.is_done
    list(splitter.feed("</think>b"))
    assert splitter.is_done


@check_each(
    ("blob", "expected"), [("fwd1.abc", True), ("fwd12.abc", True), ("fwd.abc", False), ("gAAAA", False), (None, False)]
)  # fmt: skip
def test_is_seal(blob: Any, expected: bool) -> None:
    assert is_seal(blob) is expected


@check_each(
    ("messages", "field"),
    [
        ([{"role": "assistant", "reasoning_content": "t"}], "reasoning_content"),
        ([{"role": "assistant", "reasoning": "t"}], "reasoning"),
        ([{"role": "assistant", "reasoning_content": "t", "reasoning": "t"}], "reasoning_content"),
        ([{"role": "assistant", "reasoning_details": [{"text": "t"}]}], "reasoning"),
        ([{"role": "assistant", "reasoning_content": None, "reasoning": ""}], None),
        ([{"role": "user", "reasoning": "t"}, "odd"], None),
        (None, None),
    ],
)
def test_find_reasoning_field_in_history(messages: Any, field: str | None) -> None:
    assert find_reasoning_field(messages) == field
