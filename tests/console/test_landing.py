"""The landing page at ``/``."""

from __future__ import annotations

import html
import re

import httpx2
from flask.testing import FlaskClient

from tests.server.conftest import Serve

BROWSER = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}


def test_browsers_get_a_page_and_other_clients_the_greeting_of_ollama(demo: FlaskClient) -> None:
    page = demo.get("/", headers=BROWSER)

    assert page.mimetype == "text/html"
    assert "<h1>The forwarder is running</h1>" in page.text
    assert page.headers["Vary"] == "Accept"
    for headers in ({}, {"Accept": "*/*"}, {"Accept": "text/plain, text/html;q=0.5"}):
        assert demo.get("/", headers=headers).text == "Ollama is running"


def test_base_urls_are_those_of_the_requested_host(demo: FlaskClient) -> None:
    page = demo.get("/", headers={**BROWSER, "Host": "127.0.0.1:8123"})

    assert "OPENAI_BASE_URL=http://127.0.0.1:8123/v1" in page.text
    assert "curl -sN http://127.0.0.1:8123/v1/responses" in page.text
    assert "Replace <code>MODEL</code>" not in page.text


def test_public_url_replaces_the_requested_host(serve: Serve) -> None:
    client = serve(lambda _: httpx2.Response(200), FORWARDER_PUBLIC_URL="https://llm.example/api")

    assert "OLLAMA_HOST=https://llm.example/api" in client.get("/", headers=BROWSER).text


def test_page_says_whether_a_key_is_needed_and_never_shows_one(serve: Serve) -> None:
    client = serve(
        lambda _: httpx2.Response(200),
        FORWARDER_API_KEYS="sk-client-secret",
        FORWARDER_ADMIN_KEYS="sk-admin-secret",
        CHAT_API_KEY="sk-upstream-secret",
    )
    page = client.get("/", headers=BROWSER).text

    assert "Clients need a key" in page
    assert "Bearer $FORWARDER_KEY" in page
    assert "Replace <code>MODEL</code>" in page
    assert "-secret" not in page


def test_upstreams_are_listed_with_their_state_and_errors_are_escaped(serve: Serve) -> None:
    def answer(request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(500, text="<script>alert(1)</script>")

    part = serve(answer).get("/landing/upstreams").text

    assert "<strong>chat</strong>" in part
    assert ">Chat Completions<" in part
    assert "<strong>responses</strong>" in part
    assert "<script" not in part


def test_page_links_the_console_only_if_it_is_on(serve: Serve) -> None:
    for text, is_linked in (("true", True), ("false", False)):
        client = serve(lambda _: httpx2.Response(200), FORWARDER_CONSOLE=text)
        assert ('href="/console"' in client.get("/", headers=BROWSER).text) is is_linked
        assert client.get("/console/static/console.css", buffered=True).status_code == 200


def test_browsers_without_scripts_follow_a_link_to_the_states(serve: Serve) -> None:
    client = serve(lambda _: httpx2.Response(200, json={"data": [{"id": "m"}]}))
    [link] = re.findall(r'<noscript>.*href="([^"]*)"', client.get("/", headers=BROWSER).text)

    page = client.get(link, headers=BROWSER).text

    assert "<h1>The forwarder is running</h1>" in page
    assert "reachable, 1 model<" in page
    assert "Checking" not in page


def test_states_are_those_of_ready_without_a_key(serve: Serve) -> None:
    def refuse_connections(request: httpx2.Request) -> httpx2.Response:
        raise httpx2.ConnectError("no")

    client = serve(
        refuse_connections,
        FORWARDER_API_KEYS="sk-client",
        CHAT_PROVIDER="deepseek",
        CHAT_BREAKER_FAILURES="1",
    )
    headers = {"Authorization": "Bearer sk-client"}
    client.post(
        "/v1/chat/completions",
        json={"model": "chat/m", "messages": [{"role": "user", "content": "hi"}]},
        headers=headers,
    )

    part = client.get("/landing/upstreams").text

    assert "deepseek" not in part
    assert "Its breaker is open." in part
    for state in client.get("/ready").json["upstreams"].values():
        assert f'<span class="bad">{state["error"]}</span>' in html.unescape(part)
