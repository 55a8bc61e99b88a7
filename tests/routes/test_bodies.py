"""What is a request's body, and how a mistake in one is named."""

from __future__ import annotations

import json

import pytest

from forwarder.errors import InvalidRequest, TooLarge
from forwarder.routes.bodies import read_body


def test_an_object_is_given_as_it_is() -> None:
    assert read_body(b'{"a": [1, null]}', 1000) == {"a": [1, None]}


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"null", b'"x"', b"\xff"])
def test_anything_else_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read_body(data, 1000)
    assert caught.value.code == "invalid_json"


def test_what_cannot_be_written_again_is_refused_by_its_place() -> None:
    with pytest.raises(InvalidRequest) as caught:
        read_body(b'{"a": {"b": NaN}}', 1000)
    assert caught.value.param == "a.b"
    with pytest.raises(InvalidRequest) as caught:
        read_body(b'{"fine": 1, "deep": ' + b"[" * 400 + b"]" * 400 + b"}", 1000)
    assert caught.value.param == "deep"


@pytest.mark.parametrize(
    "data", [b'{"a": [' + b"1," * 2000 + b"1]}", b'{"a": [' + b'"x, y",' * 2000 + b"1]}"]
)
def test_a_body_of_too_many_values_is_refused_before_it_is_parsed(data: bytes) -> None:
    with pytest.raises(TooLarge, match="FORWARDER_MAX_JSON_VALUES"):
        read_body(data, 1000)


def test_commas_within_strings_are_not_counted() -> None:
    text = 'a, "b", \\' * 4000
    body = {"a": text, "b": [text, 1]}
    assert read_body(json.dumps(body).encode(), 1000) == body


@pytest.mark.parametrize("data", [b'{"a": "' + b",\\" * 4000, b"," * 2000 + b'"'])
def test_a_string_that_does_not_end_is_no_json(data: bytes) -> None:
    with pytest.raises(InvalidRequest):
        read_body(data, 5000)
