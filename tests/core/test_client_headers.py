"""Selection of the client's headers for the upstream."""

from __future__ import annotations

from forwarder.core.client_headers import HeaderSelection, is_forbidden
from tests.helpers.check_cases import check_each

KNOWN = {
    "OpenAI-Beta": "assistants=v2",
    "OpenAI-Organization": "org-1",
    "OpenAI-Project": "proj-1",
    "Idempotency-Key": "one",
    "HTTP-Referer": "https://app.example",
    "X-Title": "My App",
}
PRIVATE = {
    "Authorization": "Bearer k",
    "Api-Key": "k",
    "X-Api-Key": "k",
    "Cookie": "a=b",
    "Proxy-Authorization": "Basic x",
    "Host": "h",
    "Connection": "close",
    "Keep-Alive": "timeout=1",
    "Te": "trailers",
    "Trailer": "X",
    "Transfer-Encoding": "chunked",
    "Upgrade": "h2c",
    "Content-Length": "2",
    "Content-Type": "text/plain",
    "Content-Encoding": "gzip",
    "Accept": "text/html",
    "Accept-Encoding": "br",
    "Expect": "100-continue",
    "Forwarded": "for=1.2.3.4",
    "X-Forwarded-For": "1.2.3.4",
    "X-Forwarder-Strict": "true",
}


def select(headers: dict[str, str], *patterns: str) -> dict[str, str]:
    return HeaderSelection(patterns).select(headers.items())


def test_headers_for_providers_are_always_forwarded() -> None:
    other_headers = {"User-Agent": "a", "X-Codex-Turn": "1", "X-Title-2": "b"}
    assert select({**KNOWN, **PRIVATE, **other_headers}) == KNOWN


def test_headers_are_forwarded_by_name_and_pattern() -> None:
    headers = {"X-Codex-Turn": "1", "X-Codex-Installation": "2", "User-Agent": "a", "X-Other": "b"}

    assert select(headers, "x-codex-*", "user-agent") == {
        "X-Codex-Turn": "1",
        "X-Codex-Installation": "2",
        "User-Agent": "a",
    }


def test_credentials_and_connection_headers_are_never_forwarded() -> None:
    assert select({**PRIVATE, "X-Other": "b"}, "*") == {"X-Other": "b"}
    assert all(is_forbidden(name.lower()) for name in PRIVATE)
    assert not any(is_forbidden(name.lower()) for name in KNOWN)


@check_each("value", ["", "Grün", "a\nb", " a", "\x00"])
def test_header_values_that_cannot_be_sent_are_omitted(value: str) -> None:
    assert select({"X-Title": value}) == {}


@check_each(
    ("beta", "sent"),
    [
        ("responses=v1", {"Openai-Beta": "responses=v1"}),
        ("responses_websockets=2026-02-04", {}),
        ("a=1, responses_websockets=2026-02-04,b=2", {"Openai-Beta": "a=1, b=2"}),
    ],
)
def test_websocket_beta_is_removed(beta: str, sent: dict[str, str]) -> None:
    assert select({"Openai-Beta": beta}) == sent
