"""JSON of others: what is forgiven, what is not, and how deep it may be."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest

from forwarder import reading


@pytest.mark.parametrize(
    ("data", "value"),
    [
        (b'{"a": NaN, "b": [Infinity, -Infinity]}', {"a": None, "b": [None, None]}),
        (rb'{"a": "\ud83d"}', {"a": "\ufffd"}),
        (rb'{"a": "x\ude00y", "\ud800": 1}', {"a": "x\ufffdy", "\ufffd": 1}),
        (rb'{"a": "\ud83d\ude00"}', {"a": "😀"}),
        (b'{"a": "two\nlines"}', {"a": "two\nlines"}),
        (b'{"a": NaN, "n": 1' + b"0" * 40 + b"}", {"a": None, "n": 1e40}),
    ],
)
def test_a_server_is_forgiven(data: bytes, value: Any) -> None:
    assert reading.leniently(data) == value


@pytest.mark.parametrize("data", [b"", b"{", b"nonsense", b'{"a": NaM}', b"[" * 5000])
@pytest.mark.parametrize("read", [reading.leniently, reading.strictly])
def test_what_is_no_json_stays_none(read: Any, data: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  (in the words of whichever parser it was)
        read(data)


def test_half_a_character_of_a_client_is_replaced() -> None:
    assert reading.strictly(rb'{"a": ["cut \ud83d"]}') == {"a": ["cut \ufffd"]}


@pytest.mark.parametrize(
    ("data", "path"),
    [
        (b'{"temperature": NaN}', "temperature"),
        (b'{"tools": [{}, {"parameters": {"maximum": Infinity}}]}', "tools[1].parameters.maximum"),
        (b"[-Infinity]", "[0]"),
    ],
)
def test_a_client_is_told_where_its_nan_stands(data: bytes, path: str) -> None:
    with pytest.raises(reading.NotANumber) as found:
        reading.strictly(data)

    assert found.value.path == path


def test_a_text_that_names_nan_is_no_nan() -> None:
    assert reading.strictly(rb'{"a": "NaN \ud800"}') == {"a": "NaN \ufffd"}


@pytest.mark.parametrize("levels", [1, 200, 237, 238, 239, 254, 255, 600])
def test_what_is_not_too_deep_can_be_wrapped_and_written(levels: int) -> None:
    value = orjson.loads("[" * levels + "]" * levels)
    data = json.dumps(value).encode()

    too_deep = reading.is_too_deep(data, value)

    assert too_deep == (not reading.is_writable(value))
    assert too_deep == (levels > 238)
    if not too_deep:
        assert orjson.dumps({"response": {"tools": [value]}})


def test_many_brackets_are_not_deep() -> None:
    value = [[]] * 1000
    assert not reading.is_too_deep(json.dumps(value).encode(), value)
