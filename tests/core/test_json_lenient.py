"""Tolerant parsing of JSON: repairs, refusals, and limits of depth."""

from __future__ import annotations

import codecs
import json
from types import SimpleNamespace
from typing import Any
from unittest import mock

import orjson
import pytest

from forwarder.core import json_lenient
from tests.helpers.check_cases import check_each


@check_each(
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
def test_lenient_parser_accepts_nan_and_lone_surrogates(data: bytes, value: Any) -> None:
    assert json_lenient.parse_lenient(data) == value


@check_each("data", [b"", b"{", b"nonsense", b'{"a": NaM}', b"[" * 5000])
@check_each("read", [json_lenient.parse_lenient, json_lenient.parse_strict])
def test_lenient_parser_refuses_text_that_is_not_json(read: Any, data: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  (the message depends on the parser)
        read(data)


def test_strict_parser_replaces_lone_surrogates() -> None:
    assert json_lenient.parse_strict(rb'{"a": ["cut \ud83d"]}') == {"a": ["cut \ufffd"]}


PADDED = b'["' + b"x" * 2**20 + b'", %b]'
"""A body that is too large for the slow parser."""


@check_each(
    ("data", "value"),
    [
        (rb'"\ud83d\ude00"', "😀"),
        (rb'"\ud83d\ud83d\ude00\ude00"', "\ufffd😀\ufffd"),
        (rb'"\\ud83d \"\uD83D"', r"\ud83d " + '"\ufffd'),
        (rb'"\ud83d\n\udc00\u00e4"', "\ufffd\n\ufffdä"),
        (rb'{"\ud83d": "\ud83d"}', {"\ufffd": "\ufffd"}),
        (b'"a\xed\xa0\x80b"', "a\ufffdb"),
    ],
)
def test_strict_parser_repairs_escapes_of_python_and_javascript(data: bytes, value: Any) -> None:
    assert json_lenient.parse_strict(data) == value
    assert json_lenient.parse_strict(PADDED % data) == ["x" * 2**20, value]


@pytest.mark.parametrize(
    "data",
    [
        b" \n\t" * 1000,
        b"9" * 5000,
        b"[" + b"9" * 400 + b"]",
        b'{"a": 1e400}',
        PADDED % b'"\xff"',
        PADDED % b'"\xed\xa0"',
        PADDED % b'"a \\ud83d", }',
        PADDED % (b'"' + b"\\ud83d" * 20_001 + b'"'),
        b'["' + b"x" * 2**20 + b'", NaN]',
    ],
)
def test_irreparable_json_is_parsed_by_orjson_only(
    data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tolerant parser would take seconds and several times the memory."""
    parsed: list[bytes] = []

    def loads(data: bytes, **options: Any) -> Any:
        parsed.append(data)
        return json.loads(data, **options)

    monkeypatch.setattr(json_lenient, "json", SimpleNamespace(loads=loads, dumps=json.dumps))
    with pytest.raises(ValueError):  # noqa: PT011  (the message depends on the parser)
        json_lenient.parse_strict(data)
    assert parsed == []


def test_byte_order_mark_is_skipped() -> None:
    for data in (b'{"a": 1}', PADDED % b"1"):
        assert json_lenient.parse_strict(codecs.BOM_UTF8 + data) == orjson.loads(data)


@check_each(
    ("data", "path"),
    [
        (b'{"temperature": NaN}', "temperature"),
        (b'{"tools": [{}, {"parameters": {"maximum": Infinity}}]}', "tools[1].parameters.maximum"),
        (b"[-Infinity]", "[0]"),
    ],
)
def test_nan_error_names_the_path(data: bytes, path: str) -> None:
    with pytest.raises(json_lenient.NonFiniteNumber) as caught:
        json_lenient.parse_strict(data)

    assert caught.value.path == path


def test_string_with_nan_is_accepted() -> None:
    assert json_lenient.parse_strict(rb'{"a": "NaN \ud800"}') == {"a": "NaN \ufffd"}


@check_each("levels", [1, 200, 237, 238, 239, 254, 255, 600])
def test_value_within_the_depth_limit_can_be_wrapped_and_serialized(levels: int) -> None:
    value = orjson.loads("[" * levels + "]" * levels)
    data = json.dumps(value).encode()

    too_deep = json_lenient.is_too_deep(data, value)

    assert too_deep == (not json_lenient.is_writable(value))
    assert too_deep == (levels > 238)
    if not too_deep:
        assert orjson.dumps({"response": {"tools": [value]}})


def test_many_flat_brackets_are_not_deep() -> None:
    value = [[]] * 1000
    assert not json_lenient.is_too_deep(json.dumps(value).encode(), value)


@check_each("text", [b'{"a":1', b'{"a":"}"', b'{"a":[1]  \n', b'{"a":1}]'])
def test_object_that_does_not_end_is_refused_before_it_is_parsed(text: bytes) -> None:
    with (
        mock.patch.object(orjson, "loads") as loads,
        pytest.raises(ValueError, match="does not end"),
    ):
        json_lenient.parse_strict(text)
    loads.assert_not_called()


def test_white_space_after_an_object_is_not_part_of_it() -> None:
    assert json_lenient.parse_strict(b'{"a":1}' + b" \n" * 100) == {"a": 1}
