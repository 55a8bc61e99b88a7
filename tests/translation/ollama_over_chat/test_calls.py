"""Calls, gathered from their pieces."""

from __future__ import annotations

from typing import Any

import pytest

from forwarder.core.errors import UpstreamProtocolError
from forwarder.translation.ollama_over_chat.calls import OllamaToolCallCollector

Json = dict[str, Any]


def piece(index: int | None, text: Any = None, name: str | None = None, **more: Any) -> Json:
    return {"index": index, "function": {"name": name, "arguments": text}, **more}


def gathered(*pieces: Json, is_cut: bool = False) -> list[Json]:
    calls = OllamaToolCallCollector()
    for each in pieces:
        calls.add_delta(each)
    return calls.build_calls(is_cut)


def test_pieces_of_calls_may_interleave() -> None:
    told = gathered(
        piece(0, '{"a"', "f", id="c0"), piece(1, "{", "g", id="c1"), piece(0, ":1}"), piece(1, "}")
    )
    assert told == [
        {"id": "c0", "function": {"index": 0, "name": "f", "arguments": {"a": 1}}},
        {"id": "c1", "function": {"index": 1, "name": "g", "arguments": {}}},
    ]


def test_a_name_that_is_only_said_again_is_not_doubled() -> None:
    [told] = gathered(piece(0, "{", "f"), piece(0, "}", "f"))
    assert told == {"function": {"index": 0, "name": "f", "arguments": {}}}


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        ("", {}),
        (None, {}),
        (" ", {}),
        ("null", {}),
        ({"a": 1}, {"a": 1}),
        ('{"a": "\n"}', {"a": "\n"}),
    ],
)
def test_arguments_are_an_object(text: Any, arguments: Json) -> None:
    [told] = gathered(piece(0, text, "f"))
    assert told["function"]["arguments"] == arguments


@pytest.mark.parametrize("text", ["{", "[1]", '"x"', "7", "{'a': 1}", "[" * 100_000])
def test_anything_else_is_the_upstream_s_fault_unless_it_was_cut(text: str) -> None:
    with pytest.raises(UpstreamProtocolError, match="'f'"):
        gathered(piece(0, text, "f"))
    assert gathered(piece(0, "{}", "e"), piece(1, text, "f"), is_cut=True) == [
        {"function": {"index": 0, "name": "e", "arguments": {}}}
    ]


def test_a_call_that_was_cut_before_its_arguments_is_left_out() -> None:
    assert gathered(piece(0, "", "f"), is_cut=True) == []
