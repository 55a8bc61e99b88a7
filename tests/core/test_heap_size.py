"""The estimate of a JSON value's memory, held to what the interpreter allocates."""

from __future__ import annotations

import tracemalloc
from typing import Any

import orjson
import pytest

from forwarder.core.heap_size import measure_heap

DELTA = {
    "type": "response.output_text.delta",
    "item_id": "msg_0123456789abcdef0123456789abcdef",
    "output_index": 0,
    "content_index": 0,
    "logprobs": [],
    "delta": "word ",
    "sequence_number": 1000,
}


@pytest.mark.parametrize(
    "value",
    [
        [DELTA] * 2000,
        ["a long text " * 50_000],
        [{"n": [i, float(i), None, True]} for i in range(2000)],
        {f"key{i}": {"nested": [{"text": f"ü{i}"}]} for i in range(2000)},
    ],
    ids=["deltas", "text", "numbers", "nested"],
)
def test_the_estimate_is_near_to_what_is_allocated(value: Any) -> None:
    data = orjson.dumps(value)
    orjson.loads(data)  # it keeps the keys
    tracemalloc.start()
    parsed = orjson.loads(data)
    allocated, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert 0.7 < measure_heap(parsed) / allocated < 1.3


def test_deep_values_can_be_measured() -> None:
    value: Any = []
    for _ in range(5000):
        value = [value]

    assert measure_heap(value) > 5000 * 56
