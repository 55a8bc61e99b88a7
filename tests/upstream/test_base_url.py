"""Detection of an incomplete base URL."""

from __future__ import annotations

import httpx2
import pytest

from forwarder.upstream.base_url import find_missing_path, has_version

LIST = httpx2.Response(200, json={"object": "list", "data": [{"id": "m"}]})
UNAUTHORIZED = httpx2.Response(401, json={"error": {"message": "no"}})
NOT_FOUND = httpx2.Response(404, text="404 page not found")
BAD_REQUEST = httpx2.Response(400, json={"error": {"message": "no model"}})
PAGE = httpx2.Response(200, html="<!doctype html><html></html>")
UNEXPECTED = httpx2.Response(
    200, json={"error": "Unexpected endpoint or method. (POST /responses)"}
)


class Server:
    """Answers by method and URL; anything else with ``otherwise``."""

    def __init__(self, otherwise: httpx2.Response | None, **answers: httpx2.Response) -> None:
        self.otherwise = otherwise
        self.answers = answers
        self.asked: list[str] = []

    def __call__(self, method: str, url: str) -> httpx2.Response | None:
        self.asked.append(f"{method} {url}")
        return self.answers.get(url.removeprefix("http://up.test/"), self.otherwise)


def missing(server: Server, base_url: str = "http://up.test") -> str | None:
    calls = [f"{base_url}/{api}" for api in ("chat/completions", "responses")]
    return find_missing_path(base_url, calls, server)


@pytest.mark.parametrize("otherwise", [NOT_FOUND, PAGE, UNEXPECTED])
@pytest.mark.parametrize("listed", [LIST, UNAUTHORIZED])
@pytest.mark.parametrize("path", ["/v1", "/api/v1", "/openai/v1"])
def test_the_missing_part_is_found(
    otherwise: httpx2.Response, listed: httpx2.Response, path: str
) -> None:
    assert missing(Server(otherwise, **{f"{path[1:]}/models": listed})) == path


def test_a_server_that_answers_at_its_base_url_too_lacks_nothing() -> None:
    calls = {"v1/models": LIST, "chat/completions": BAD_REQUEST}

    assert missing(Server(NOT_FOUND, **calls)) is None


@pytest.mark.parametrize("otherwise", [NOT_FOUND, PAGE, BAD_REQUEST, None])
def test_a_server_without_an_api_lacks_nothing_that_is_known(
    otherwise: httpx2.Response | None,
) -> None:
    assert missing(Server(otherwise)) is None


def test_a_refusal_that_is_no_json_is_no_list() -> None:
    walled = httpx2.Response(403, html="<html>who are you?</html>")

    assert missing(Server(walled)) is None


@pytest.mark.parametrize(
    ("base_url", "versioned"),
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
def test_a_base_url_with_a_version_is_not_probed(base_url: str, versioned: bool) -> None:
    server = Server(NOT_FOUND)

    assert has_version(base_url) is versioned
    assert missing(server, base_url) is None
    assert (server.asked == []) is versioned
