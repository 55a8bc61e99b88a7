"""Tool calls collected from their deltas."""

from __future__ import annotations

from typing import Any

import pytest

from forwarder.core.errors import UpstreamProtocolError
from forwarder.translation.ollama_over_chat.calls import OllamaToolCallCollector
from tests.helpers.check_cases import check_each

Json = dict[str, Any]


def make_delta(index: int | None, text: Any = None, name: str | None = None, **more: Any) -> Json:
    return {"index": index, "function": {"name": name, "arguments": text}, **more}


def collect_calls(*deltas: Json, is_cut: bool = False) -> list[Json]:
    calls = OllamaToolCallCollector()
    for delta in deltas:
        calls.add_delta(delta)
    return calls.build_calls(is_cut)


def test_call_deltas_may_interleave() -> None:
    tool_calls = collect_calls(
        make_delta(0, '{"a"', "f", id="c0"),
        make_delta(1, "{", "g", id="c1"),
        make_delta(0, ":1}"),
        make_delta(1, "}"),
    )
    assert tool_calls == [
        {"id": "c0", "function": {"index": 0, "name": "f", "arguments": {"a": 1}}},
        {"id": "c1", "function": {"index": 1, "name": "g", "arguments": {}}},
    ]


def test_repeated_name_is_not_doubled() -> None:
    [tool_call] = collect_calls(make_delta(0, "{", "f"), make_delta(0, "}", "f"))
    assert tool_call == {"function": {"index": 0, "name": "f", "arguments": {}}}


@check_each(
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
def test_arguments_become_an_object(text: Any, arguments: Json) -> None:
    [tool_call] = collect_calls(make_delta(0, text, "f"))
    assert tool_call["function"]["arguments"] == arguments


@check_each("text", ["{", "[1]", '"x"', "7", "{'a': 1}", "[" * 100_000])
def test_invalid_arguments_are_an_upstream_error_unless_cut(text: str) -> None:
    with pytest.raises(UpstreamProtocolError, match="'f'"):
        collect_calls(make_delta(0, text, "f"))
    assert collect_calls(make_delta(0, "{}", "e"), make_delta(1, text, "f"), is_cut=True) == [
        {"function": {"index": 0, "name": "e", "arguments": {}}}
    ]


@check_each("text", ["{}", "", "{"])
def test_call_without_a_name_is_an_upstream_error_unless_cut(text: str) -> None:
    with pytest.raises(UpstreamProtocolError, match="without a name"):
        collect_calls(make_delta(0, text, id="c0"))
    assert collect_calls(make_delta(0, text, id="c0"), is_cut=True) == []


def test_cut_call_without_arguments_is_omitted() -> None:
    assert collect_calls(make_delta(0, "", "f"), is_cut=True) == []
