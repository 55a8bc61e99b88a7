from __future__ import annotations

from typing import Any

import pytest

from forwarder.protocols.tool_call_index import ToolCallIndex, read_call_deltas, stringify_arguments
from tests.helpers.check_cases import check_each


def make_delta(index: int | None = None, call_id: str | None = None) -> dict[str, Any]:
    return {"index": index, "id": call_id}


@check_each(
    ("deltas", "numbers"),
    [
        pytest.param([make_delta(0, "a"), make_delta(0), make_delta(1, "b"), make_delta(1)], [0, 0, 1, 1], id="indexed"),
        pytest.param([make_delta(0, "a"), make_delta(1, "b"), make_delta(0), make_delta(1)], [0, 1, 0, 1], id="interleaved"),
        pytest.param([make_delta(1, "a"), make_delta(3, "b"), make_delta(1)], [0, 1, 0], id="not from zero"),
        pytest.param([make_delta(0, "a"), make_delta(0, "b"), make_delta(0)], [0, 1, 1], id="one index"),
        pytest.param([make_delta(0, "a"), make_delta(0, "a"), make_delta(0, "")], [0, 0, 0], id="id again"),
        pytest.param([make_delta(None, "a"), make_delta(), make_delta(None, "b"), make_delta()], [0, 0, 1, 1], id="no index"),
        pytest.param([make_delta(0), make_delta(0, "a"), make_delta(0, "b")], [0, 0, 1], id="late id"),
        pytest.param([make_delta(0, "a"), make_delta(1, "a")], [0, 1], id="one id on two indexes"),
        pytest.param([make_delta(), make_delta()], [0, 0], id="nothing to go by"),
    ],
)  # fmt: skip
def test_tool_call_index_find(deltas: list[dict[str, Any]], numbers: list[int]) -> None:
    keys = ToolCallIndex()
    assert [keys.find(delta) for delta in deltas] == numbers


@check_each(
    ("arguments", "text"), [(None, ""), ("", ""), ('{"a":1}', '{"a":1}'), ({"ö": 1}, '{"ö": 1}')]
)
def test_stringify_arguments(arguments: Any, text: str) -> None:
    assert stringify_arguments(arguments) == text


@check_each(
    ("delta", "calls"),
    [
        ({"content": "a"}, []),
        ({"tool_calls": None, "function_call": None}, []),
        ({"function_call": {"name": "f"}}, [{"index": 0, "function": {"name": "f"}}]),
        ({"tool_calls": [{"index": 1}], "function_call": {"name": "f"}}, [{"index": 1}]),
    ],
)
def test_read_call_deltas(delta: dict[str, Any], calls: list[Any]) -> None:
    assert read_call_deltas(delta) == calls
