"""The route of Codex's standalone search."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from tests.helpers.loopback import Peer, run_server
from tests.server.conftest import Serve

KEY = {"Authorization": "Bearer sk-one"}
BODY = {"id": "s", "model": "m", "commands": {"search_query": [{"q": "cats", "recency": 7}]}}


@pytest.fixture
def searxng() -> Iterator[Any]:
    found = {"title": "Cats", "url": "https://example.org/cats", "content": "They sleep."}

    def answer(peer: Peer) -> None:
        peer.request()
        peer.answer(json.dumps({"results": [found]}).encode(), b"Connection: close")

    with run_server(answer) as server:
        yield server


def make_settings(searxng: Any) -> dict[str, str]:
    return {
        "FORWARDER_API_KEYS": "sk-one",
        "FORWARDER_WEB_SEARCH": "searxng",
        "FORWARDER_WEB_SEARCH_URL": f"http://127.0.0.1:{searxng.port}",
    }


def refuse(request: httpx2.Request) -> httpx2.Response:
    raise AssertionError("no upstream is asked")


@pytest.mark.parametrize("prefix", ["", "/v1"])
def test_web_is_searched(serve: Serve, searxng: Any, prefix: str) -> None:
    client = serve(refuse, **make_settings(searxng))
    answer = client.post(f"{prefix}/alpha/search", json=BODY, headers=KEY)
    assert answer.status_code == 200
    assert list(answer.get_json()) == ["output"]
    assert "URL: https://example.org/cats\nThey sleep." in answer.get_json()["output"]
    assert b"time_range=week" in searxng.requests[0]


def test_client_needs_a_key(serve: Serve, searxng: Any) -> None:
    client = serve(refuse, **make_settings(searxng))
    assert client.post("/v1/alpha/search", json=BODY).status_code == 401
    assert searxng.requests == []


def test_clients_requests_are_limited(serve: Serve, searxng: Any) -> None:
    limit = {"FORWARDER_RATE_LIMIT_REQUESTS": "1/hour"}
    client = serve(refuse, **make_settings(searxng), **limit)
    statuses = [
        client.post("/v1/alpha/search", json=BODY, headers=KEY).status_code for _ in range(2)
    ]
    assert statuses == [200, 429]


def test_malformed_request_is_a_400_that_names_the_parameter(serve: Serve, searxng: Any) -> None:
    client = serve(refuse, **make_settings(searxng))
    body = {**BODY, "commands": {"open": [{}]}}
    answer = client.post("/v1/alpha/search", json=body, headers=KEY)
    assert answer.status_code == 400
    assert answer.get_json()["error"]["param"] == "commands.open[0].ref_id"
    assert client.post("/v1/alpha/search", data="[", headers=KEY).status_code == 400


def test_without_a_search_the_missing_setting_is_named(serve: Serve) -> None:
    answer = serve(refuse).post("/v1/alpha/search", json=BODY)
    assert answer.status_code == 404
    error = answer.get_json()["error"]
    assert error["code"] == "web_search_disabled"
    assert "FORWARDER_WEB_SEARCH" in error["message"]
