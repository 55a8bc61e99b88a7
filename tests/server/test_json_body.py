"""Parsing of request bodies and its errors."""

from __future__ import annotations

import gzip
import io
import json
import zlib
from typing import Any

import brotli
import httpx2
import pytest
from flask.testing import FlaskClient

from forwarder.core.errors import InvalidRequest, TooLarge
from forwarder.server.content_encoding import zstd
from forwarder.server.json_body import read_body
from tests.helpers.check_cases import check_each
from tests.server.conftest import Serve


def parse_body(data: bytes, max_values: int) -> dict[str, Any]:
    """Parse a body whose texts have room."""
    return read_body(data, max_values, lambda text: None)


def test_json_object_is_parsed() -> None:
    assert parse_body(b'{"a": [1, null]}', 1000) == {"a": [1, None]}


@check_each("data", [b"", b"{", b"[]", b"null", b'"x"', b"\xff"])
def test_anything_else_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_body(data, 1000)
    assert caught.value.code == "invalid_json"


def test_unserializable_body_is_refused_by_parameter() -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_body(b'{"a": {"b": NaN}}', 1000)
    assert caught.value.param == "a.b"
    with pytest.raises(InvalidRequest) as caught:
        parse_body(b'{"fine": 1, "deep": ' + b"[" * 400 + b"]" * 400 + b"}", 1000)
    assert caught.value.param == "deep"


@check_each("data", [b'{"a": [' + b"1," * 2000 + b"1]}", b'{"a": [' + b'"x, y",' * 2000 + b"1]}"])
def test_a_body_of_too_many_values_is_refused_before_it_is_parsed(data: bytes) -> None:
    with pytest.raises(TooLarge, match="FORWARDER_MAX_JSON_VALUES"):
        parse_body(data, 1000)


def test_commas_within_strings_are_not_counted() -> None:
    text = 'a, "b", \\' * 4000
    body = {"a": text, "b": [text, 1]}
    assert parse_body(json.dumps(body).encode(), 1000) == body


@check_each(
    ("text", "bytes_per_character"),
    [("x", 0), ("é", 2), ("—", 2), ("😀", 4), ("\n" * 60_000, 0), ('"' * 60_000 + "—", 2)],
)
@check_each("ascii_only", [False, True])
def test_texts_beyond_ascii_need_more_memory(
    text: str, bytes_per_character: int, ascii_only: bool
) -> None:
    reserved: list[int] = []
    body = {"other": "x" * 1_000_000, "text": "x" * 1_000_000 + text, "b": "x\\"}
    data = json.dumps(body, ensure_ascii=ascii_only).encode()

    assert read_body(data, 1000, reserved.append) == body
    assert reserved == [
        pytest.approx(len(json.dumps(body["text"])) * bytes_per_character, rel=0.05)
    ]


def test_text_that_is_repaired_is_copied() -> None:
    reserved: list[int] = []
    data = b'{"a":"' + b"x" * 2_000_000 + rb'","b":"\ud800"}'

    assert read_body(data, 1000, reserved.append)["b"] == "\ufffd"
    assert reserved == [pytest.approx(2_000_000, rel=0.01)]


def test_short_texts_beside_a_long_one_need_little_more() -> None:
    reserved: list[int] = []
    body = {"before": "😀", "image": "x" * 2_000_000, "after": "😀", "a": "é\\", "b": '"é'}

    assert read_body(json.dumps(body).encode(), 1000, reserved.append) == body
    assert 0 < reserved[0] < 100_000


def test_small_texts_need_no_more_memory() -> None:
    reserved: list[int] = []
    assert read_body('{"a": "😀"}'.encode(), 1000, reserved.append) == {"a": "😀"}
    assert reserved == []


@check_each("data", [b'{"a": "' + b",\\" * 4000, b"," * 2000 + b'"'])
def test_unterminated_string_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidRequest):
        parse_body(data, 5000)


VALID_BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"model": "m", "messages": [{"role": "user", "content": "Hello"}]},
    "/v1/responses": {"model": "m", "input": "Hello"},
    "/v1/responses/input_tokens": {"model": "m", "input": "Hello"},
    "/v1/responses/compact": {"model": "m", "input": "Hello"},
    "/v1/conversations": {"metadata": {"a": "b"}},
    "/v1/embeddings": {"model": "m", "input": "Hello"},
    "/forwarder/translate": {"model": "m", "input": "Hello"},
    "/api/chat": {"model": "m", "messages": [{"role": "user", "content": "Hello"}]},
    "/api/generate": {"model": "m", "prompt": "Hello"},
    "/api/embed": {"model": "m", "input": "Hello"},
    "/api/show": {"model": "demo"},
}

every_route = check_each("path", VALID_BODIES)


@every_route
@check_each(
    ("coding", "compress"),
    [("zstd", zstd.compress), ("gzip", gzip.compress), ("deflate", zlib.compress),
     ("br", brotli.compress), ("identity", bytes)],
)  # fmt: skip
def test_every_route_reads_compressed_bodies(
    path: str, coding: str, compress: Any, demo: FlaskClient
) -> None:
    data = json.dumps(VALID_BODIES[path]).encode()
    plain = demo.post(path, data=data)

    got = demo.post(path, data=compress(data), headers={"Content-Encoding": coding})

    assert got.status_code == plain.status_code
    assert got.status_code in (200, 404)
    assert set(got.get_json() or ()) == set(plain.get_json() or ())


def _get_error(got: Any, path: str) -> str:
    """Return the error message from the error format of the API."""
    error = got.get_json()["error"]
    if path.startswith("/api/"):
        assert isinstance(error, str)
        return error
    assert {"message", "type", "param", "code"} == set(error)
    return str(error["message"])


@every_route
def test_unknown_coding_is_a_415(path: str, demo: FlaskClient) -> None:
    got = demo.post(path, data=b"{}", headers={"Content-Encoding": "compress"})

    assert got.status_code == 415
    assert got.headers["Accept-Encoding"] == "zstd, br, gzip, deflate"
    assert "'compress'" in _get_error(got, path)


@every_route
def test_a_broken_compressed_body_is_a_400(path: str, demo: FlaskClient) -> None:
    compressed = gzip.compress(json.dumps(VALID_BODIES[path]).encode())
    for data in (b"nonsense", compressed[:-1], compressed + b"garbage"):
        got = demo.post(path, data=data, headers={"Content-Encoding": "gzip"})

        assert got.status_code == 400
        assert "not valid gzip" in _get_error(got, path)


@every_route
def test_a_body_that_decodes_beyond_the_limit_is_a_413(path: str, serve: Serve) -> None:
    client = serve(lambda _: httpx2.Response(500), FORWARDER_MAX_BODY="1k")
    for data in (zstd.compress(b" " * 1025), zstd.compress(bytes(2**20))):
        got = client.post(path, data=data, headers={"Content-Encoding": "zstd"})

        assert got.status_code == 413
        assert "1024 bytes" in _get_error(got, path)


def test_the_upstream_gets_the_decoded_body_and_no_content_encoding(serve: Serve) -> None:
    requests: list[httpx2.Request] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        requests.append(request)
        message = {"role": "assistant", "content": "Hi"}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return httpx2.Response(200, json={"id": "c", "choices": [choice]})

    body = {"model": "m", "messages": [{"role": "user", "content": "Hello"}], "stream": False}
    got = serve(answer, FORWARDER_UPSTREAMS="chat").post(
        "/v1/chat/completions",
        data=zstd.compress(json.dumps(body).encode()),
        headers={"Content-Encoding": "zstd"},
    )

    assert got.status_code == 200
    assert json.loads(requests[0].content)["messages"] == body["messages"]
    assert "content-encoding" not in requests[0].headers


def test_compressed_forms_are_decoded_too(serve: Serve) -> None:
    bodies: list[bytes] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        bodies.append(request.read())
        return httpx2.Response(200, json={"id": "file-1"})

    form = httpx2.Request(
        "POST",
        "http://client.test",
        data={"purpose": "user_data"},
        files={"file": ("a.txt", b"content of the file", "text/plain")},
    )
    kind = {"Content-Type": form.headers["content-type"], "Content-Encoding": "zstd"}

    got = serve(answer).post("/v1/files", data=zstd.compress(form.read()), headers=kind)
    assert got.get_json() == {"id": "file-1"}
    assert b"content of the file" in bodies[0]

    got = serve(answer).post("/v1/files", data=b"nonsense", headers=kind)
    assert (got.status_code, len(bodies)) == (400, 1)


def test_a_captured_request_has_its_decoded_body(serve: Serve) -> None:
    client = serve(lambda _: httpx2.Response(500), FORWARDER_CAPTURE="memory")
    data = zstd.compress(b'{"model": "m", "input": "Hello"}')
    got = client.post("/v1/responses", data=data, headers={"Content-Encoding": "zstd"})

    capture = client.get(f"/forwarder/exchanges/{got.headers['X-Request-Id']}").get_json()

    request = capture["client"]["request"]
    assert request["body"] == {"model": "m", "input": "Hello"}
    assert "content-encoding" not in {name.lower() for name, _ in request["headers"]}


@check_each(("size", "status"), [(1024, 400), (1025, 413)])
def test_a_body_of_unknown_length_has_the_same_limit(size: int, status: int, serve: Serve) -> None:
    client = serve(lambda _: httpx2.Response(500), FORWARDER_MAX_BODY="1k")
    chunked = {"wsgi.input": io.BytesIO(b" " * size), "wsgi.input_terminated": True}

    got = client.post("/v1/responses", environ_overrides=chunked)

    assert got.status_code == status
