"""Liveness and readiness probes."""

from __future__ import annotations

import json
from pathlib import Path

import httpx2
import pytest
from flask.testing import FlaskClient

from forwarder.app import create_app
from forwarder.config.settings import Settings
from forwarder.server.extension import get_extension
from tests.helpers.check_cases import check_each
from tests.server.conftest import Serve


def test_health_is_ok(serve: Serve) -> None:
    requests: list[httpx2.Request] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        requests.append(request)
        return httpx2.Response(500)

    got = serve(answer, FORWARDER_API_KEYS="k").get("/health")

    assert (got.status_code, got.get_json()) == (200, {"status": "ok"})
    assert requests == []


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


def test_no_reachable_upstream_is_not_ready(serve: Serve) -> None:
    def answer(request: httpx2.Request) -> httpx2.Response:
        raise httpx2.ConnectError("no")

    got = serve(answer).get("/ready")

    assert (got.status_code, got.get_json()["status"]) == (503, "unavailable")


@pytest.mark.parametrize("path", ["/health", "/ready"])
def test_successful_probes_are_logged_at_debug(
    path: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for level in ("INFO", "DEBUG"):
        client = create_app(Settings.from_env({"FORWARDER_LOG_LEVEL": level})).test_client()
        capsys.readouterr()

        got = client.get(path)

        lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
        records = [line for line in lines if line.get("id") == got.headers["X-Request-Id"]]
        assert [line["level"] for line in records] == ([] if level == "INFO" else ["debug"])


def test_failed_readiness_is_logged(serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    def answer(request: httpx2.Request) -> httpx2.Response:
        raise httpx2.ConnectError("no")

    serve(answer).get("/ready")

    line = json.loads(capsys.readouterr().err.splitlines()[-1])
    assert (line["route"], line["status"], line["level"]) == ("ready", 503, "info")


def test_upstream_with_open_breaker_is_not_ready(serve: Serve) -> None:
    def answer(request: httpx2.Request) -> httpx2.Response:
        if request.url.path.endswith("/models"):
            return httpx2.Response(200, json={"data": []})
        raise httpx2.ConnectError("no")

    client = serve(answer, CHAT_BREAKER_FAILURES="1", RESPONSES_BREAKER_FAILURES="1")
    body = {"model": "chat/m", "messages": [{"role": "user", "content": "hi"}]}
    assert client.post("/v1/chat/completions", json=body).status_code == 502

    one = client.get("/ready")
    client.post("/v1/chat/completions", json={**body, "model": "responses/m"})
    none = client.get("/ready?verbose")

    assert one.status_code == 200
    assert one.get_json()["upstreams"] == {
        "chat": {"reachable": False, "error": "Its breaker is open.", "models": 0},
        "responses": {"reachable": True, "models": 0},
    }
    assert (none.status_code, none.get_json()["status"]) == (503, "unavailable")
    resilience = none.get_json()["upstreams"]["chat"]["resilience"]
    assert resilience == {
        "breaker": "open",
        "breaker_open": 1,
        "concurrent": 0,
        "attempts": 1,
        "failures": 1,
    }


def test_store_is_part_of_the_answer(demo: FlaskClient) -> None:
    got = demo.get("/ready").get_json()

    assert got["status"] == "ok"
    assert got["store"] == {"kind": "sqlite", "reachable": True}


def test_missing_store_is_reported() -> None:
    settings = Settings.from_env({"FORWARDER_DATABASE_URL": "none"})

    got = create_app(settings).test_client().get("/ready").get_json()

    assert (got["status"], got["store"]) == ("ok", {"kind": "none"})


def test_failing_store_makes_the_forwarder_degraded_but_ready(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no directory")
    url = f"sqlite:///{tmp_path}/file/forwarder.db"
    client = create_app(Settings.from_env({"FORWARDER_DATABASE_URL": url})).test_client()

    got = client.get("/ready")

    assert got.status_code == 200
    assert got.get_json()["status"] == "degraded"
    store = got.get_json()["store"]
    assert (store["kind"], store["reachable"]) == ("sqlite", False)
    assert store["error"] in ("Not a directory", "File exists")
    get_extension(client.application).services.close()


@check_each(
    ("keys", "key", "address", "status"),
    [
        ({}, "", "127.0.0.1", 200),
        ({}, "", "10.0.0.7", 403),
        ({}, "anything", "10.0.0.7", 403),
        ({"FORWARDER_API_KEYS": "client"}, "", "127.0.0.1", 200),
        ({"FORWARDER_API_KEYS": "client"}, "client", "10.0.0.7", 200),
        ({"FORWARDER_API_KEYS": "client"}, "", "10.0.0.7", 401),
        ({"FORWARDER_API_KEYS": "client"}, "other", "10.0.0.7", 401),
        ({"FORWARDER_ADMIN_KEYS": "admin"}, "admin", "10.0.0.7", 200),
        ({"FORWARDER_ADMIN_KEYS": "admin"}, "", "127.0.0.1", 401),
        ({"FORWARDER_ADMIN_KEYS": "admin", "FORWARDER_API_KEYS": "client"}, "admin", "::1", 200),
        ({"FORWARDER_ADMIN_KEYS": "admin", "FORWARDER_API_KEYS": "client"}, "client", "::1", 200),
        ({"FORWARDER_ADMIN_KEYS": "admin", "FORWARDER_API_KEYS": "client"}, "", "::1", 401),
    ],
)
def test_details_are_for_administrators_and_for_clients_with_a_key(
    keys: dict[str, str], key: str, address: str, status: int, serve: Serve
) -> None:
    requests: list[httpx2.Request] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        requests.append(request)
        return httpx2.Response(200, json={"data": []})

    client = serve(answer, **keys)
    request = {"headers": {"X-Api-Key": key}, "environ_base": {"REMOTE_ADDR": address}}

    got = client.get("/ready?verbose", **request)

    assert got.status_code == status
    assert ("models" in got.get_json()) is (status == 200)
    assert bool(requests) is (status == 200)
    assert client.get("/ready", **request).status_code == 200
