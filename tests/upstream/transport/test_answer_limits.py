"""Answers are read up to a limit, and are never decompressed."""

from __future__ import annotations

from collections.abc import Iterator

import httpx2
import pytest

from forwarder.upstream.transport.answer_limits import (
    MAX_ERROR_BODY_BYTES,
    MAX_MODEL_LIST_BYTES,
    MAX_MODEL_LIST_VALUES,
    UnreadableAnswer,
    check_values,
    limit_answer,
    read_answer,
    read_model_list,
)
from tests.helpers.check_cases import check_each


class Endless(httpx2.SyncByteStream):
    def __init__(self) -> None:
        self.pieces = 0
        self.closed = False

    def __iter__(self) -> Iterator[bytes]:
        while True:
            self.pieces += 1
            yield b"x" * 65536

    def close(self) -> None:
        self.closed = True


def test_endless_answer_is_refused_at_the_limit() -> None:
    stream = Endless()
    response = httpx2.Response(200, stream=stream)
    limit_answer(response)
    with pytest.raises(UnreadableAnswer, match="1000000 bytes .limit: FORWARDER_MAX_ANSWER"):
        read_answer(response, 1_000_000)
    assert stream.closed
    assert stream.pieces == 16


def test_endless_error_body_is_read_up_to_the_limit() -> None:
    stream = Endless()
    response = httpx2.Response(429, stream=stream)
    limit_answer(response)
    read_answer(response, 1000)
    assert len(response.content) == MAX_ERROR_BODY_BYTES
    assert stream.closed


@check_each("coding", ["br", "gzip", "GZIP", "zstd, identity"])
def test_a_compressed_answer_is_refused_unread(coding: str) -> None:
    stream = Endless()
    response = httpx2.Response(200, headers={"Content-Encoding": coding}, stream=stream)
    with pytest.raises(UnreadableAnswer, match="'identity' was asked for"):
        limit_answer(response)
    assert (stream.pieces, stream.closed) == (0, True)


def test_a_compressed_error_keeps_its_status() -> None:
    stream = Endless()
    response = httpx2.Response(429, headers={"Content-Encoding": "br"}, stream=stream)
    limit_answer(response)
    read_answer(response, 1000)
    assert (response.status_code, response.content) == (429, b"")
    assert (stream.pieces, stream.closed) == (0, True)


@check_each("headers", [{}, {"Content-Encoding": "identity"}])
def test_other_answers_are_read_as_they_are(headers: dict[str, str]) -> None:
    response = httpx2.Response(200, headers=headers, stream=httpx2.ByteStream(b"body"))
    limit_answer(response)
    read_answer(response, 4)
    assert response.content == b"body"


def test_a_list_of_models_has_a_limit_of_its_own() -> None:
    stream = Endless()
    with pytest.raises(
        UnreadableAnswer, match=f"list of models of more than {MAX_MODEL_LIST_BYTES}"
    ):
        read_model_list(httpx2.Response(200, stream=stream), 2 * MAX_MODEL_LIST_BYTES)
    assert stream.closed
    with pytest.raises(UnreadableAnswer, match="1000 bytes .limit: FORWARDER_MAX_ANSWER"):
        read_model_list(httpx2.Response(200, stream=Endless()), 1000)


def test_list_of_models_has_a_lower_limit_of_values() -> None:
    data = b"[" + b",".join([b"1"] * (MAX_MODEL_LIST_VALUES + 2)) + b"]"
    with pytest.raises(UnreadableAnswer, match=f"{MAX_MODEL_LIST_VALUES} JSON values"):
        read_model_list(httpx2.Response(200, stream=httpx2.ByteStream(data)), 2**20)


def test_commas_within_strings_are_not_counted_as_values() -> None:
    check_values(b'["' + b"," * 100 + b'"]', 10)
    with pytest.raises(UnreadableAnswer, match="10 JSON values"):
        check_values(b"[" + b"1," * 100 + b"1]", 10)
