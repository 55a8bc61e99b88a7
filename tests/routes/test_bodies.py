"""What is a request's body, and how a mistake in one is named."""

from __future__ import annotations

import pytest

from forwarder.errors import InvalidRequest
from forwarder.routes.bodies import read_body


def test_an_object_is_given_as_it_is() -> None:
    assert read_body(b'{"a": [1, null]}') == {"a": [1, None]}


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"null", b'"x"', b"\xff"])
def test_anything_else_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read_body(data)
    assert caught.value.code == "invalid_json"


def test_what_cannot_be_written_again_is_refused_by_its_place() -> None:
    with pytest.raises(InvalidRequest) as caught:
        read_body(b'{"a": {"b": NaN}}')
    assert caught.value.param == "a.b"
    with pytest.raises(InvalidRequest) as caught:
        read_body(b'{"fine": 1, "deep": ' + b"[" * 400 + b"]" * 400 + b"}")
    assert caught.value.param == "deep"
