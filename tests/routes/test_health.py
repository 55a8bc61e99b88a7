"""Alive, and ready."""

from __future__ import annotations

import httpx2
from flask.testing import FlaskClient

from tests.routes.conftest import Serve


def test_a_process_that_answers_is_alive(serve: Serve) -> None:
    asked: list[httpx2.Request] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        asked.append(request)
        return httpx2.Response(500)

    got = serve(answer, FORWARDER_API_KEYS="k").get("/health")

    assert (got.status_code, got.get_json()) == (200, {"status": "ok"})
    assert asked == []


def test_the_demo_is_ready(demo: FlaskClient) -> None:
    got = demo.get("/ready")

    assert got.status_code == 200
    assert got.get_json()["upstreams"]["chat"] == {"reachable": True, "models": 1}


def test_one_reachable_upstream_is_enough(serve: Serve) -> None:
    def answer(request: httpx2.Request) -> httpx2.Response:
        if request.url.host == "gone.test":
            raise httpx2.ConnectError("no")
        return httpx2.Response(200, json={"data": []})

    got = serve(answer, CHAT_BASE_URL="http://gone.test/v1").get("/ready")

    assert got.status_code == 200
    states = got.get_json()["upstreams"]
    assert [states[name]["reachable"] for name in ("chat", "responses")] == [False, True]


def test_none_is_not(serve: Serve) -> None:
    def answer(request: httpx2.Request) -> httpx2.Response:
        raise httpx2.ConnectError("no")

    got = serve(answer).get("/ready")

    assert (got.status_code, got.get_json()["status"]) == (503, "unavailable")
