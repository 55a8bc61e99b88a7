"""Truncation of large requests."""

from __future__ import annotations

import json

import pytest

from forwarder.context.truncate import truncate_body

LONG = "sk-1234567890" * 200


def test_long_strings_are_omitted_entirely() -> None:
    body = {"model": "m", "input": [{"text": LONG, "n": 1}, "short"], "tools": []}

    short = truncate_body(json.dumps(body).encode())

    assert short is not None
    assert json.loads(short) == {
        "model": "m",
        "input": [{"text": "[2600 characters left out]", "n": 1}, "short"],
        "tools": [],
    }


def test_omitted_data_url_keeps_its_media_type() -> None:
    short = truncate_body(json.dumps(["data:image/png;base64," + "A" * 5000]).encode())

    assert short == b'["data:image/png;base64,[5000 characters left out]"]'


@pytest.mark.parametrize("data", [b"", b"{", b"\xff" * 5000])
def test_invalid_json_is_not_truncated(data: bytes) -> None:
    assert truncate_body(data) is None
