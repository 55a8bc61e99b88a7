"""Newline-delimited JSON and its keep-alive."""

from __future__ import annotations

import json
from typing import Any

import pytest

from forwarder.protocols import ndjson


def test_encode_lines() -> None:
    events: list[dict[str, Any]] = [{"text": "ü\u2028\n"}, {"done": True}]
    data = ndjson.encode_lines(events)
    assert data.endswith(b"\n")
    assert [json.loads(line) for line in data.removesuffix(b"\n").split(b"\n")] == events


def test_keep_alive_is_part_of_the_next_line() -> None:
    data = ndjson.KEEP_ALIVE + ndjson.KEEP_ALIVE + ndjson.encode_lines([{"a": 1}])
    [line] = data.splitlines()
    assert json.loads(line) == {"a": 1}


def test_encode_lines_raises_for_non_json() -> None:
    with pytest.raises(TypeError):
        ndjson.encode_lines([{"a": 2**70}])
