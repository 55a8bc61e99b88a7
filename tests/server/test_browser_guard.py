"""Browser requests to a forwarder without client keys."""

from __future__ import annotations

import httpx2
import pytest

from tests.helpers.check_cases import check_each
from tests.server.conftest import Serve

ANSWER = {
    "id": "c",
    "object": "chat.completion",
    "choices": [
        {"index": 0, "message": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"}
    ],
}
CHAT = {"model": "chat/m", "messages": [{"role": "user", "content": "Hello"}]}
LOCAL_ORIGIN = "http://127.0.0.1:8000"


class Upstream:
    """A mock upstream that counts requests."""

    def __init__(self) -> None:
        self.request_count = 0

    def __call__(self, _: httpx2.Request) -> httpx2.Response:
        self.request_count += 1
        return httpx2.Response(200, json=ANSWER)


@pytest.fixture
def upstream() -> Upstream:
    return Upstream()


def read_refusal(
    serve: Serve, upstream: Upstream, headers: dict[str, str], **environment: str
) -> str:
    """Return the error code for a request with these headers, or ""."""
    upstream.request_count = 0
    got = serve(upstream, **environment).post("/v1/chat/completions", json=CHAT, headers=headers)
    code = got.get_json()["error"]["code"] if got.status_code == 403 else ""
    assert (got.status_code, upstream.request_count) in ((403, 0), (200, 1))
    return str(code)


@check_each(
    "host",
    [
        *("localhost", "LocalHost:8000", "localhost.", "chat.localhost:8000"),
        *("127.0.0.1:8000", "192.168.1.7", "[::1]", "[::1]:8000", "[fe80::1]:8000", ""),
        *("llm.example", "llm.example:8443", "LLM.example.", "a.lan", "a.b.lan:1"),
        *("public.example", "public.example:444"),
    ],
)
def test_own_hosts_are_served(host: str, serve: Serve, upstream: Upstream) -> None:
    settings = {
        "FORWARDER_HOSTS": "llm.example, *.lan",
        "FORWARDER_PUBLIC_URL": "https://public.example/below",
    }
    assert read_refusal(serve, upstream, {"Host": host}, **settings) == ""


@check_each(
    "host",
    [
        *("rebound.example", "rebound.example:8000", "rebound.example."),
        *("127.0.0.1.rebound.example", "localhost.rebound.example", "xlocalhost", "localhost.."),
        *("llm.example.rebound.example", "xllm.example", "lan", "xlan", "public.example.x"),
        *("127.0.0.1, rebound.example", "rebound.example@127.0.0.1", "[::1].rebound.example"),
        *("127.0.0.1 ", "[rebound.example]", "[::1", "127.0.0.1:8000:9", "127.0.0.1/x", "."),
    ],
)
def test_other_hosts_are_refused(host: str, serve: Serve, upstream: Upstream) -> None:
    settings = {
        "FORWARDER_HOSTS": "llm.example, *.lan",
        "FORWARDER_PUBLIC_URL": "https://public.example/below",
    }
    assert read_refusal(serve, upstream, {"Host": host}, **settings) == "host_not_allowed"


def test_setting_allows_every_host(serve: Serve, upstream: Upstream) -> None:
    any_host = {"FORWARDER_HOSTS": "*"}
    assert read_refusal(serve, upstream, {"Host": "rebound.example"}, **any_host) == ""


@check_each("name", ["X-Forwarded-Host", "Forwarded", "X-Original-Host"])
def test_headers_of_proxies_name_no_host(name: str, serve: Serve, upstream: Upstream) -> None:
    headers = {"Host": "rebound.example", name: "localhost"}
    trusting = {"FORWARDER_TRUSTED_PROXIES": "1"}
    assert read_refusal(serve, upstream, headers, **trusting) == "host_not_allowed"


@check_each(
    ("headers", "code"),
    [
        ({}, ""),
        ({"Sec-Fetch-Site": "none"}, ""),
        ({"Sec-Fetch-Site": "same-origin"}, ""),
        ({"Sec-Fetch-Site": "same-site"}, ""),
        ({"Sec-Fetch-Site": "cross-site"}, "origin_not_allowed"),
        ({"Origin": LOCAL_ORIGIN}, ""),
        ({"Origin": LOCAL_ORIGIN, "Sec-Fetch-Site": "same-origin"}, ""),
        ({"Origin": LOCAL_ORIGIN, "Sec-Fetch-Site": "cross-site"}, "origin_not_allowed"),
        ({"Origin": "https://evil.example"}, "origin_not_allowed"),
        ({"Origin": "http://127.0.0.1:3000"}, "origin_not_allowed"),
        ({"Origin": "http://127.0.0.1"}, "origin_not_allowed"),
        ({"Origin": "http://localhost:8000"}, "origin_not_allowed"),
        ({"Origin": "http://127.0.0.1:8000.evil.example"}, "origin_not_allowed"),
        ({"Origin": "null"}, "origin_not_allowed"),
        ({"Origin": ""}, "origin_not_allowed"),
        ({"Origin": "app"}, "origin_not_allowed"),
        ({"Origin": "https://app"}, "origin_not_allowed"),
        ({"Origin": "chrome-extension://abc"}, "origin_not_allowed"),
        ({"Origin": f"{LOCAL_ORIGIN}, https://evil.example"}, "origin_not_allowed"),
        (
            {"Origin": "https://evil.example", "X-Forwarded-Host": "evil.example"},
            "origin_not_allowed",
        ),
        ({"Origin": "app://obsidian.md", "Sec-Fetch-Site": "cross-site"}, ""),
        ({"Origin": "file://"}, ""),
        ({"Origin": "tauri://localhost"}, ""),
        ({"Origin": "http://tauri.localhost"}, ""),
        ({"Origin": "vscode-webview://1a2b"}, ""),
        ({"Origin": "VSCODE-FILE://vscode-app"}, ""),
    ],
)
def test_pages_of_other_origins_are_refused(
    headers: dict[str, str], code: str, serve: Serve, upstream: Upstream
) -> None:
    assert read_refusal(serve, upstream, {"Host": "127.0.0.1:8000", **headers}) == code


@check_each(
    ("host", "origin", "code"),
    [
        ("llm.example", "https://llm.example", ""),
        ("llm.example:443", "https://llm.example", ""),
        ("LLM.example", "http://llm.example:80", ""),
        ("llm.example.", "https://llm.example", ""),
        ("llm.example:8000", "https://llm.example", "origin_not_allowed"),
        ("10.0.0.1", "https://public.example", ""),
        ("10.0.0.1", "https://public.example:444", "origin_not_allowed"),
        ("[::1]:8000", "http://[::1]:8000", ""),
    ],
)
def test_own_origins_are_served(
    host: str, origin: str, code: str, serve: Serve, upstream: Upstream
) -> None:
    settings = {"FORWARDER_HOSTS": "llm.example", "FORWARDER_PUBLIC_URL": "https://public.example"}
    assert read_refusal(serve, upstream, {"Host": host, "Origin": origin}, **settings) == code


@check_each(
    ("origins", "origin", "code"),
    [
        ("https://chat.example", "https://chat.example", ""),
        ("https://chat.example", "https://evil.example", "origin_not_allowed"),
        ("https://chat.example", "null", "origin_not_allowed"),
        ("null", "null", ""),
        ("*", "https://evil.example", ""),
    ],
)
def test_pages_of_listed_origins_are_served(
    origins: str, origin: str, code: str, serve: Serve, upstream: Upstream
) -> None:
    headers = {"Origin": origin, "Sec-Fetch-Site": "cross-site"}
    assert read_refusal(serve, upstream, headers, FORWARDER_CORS_ORIGINS=origins) == code


def test_listed_origin_does_not_allow_other_hosts(serve: Serve, upstream: Upstream) -> None:
    headers = {"Host": "rebound.example", "Origin": "https://chat.example"}
    listed = {"FORWARDER_CORS_ORIGINS": "https://chat.example"}
    assert read_refusal(serve, upstream, headers, **listed) == "host_not_allowed"


def test_client_keys_replace_the_guard(serve: Serve, upstream: Upstream) -> None:
    """A page that sends the key is a client."""
    headers = {"Host": "rebound.example", "Origin": "https://evil.example", "X-Api-Key": "k"}
    assert read_refusal(serve, upstream, headers, FORWARDER_API_KEYS="k") == ""


@check_each(
    "path",
    ["/", "/health", "/ready", "/metrics", "/v1/models", "/v1/files", "/api/tags", "/nothing"],
)
def test_every_route_is_guarded(path: str, serve: Serve, upstream: Upstream) -> None:
    client = serve(upstream)

    assert client.get(path, headers={"Host": "rebound.example"}).status_code == 403
    assert client.get(path, headers={"Sec-Fetch-Site": "cross-site"}).status_code == 403
    assert upstream.request_count == 0


NAVIGATION = {
    "Sec-Fetch-Site": "cross-site",
    "Sec-Fetch-Mode": "navigate",
    "Sec-Fetch-Dest": "document",
}
"""Headers of a browser that follows a link on a page of another site."""


def test_links_on_other_sites_lead_to_pages(serve: Serve, upstream: Upstream) -> None:
    client = serve(upstream)
    for path in ("/", "/console/exchanges", "/docs/api"):
        for site in ("cross-site", "same-site"):
            headers = {"Accept": "text/html", **NAVIGATION, "Sec-Fetch-Site": site}
            assert client.get(path, headers=headers, buffered=True).status_code == 200, path


@check_each(
    "headers",
    [
        {"Sec-Fetch-Dest": "iframe"},
        {"Sec-Fetch-Dest": "empty"},
        {"Sec-Fetch-Mode": "no-cors"},
        {"Origin": "https://evil.example"},
        {"Host": "rebound.example"},
    ],
)
def test_only_whole_pages_are_opened_from_other_sites(
    headers: dict[str, str], serve: Serve, upstream: Upstream
) -> None:
    answer = serve(upstream).get("/console/exchanges", headers={**NAVIGATION, **headers})
    assert answer.status_code == 403


def test_forms_on_other_sites_are_refused(serve: Serve, upstream: Upstream) -> None:
    assert read_refusal(serve, upstream, NAVIGATION) == "origin_not_allowed"


def test_a_refusal_is_in_the_clients_protocol(serve: Serve, upstream: Upstream) -> None:
    client = serve(upstream)
    host = {"Host": "rebound.example:8000"}

    openai = client.get("/v1/models", headers=host).get_json()["error"]
    ollama = client.get("/api/tags", headers=host).get_json()["error"]

    assert openai["message"] == ollama
    assert "'rebound.example'" in ollama
    assert "FORWARDER_HOSTS" in ollama
