"""Search engines: the request in each engine's own format, and the results read from its answer."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from forwarder.config.parsers import SEARCH_ENGINES
from forwarder.hosted_tools import web_search_backends
from forwarder.hosted_tools.web_search_backends import (
    BACKENDS,
    MAX_RAW_LENGTH,
    SearchEngine,
    SearchFailure,
    SearchOptions,
    WebSearchResult,
    clean_text,
    select_results,
)
from tests.helpers.check_cases import check_each
from tests.helpers.loopback import Peer, encode_chunk, find_unused_port, run_server
from tests.hosted_tools.test_responses_loop import FakeClient

Json = dict[str, Any]
OPTIONS = SearchOptions(3, 40, "DE", "Berlin", ("example.org",), ("bad.example.org",))
URL = "https://www.example.org/a"

ANSWERS: dict[str, Json] = {
    "searxng": {"results": [{"title": "T", "url": URL, "content": "A &amp; B", "publishedDate": "2026"}]},
    "brave": {"web": {"results": [
        {"title": "<b>T</b>", "url": URL, "description": "A &amp; B", "page_age": "2026"}
    ]}},
    "tavily": {"results": [{"title": "T", "url": URL, "content": "A & B", "published_date": "2026"}]},
    "exa": {"results": [{"title": "T", "url": URL, "text": "A & B", "publishedDate": "2026"}]},
}  # fmt: skip

SITES = "cats site:example.org -site:bad.example.org"
REQUESTS: dict[str, tuple[str, str, Json]] = {
    "searxng": ("GET", "/search", {"q": SITES, "format": "json", "pageno": "1"}),
    "brave": ("GET", "/res/v1/web/search", {"q": SITES, "count": "3", "country": "DE"}),
    "tavily": (
        "POST",
        "/search",
        {
            "query": "cats",
            "max_results": 3,
            "include_domains": ["example.org"],
            "exclude_domains": ["bad.example.org"],
        },
    ),
    "exa": (
        "POST",
        "/search",
        {
            "query": "cats",
            "numResults": 3,
            "contents": {"text": {"maxCharacters": 40}},
            "includeDomains": ["example.org"],
            "userLocation": "DE",
        },
    ),
}
KEYS = {
    "searxng": "authorization: bearer key-1",
    "brave": "x-subscription-token: key-1",
    "tavily": "authorization: bearer key-1",
    "exa": "x-api-key: key-1",
}


def make_engine_script(answer: object, head: bytes = b"HTTP/1.1 200 OK") -> Callable[[Peer], None]:
    def serve(peer: Peer) -> None:
        peer.request()
        body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        peer.send(head + b"\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % len(body) + body)

    return serve


def run_search(
    name: str,
    script: Callable[[Peer], None],
    options: SearchOptions = OPTIONS,
    seconds: float = 2.0,
) -> Any:
    """The results, and the request that the engine got."""
    with run_server(script) as server:
        engine = SearchEngine(name, f"http://127.0.0.1:{server.port}/", "key-1", seconds)
        return engine.search("cats", options).results, server.requests[0].decode()


def test_settings_know_all_engines() -> None:
    assert {*SEARCH_ENGINES} == BACKENDS.keys()


@check_each("name", BACKENDS)
def test_engine_gets_its_own_parameters_and_its_results_are_read(name: str) -> None:
    results, request = run_search(name, make_engine_script(ANSWERS[name]))
    assert results == [WebSearchResult("T", URL, "A & B", "2026")]
    head, _, body = request.partition("\r\n\r\n")
    method, target, _ = head.splitlines()[0].split(" ")
    url = urlsplit(target)
    parameters = json.loads(body) if body else {k: v[0] for k, v in parse_qs(url.query).items()}
    assert (method, url.path, parameters) == REQUESTS[name]
    assert KEYS[name] in head.lower()


def make_results(*urls: str) -> Json:
    return {"results": [{"title": u, "url": u, "content": "x" * 100} for u in urls]}


@check_each(
    ("query", "options"),
    [
        ("w " * 200, SearchOptions()),
        ("w " * 200, OPTIONS),
        ("x" * 400, OPTIONS),
        ("x" * 400, SearchOptions(allowed=tuple(f"{i}.{'x' * 60}.example" for i in range(8)))),
    ],
    ids=["words", "words-domains", "characters", "domains"],
)
def test_query_stays_within_the_limits_of_brave(query: str, options: SearchOptions) -> None:
    sent_query = BACKENDS["brave"].make_request(query, options).query["q"]
    assert len(sent_query) <= 400
    assert len(sent_query.split()) <= 50
    assert sent_query.startswith(query[:20])


@check_each("more", [{}, {"web": None}])
def test_brave_without_pages_has_no_results(more: Json) -> None:
    results, _ = run_search("brave", make_engine_script({"type": "search", "query": {}, **more}))
    assert results == []


def test_results_are_filtered_by_domain_cut_and_bounded() -> None:
    urls = ["https://example.org/1", "https://sub.example.org/2", "https://evilexample.org/3",
            "https://bad.example.org/4", "ftp://example.org/5", "https://example.org/1",
            "https://example.org/6", "https://example.org/7"]  # fmt: skip
    results, _ = run_search("searxng", make_engine_script(make_results(*urls)))
    assert [result.url for result in results] == [urls[0], urls[1], urls[6]]
    assert results[0].snippet == "x" * 39 + "…"


@check_each(
    ("script", "reason"),
    [
        (make_engine_script({}, b"HTTP/1.1 401 Unauthorized"), "answered 401"),
        (make_engine_script(b"<html>"), "not JSON"),
        (make_engine_script([]), "without results"),
        (make_engine_script({"error": "key-1 is wrong"}), "without results"),
        (lambda peer: (peer.request(), peer.server.wait()), "in time"),
        (lambda peer: (peer.request(), peer.close()), "cannot be reached"),
    ],
)
def test_failure_is_named_without_the_key(script: Any, reason: str) -> None:
    with pytest.raises(SearchFailure, match=reason) as caught:
        run_search("tavily", script, seconds=0.2 if reason == "in time" else 2.0)
    assert "key-1" not in str(caught.value)


def test_unreachable_engine_fails() -> None:
    engine = SearchEngine("searxng", f"http://127.0.0.1:{find_unused_port()}")
    with pytest.raises(SearchFailure, match="cannot be reached"):
        engine.search("cats", SearchOptions())


@check_each(
    "url", ["http://[docs", "http://[docs]/", "http://a\u2100b.com/", "http://a.com/" + "b" * 2**16]
)
def test_results_with_invalid_urls_are_omitted(url: str) -> None:
    results = [WebSearchResult("Bad", url, ""), WebSearchResult("Good", URL, "")]
    assert [result.url for result in select_results(results, SearchOptions())] == [URL]


def test_texts_of_an_engine_are_cut_before_they_are_cleaned() -> None:
    assert clean_text("<b>a</b>" * MAX_RAW_LENGTH) == "a" * (MAX_RAW_LENGTH // 8)


def test_cancelled_search_sends_no_request() -> None:
    engine, call = SearchEngine("searxng", f"http://127.0.0.1:{find_unused_port()}"), FakeClient()
    call.cancel()
    with pytest.raises(SearchFailure, match="cancelled"):
        engine.search("cats", OPTIONS, "", call)


def test_searches_above_the_limit_wait_and_then_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web_search_backends, "MAX_PARALLEL_SEARCHES", 1)
    arrived, release = threading.Event(), threading.Event()

    def answer(peer: Peer) -> None:
        peer.request()
        arrived.set()
        release.wait(5)
        peer.answer(json.dumps(ANSWERS["searxng"]).encode(), b"Connection: close")

    with run_server(answer) as server:
        engine = SearchEngine("searxng", f"http://127.0.0.1:{server.port}", seconds=0.5)
        first_search = threading.Thread(target=lambda: engine.search("cats", SearchOptions()))
        first_search.start()
        assert arrived.wait(5)
        timer = threading.Timer(0.1, release.set)  # before the waiting search times out
        timer.start()
        assert engine.search("cats", SearchOptions()).results
        first_search.join()
        with engine._slots.hold("", 0, KeyError()), pytest.raises(SearchFailure, match="Too many"):
            engine.search("cats", SearchOptions())


def test_endless_answer_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web_search_backends, "MAX_ANSWER_BYTES", 1000)

    def flood(peer: Peer) -> None:
        peer.request()
        peer.start_chunked()
        for _ in range(100):
            peer.send(encode_chunk(b" " * 1000))

    with pytest.raises(SearchFailure, match="too large"):
        run_search("searxng", flood)
