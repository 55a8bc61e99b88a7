"""Detection of an incomplete base URL."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx2
import pytest

from forwarder.core.errors import UpstreamMisconfigured, UpstreamRefused
from forwarder.upstream.base_url_check import find_missing_path, has_version
from forwarder.upstream.client import Upstream
from tests.helpers.check_cases import check_each
from tests.upstream.sending import (
    CHAT,
    CHUNK,
    Handler,
    Provider,
    get_failure,
    make_refusing_provider,
    make_stream,
    make_upstream,
    send_compaction,
    send_embedding,
    send_request,
)

LIST = httpx2.Response(200, json={"object": "list", "data": [{"id": "m"}]})
UNAUTHORIZED = httpx2.Response(401, json={"error": {"message": "no"}})
NOT_FOUND = httpx2.Response(404, text="404 page not found")
BAD_REQUEST = httpx2.Response(400, json={"error": {"message": "no model"}})
PAGE = httpx2.Response(200, html="<!doctype html><html></html>")
UNEXPECTED = httpx2.Response(
    200, json={"error": "Unexpected endpoint or method. (POST /responses)"}
)


class Server:
    """Answers by method and URL; ``otherwise`` answers all other requests."""

    def __init__(self, otherwise: httpx2.Response | None, **answers: httpx2.Response) -> None:
        self.otherwise = otherwise
        self.answers = answers
        self.requests: list[str] = []

    def __call__(self, method: str, url: str) -> httpx2.Response | None:
        self.requests.append(f"{method} {url}")
        return self.answers.get(url.removeprefix("http://up.test/"), self.otherwise)


def find_missing(server: Server, base_url: str = "http://up.test") -> str | None:
    calls = [f"{base_url}/{api}" for api in ("chat/completions", "responses")]
    return find_missing_path(base_url, calls, server)


@check_each("otherwise", [NOT_FOUND, PAGE, UNEXPECTED])
@check_each("listed", [LIST, UNAUTHORIZED])
@check_each("path", ["/v1", "/api/v1", "/openai/v1"])
def test_the_missing_part_is_found(
    otherwise: httpx2.Response, listed: httpx2.Response, path: str
) -> None:
    assert find_missing(Server(otherwise, **{f"{path[1:]}/models": listed})) == path


def test_probe_finds_nothing_missing_if_the_base_url_answers() -> None:
    calls = {"v1/models": LIST, "chat/completions": BAD_REQUEST}

    assert find_missing(Server(NOT_FOUND, **calls)) is None


@check_each("otherwise", [NOT_FOUND, PAGE, BAD_REQUEST, None])
def test_probe_finds_nothing_missing_without_an_api(
    otherwise: httpx2.Response | None,
) -> None:
    assert find_missing(Server(otherwise)) is None


def test_refusal_without_json_is_not_a_list_of_models() -> None:
    blocked_page = httpx2.Response(403, html="<html>who are you?</html>")

    assert find_missing(Server(blocked_page)) is None


@check_each(
    ("base_url", "is_versioned"),
    [
        ("http://up.test", False),
        ("http://up.test/inference", False),
        ("http://v1.test", False),
        ("http://up.test/v1", True),
        ("http://up.test/api/paas/v4", True),
        ("http://up.test/v1beta/openai", True),
        ("http://up.test/openai/v1", True),
    ],
)
def test_a_base_url_with_a_version_is_not_probed(base_url: str, is_versioned: bool) -> None:
    server = Server(NOT_FOUND)

    assert has_version(base_url) is is_versioned
    assert find_missing(server, base_url) is None
    assert (server.requests == []) is is_versioned


# -- after answers that an incomplete base URL may have caused -----------------------------------

MODELS = {"object": "list", "data": [{"id": "m"}]}


def below_v1(request: httpx2.Request) -> httpx2.Response:
    """A server with its API below ``/v1`` only."""
    if request.url.path == "/v1/models":
        return httpx2.Response(200, json=MODELS)
    if request.url.path == "/v1/chat/completions":
        return make_stream(CHUNK)
    return httpx2.Response(404, json={"detail": "Not Found"})


def answer_with_page(request: httpx2.Request) -> httpx2.Response:
    """Answer as ``below_v1``, but with a web page for all other paths."""
    response = below_v1(request)
    return response if response.status_code == 200 else httpx2.Response(200, html="<!doctype html>")


@check_each("answer", [below_v1, answer_with_page])
@check_each("stream", [False, True])
def test_a_base_url_without_its_version_is_named(answer: Handler, stream: bool) -> None:
    provider = Provider(answer)
    upstream = make_upstream(provider, UP_BASE_URL="http://up.test")

    for protocol in ("chat", "responses"):
        body = {**CHAT, "stream": stream}
        with pytest.raises(UpstreamMisconfigured) as raised:
            send_request(upstream, body, protocol)
        assert raised.value.message == (
            "The upstream 'up' on up.test has no API at its base URL (UP_BASE_URL): "
            "the base URL lacks '/v1' at its end."
        )
    with pytest.raises(UpstreamMisconfigured):
        upstream.list_models(1)
    probes = [r for r in provider.requests if r.url.path == "/v1/models"]
    assert len(probes) == 1


def test_base_url_is_hidden_because_it_may_contain_a_key() -> None:
    def answer(request: httpx2.Request) -> httpx2.Response:
        path = request.url.path.removeprefix("/secret-of-the-path")
        return below_v1(
            httpx2.Request(request.method, f"http://up.test{path}", content=request.content)
        )

    base = "http://up.test:8080/secret-of-the-path"
    error = get_failure(make_upstream(Provider(answer), UP_BASE_URL=base))

    assert isinstance(error, UpstreamMisconfigured)
    assert "secret" not in error.message
    assert "on up.test:8080 " in error.message
    assert "lacks '/v1'" in error.message


@check_each("send", [send_compaction, send_embedding])
def test_base_url_without_version_is_named_for_a_non_streamed_request(
    send: Callable[[Upstream], list[Any]],
) -> None:
    upstream = make_upstream(Provider(below_v1), UP_BASE_URL="http://up.test")

    with pytest.raises(UpstreamMisconfigured, match="lacks '/v1'"):
        send(upstream)


def test_unknown_model_does_not_mean_a_wrong_base_url() -> None:
    def answer(request: httpx2.Request) -> httpx2.Response:
        if request.url.path == "/v1/models":
            return httpx2.Response(200, json=MODELS)
        if request.content == b"{}":
            return httpx2.Response(400, json={"error": {"message": "no model"}})
        return httpx2.Response(404, json={"error": {"message": "no such model"}})

    provider = Provider(answer)
    upstream = make_upstream(provider, UP_BASE_URL="http://up.test")

    for _ in range(3):
        raised = get_failure(upstream)
        assert (type(raised), raised.message) == (UpstreamRefused, "no such model")
    assert len(provider.requests) == 3 + 2, "the result of the check is cached"


def test_base_url_of_a_provider_with_own_paths_is_accepted() -> None:
    """Azure lists models below ``/openai/v1`` for deployments of any name."""

    def answer(request: httpx2.Request) -> httpx2.Response:
        if request.url.path.endswith("/openai/v1/models"):
            return httpx2.Response(200, json=MODELS)
        exists = request.url.path == "/their/chat"
        return httpx2.Response(400 if exists else 404, json={"error": {"message": "no"}})

    upstream = make_upstream(
        Provider(answer),
        UP_BASE_URL="http://up.test",
        UP_API="chat",
        UP_QUIRKS='{"chat_path": "/their/chat"}',
    )

    with pytest.raises(UpstreamRefused):
        upstream.list_models(1)


def test_base_url_with_a_version_is_accepted() -> None:
    provider = make_refusing_provider(404)
    upstream = make_upstream(provider)

    assert type(get_failure(upstream)) is UpstreamRefused
    with pytest.raises(UpstreamRefused):
        upstream.list_models(1)
    assert len(provider.requests) == 2
