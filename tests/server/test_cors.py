"""CORS headers and preflights."""

from __future__ import annotations

import httpx2
import pytest

from tests.helpers.check_cases import check_each
from tests.server.conftest import Serve, make_stream_response

PAGE = "https://chat.example"
CHUNK = {
    "id": "c",
    "object": "chat.completion.chunk",
    "choices": [{"index": 0, "delta": {"content": "Hi"}, "finish_reason": "stop"}],
}
CHAT = {"model": "m", "messages": [{"role": "user", "content": "Hello"}]}
PREFLIGHT = {
    "Origin": PAGE,
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "authorization,content-type,x-stainless-os",
}


def answer(_: httpx2.Request) -> httpx2.Response:
    return make_stream_response(CHUNK)


def select_cors_headers(got: object) -> dict[str, str]:
    headers = got.headers  # type: ignore[attr-defined]
    return {k: v for k, v in headers.items() if k.startswith("Access-Control-")}


def test_no_origin_is_allowed_by_default(serve: Serve) -> None:
    client = serve(answer)

    got = client.get("/health", headers={"Origin": PAGE})
    assert select_cors_headers(got) == {}
    assert "Vary" not in got.headers
    assert select_cors_headers(client.options("/v1/chat/completions", headers=PREFLIGHT)) == {}


@check_each(
    ("origins", "origin", "allowed"),
    [
        (PAGE, PAGE, PAGE),
        (f"http://a.example:8080, {PAGE}/", PAGE, PAGE),
        ("HTTPS://Chat.Example", PAGE, PAGE),
        ("http://localhost:3000", "http://localhost:3000", "http://localhost:3000"),
        ("http://[::1]:3000", "http://[::1]:3000", "http://[::1]:3000"),
        ("app://obsidian.md", "app://obsidian.md", "app://obsidian.md"),
        ("null", "null", "null"),
        ("*", PAGE, "*"),
        ("*", "null", "*"),
        (PAGE, "https://other.example", None),
        (PAGE, "http://chat.example", None),
        (PAGE, "https://chat.example.evil.example", None),
        (PAGE, "null", None),
        (PAGE, "", None),
    ],
)
def test_configured_origins_are_allowed(
    origins: str, origin: str, allowed: str | None, serve: Serve
) -> None:
    client = serve(answer, FORWARDER_CORS_ORIGINS=origins)

    got = client.get("/health", headers={"Origin": origin} if origin else {})

    assert got.headers.get("Access-Control-Allow-Origin") == allowed
    assert ("Origin" in got.headers.get("Vary", "")) == (origins != "*")
    assert "Access-Control-Allow-Credentials" not in got.headers


def test_preflight_allows_the_methods_of_all_routes(serve: Serve) -> None:
    client = serve(answer, FORWARDER_CORS_ORIGINS=PAGE)

    got = client.options("/forwarder/keys/alice", headers=PREFLIGHT)

    allowed = set(got.headers["Access-Control-Allow-Methods"].split(", "))
    rules = client.application.url_map.iter_rules()
    assert allowed == {method for rule in rules for method in rule.methods or ()}


def test_preflight_needs_no_key(serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    client = serve(answer, FORWARDER_CORS_ORIGINS=PAGE, FORWARDER_API_KEYS="k")
    capsys.readouterr()

    got = client.options("/v1/chat/completions", headers=PREFLIGHT)

    assert (got.status_code, got.data) == (204, b"")
    assert select_cors_headers(got) == {
        "Access-Control-Allow-Origin": PAGE,
        "Access-Control-Allow-Methods": "GET, HEAD, POST, PATCH, DELETE, OPTIONS",
        "Access-Control-Allow-Headers": "authorization,content-type,x-stainless-os",
        "Access-Control-Max-Age": "600",
    }
    assert capsys.readouterr().err == ""


def test_a_preflight_from_the_internet_may_reach_a_private_network(serve: Serve) -> None:
    client = serve(answer, FORWARDER_CORS_ORIGINS=PAGE)
    private = {**PREFLIGHT, "Access-Control-Request-Private-Network": "true"}

    allowed = client.options("/v1/responses", headers=private)
    other = client.options("/v1/responses", headers={**private, "Origin": "https://evil.example"})

    assert allowed.headers["Access-Control-Allow-Private-Network"] == "true"
    assert select_cors_headers(other) == {}


def test_preflight_cannot_inject_headers(serve: Serve) -> None:
    client = serve(answer, FORWARDER_CORS_ORIGINS="*")

    got = client.options(
        "/v1/responses", headers={**PREFLIGHT, "Access-Control-Request-Headers": "a: b; c"}
    )

    assert "Access-Control-Allow-Headers" not in got.headers


@check_each("origins", [PAGE, "*"])
def test_streams_and_errors_can_be_read_too(origins: str, serve: Serve) -> None:
    client = serve(answer, FORWARDER_CORS_ORIGINS=origins, FORWARDER_UPSTREAMS="chat")
    page = {"Origin": PAGE}
    answers = [
        client.post("/v1/chat/completions", json={**CHAT, "stream": True}, headers=page),
        client.post("/v1/chat/completions", json={}, headers=page),
        client.post("/v1/chat/completions", data=b"{", headers=page),
        client.get("/nothing", headers=page),
        client.post("/api/chat", json={}, headers=page),
    ]

    assert [got.status_code for got in answers] == [200, 400, 400, 404, 400]
    for got in answers:
        assert got.headers["Access-Control-Allow-Origin"] in (PAGE, "*")
        exposed_headers = got.headers["Access-Control-Expose-Headers"].split(", ")
        assert {"X-Request-Id", "X-Forwarder-Upstream", "X-Forwarder-Dropped"} <= set(
            exposed_headers
        )


def test_response_headers_are_exposed(serve: Serve) -> None:
    def answer_with_429(_: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(429, headers={"Retry-After": "3"}, json={"error": {"message": "m"}})

    client = serve(answer_with_429, FORWARDER_CORS_ORIGINS=PAGE, FORWARDER_UPSTREAMS="chat")
    got = client.post("/v1/chat/completions", json=CHAT, headers={"Origin": PAGE})

    exposed_headers = got.headers["Access-Control-Expose-Headers"].split(", ")
    assert "retry-after" in exposed_headers
    assert "content-type" not in exposed_headers
    assert len(exposed_headers) == len({name.lower() for name in exposed_headers})


def test_pages_that_are_allowed_get_a_websocket(serve: Serve) -> None:
    handshake = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "short",
    }

    def status(origin: str, **environment: str) -> int:
        client = serve(answer, **environment)
        got = client.get(
            "/v1/responses",
            headers={**handshake, "Origin": origin},
            environ_overrides={"werkzeug.socket": object()},
        )
        return got.status_code

    assert status(PAGE) == 403
    assert status(PAGE, FORWARDER_CORS_ORIGINS=PAGE) == 400  # only the key is wrong
    assert status("https://evil.example", FORWARDER_CORS_ORIGINS=PAGE) == 403


def test_page_of_another_origin_is_no_administrator(serve: Serve) -> None:
    client = serve(answer, FORWARDER_CORS_ORIGINS="*")
    body = {"model": "x", "from": "y", "remote_host": "https://h.example"}

    got = client.post("/api/create", json=body, headers={"Origin": PAGE})

    assert got.status_code == 403
