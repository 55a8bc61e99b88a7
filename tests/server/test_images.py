"""Image requests that pass through to an upstream."""

from __future__ import annotations

import json
from typing import Any

import httpx2
import pytest
from flask.testing import FlaskClient

from tests.server.conftest import Serve, make_stream_response

PICTURE = {"created": 1, "data": [{"b64_json": "aGk="}]}
GENERATE = {"model": "gpt-image-1", "prompt": "a cat", "size": "1024x1024"}
UPSTREAMS = {
    "FORWARDER_UPSTREAMS": "talk,draw",
    "TALK_BASE_URL": "http://talk.test/v1",
    "TALK_API_KEY": "sk-talk",
    "DRAW_BASE_URL": "http://draw.test/v1",
    "DRAW_API_KEY": "sk-draw",
    "DRAW_API": "responses",
    "DRAW_MODELS": "painter=gpt-image-1",
}


class Upstream:
    """A mock upstream that records requests and always answers the same."""

    def __init__(self, answer: httpx2.Response | None = None) -> None:
        self.requests: list[httpx2.Request] = []
        self._answer = answer or httpx2.Response(200, json=PICTURE)

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        request.read()
        self.requests.append(request)
        return self._answer


@pytest.fixture
def upstream() -> Upstream:
    return Upstream()


def open_client(serve: Serve, upstream: Upstream, **environment: str) -> FlaskClient:
    return serve(upstream, **{**UPSTREAMS, **environment})


@pytest.mark.parametrize("path", ["/images/generations", "/images/edits"])
@pytest.mark.parametrize("prefix", ["", "/v1"])
def test_request_passes_through_unchanged(
    serve: Serve, upstream: Upstream, path: str, prefix: str
) -> None:
    answer = open_client(serve, upstream).post(f"{prefix}{path}", json=GENERATE)

    assert (answer.status_code, answer.get_json()) == (200, PICTURE)
    [request] = upstream.requests
    assert str(request.url) == f"http://draw.test/v1{path}"
    assert json.loads(request.content) == GENERATE
    assert request.headers["authorization"] == "Bearer sk-draw"


@pytest.mark.parametrize(
    ("model", "headers", "host", "sent"),
    [
        ("unknown", {}, "draw.test", "unknown"),
        (None, {}, "draw.test", None),
        ("painter", {}, "draw.test", "gpt-image-1"),
        ("talk/flux", {}, "talk.test", "flux"),
        ("flux", {"X-Forwarder-Upstream": "talk"}, "talk.test", "flux"),
        ("painter", {"X-Forwarder-Upstream": "draw"}, "draw.test", "gpt-image-1"),
    ],
)
def test_model_or_header_selects_the_upstream(
    serve: Serve,
    upstream: Upstream,
    model: str | None,
    headers: dict[str, str],
    host: str,
    sent: str | None,
) -> None:
    body = {"prompt": "a cat", **({"model": model} if model else {})}

    open_client(serve, upstream).post("/v1/images/generations", json=body, headers=headers)

    [request] = upstream.requests
    assert request.url.host == host
    assert json.loads(request.content).get("model") == sent


def test_only_upstream_serves_images_even_if_it_speaks_chat(
    serve: Serve, upstream: Upstream
) -> None:
    client = open_client(serve, upstream, FORWARDER_UPSTREAMS="talk")

    client.post("/v1/images/generations", json=GENERATE)

    assert upstream.requests[0].url.host == "talk.test"


def test_form_with_a_part_without_a_name_is_refused(serve: Serve, upstream: Upstream) -> None:
    part = "--x\r\nContent-Disposition: form-data\r\n\r\na cat\r\n--x--\r\n"

    answer = open_client(serve, upstream).post(
        "/v1/images/edits", data=part, content_type="multipart/form-data; boundary=x"
    )

    assert answer.status_code == 400
    assert answer.get_json()["error"]["message"] == "A part of the form has no name."
    assert upstream.requests == []


def test_form_keeps_its_files_and_gets_the_upstream_model(serve: Serve, upstream: Upstream) -> None:
    form = httpx2.Request(
        "POST",
        "http://client.test",
        data={"model": "painter", "prompt": "a hat"},
        files=[
            ("image[]", ("a.png", b"first", "image/png")),
            ("image[]", ("b.png", b"second", "image/png")),
            ("mask", ("m.png", b"mask", "image/png")),
        ],
    )
    kind = {"Content-Type": form.headers["content-type"]}

    answer = open_client(serve, upstream).post("/v1/images/edits", data=form.read(), headers=kind)

    assert answer.get_json() == PICTURE
    content = upstream.requests[0].content
    assert b"gpt-image-1" in content
    assert b"painter" not in content
    assert content.count(b'name="image[]"') == 2
    assert all(part in content for part in (b"first", b"second", b"mask", b"a hat"))


def test_stream_of_partial_images_passes_through(serve: Serve) -> None:
    events = [
        {"type": "image_generation.partial_image", "partial_image_index": 0, "b64_json": "aA=="},
        {"type": "image_generation.completed", "b64_json": "aGk="},
    ]
    upstream = Upstream(make_stream_response(*events, done=False))
    client = open_client(serve, upstream)

    answer = client.post("/v1/images/generations", json={**GENERATE, "stream": True})

    lines = answer.get_data(as_text=True).split("\n\n")
    assert [json.loads(line.removeprefix("data: ")) for line in lines if line] == events


@pytest.mark.parametrize(
    ("body", "param"),
    [({**GENERATE, "model": 7}, "model"), ([1], None), ("{", None)],
)
def test_invalid_request_is_refused_before_it_is_sent(
    serve: Serve, upstream: Upstream, body: Any, param: str | None
) -> None:
    data = body if isinstance(body, str) else json.dumps(body)

    answer = open_client(serve, upstream).post(
        "/v1/images/generations", data=data, content_type="application/json"
    )

    assert answer.status_code == 400
    assert answer.get_json()["error"]["param"] == param
    assert upstream.requests == []


def test_unknown_upstream_is_named(serve: Serve, upstream: Upstream) -> None:
    answer = open_client(serve, upstream).post(
        "/v1/images/generations", json=GENERATE, headers={"X-Forwarder-Upstream": "none"}
    )

    assert answer.status_code == 400
    assert "'none'" in answer.get_json()["error"]["message"]


def test_refusal_of_the_upstream_reaches_the_client(serve: Serve) -> None:
    error = {"message": "Your prompt was rejected.", "code": "moderation_blocked"}
    upstream = Upstream(httpx2.Response(400, json={"error": error}))

    answer = open_client(serve, upstream).post("/v1/images/generations", json=GENERATE)

    assert answer.status_code == 400
    assert answer.get_json()["error"]["code"] == "moderation_blocked"


def test_client_without_a_key_is_refused(serve: Serve, upstream: Upstream) -> None:
    client = open_client(serve, upstream, FORWARDER_API_KEYS="sk-client")

    assert client.post("/v1/images/generations", json=GENERATE).status_code == 401
    assert upstream.requests == []
