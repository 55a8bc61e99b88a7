"""Web search by an upstream: its request, and the results read from its answer."""

from __future__ import annotations

from typing import Any

import pytest

from forwarder.hosted_tools import web_search_upstream
from forwarder.hosted_tools.web_search_backends import SearchFailure, SearchOptions, WebSearchResult
from forwarder.hosted_tools.web_search_upstream import UpstreamSearch
from tests.helpers.check_cases import check_each
from tests.hosted_tools.test_responses_loop import FakeClient

Json = dict[str, Any]

CITATION = {
    "type": "url_citation",
    "start_index": 0,
    "end_index": 4,
    "title": "Cats",
    "url": "https://example.org/cats",
}
SEARCH = {
    "type": "web_search_call",
    "status": "completed",
    "action": {
        "type": "search",
        "query": "cats",
        "sources": [
            {"type": "url", "url": "https://example.org/cats"},
            {"type": "url", "url": "https://example.org/dogs"},
        ],
    },
}
MESSAGE = {
    "type": "message",
    "content": [
        {"type": "output_text", "text": "Cats sleep.", "annotations": [CITATION]},
        {"type": "refusal", "refusal": "no"},
    ],
}


def run_search(options: SearchOptions, *output: Any, status: str = "completed") -> tuple[Any, Json]:
    """The answer of a search, and the request that the upstream got."""
    requests: list[Json] = []
    client_token = FakeClient()

    class Upstreams:
        def ask(self, request: Json, client: str, call: Any) -> Json:
            assert (client, call) == ("client", client_token)
            requests.append(request)
            return {"status": status, "output": list(output)}

    get_upstreams: Any = Upstreams
    searcher = UpstreamSearch("responses/m", get_upstreams)
    return searcher.search("cats", options, "client", client_token), requests[0]


def test_cited_pages_come_before_other_sources() -> None:
    answer, _ = run_search(SearchOptions(), SEARCH, MESSAGE)
    assert answer.text == "Cats sleep."
    assert answer.results == [
        WebSearchResult("Cats", "https://example.org/cats", ""),
        WebSearchResult("https://example.org/dogs", "https://example.org/dogs", ""),
    ]


def test_search_is_required_and_has_the_options() -> None:
    options = SearchOptions(4, 300, "DE", "Berlin", ("example.org",), ("bad.example.org",))
    _, request = run_search(options, MESSAGE)
    assert request["tools"] == [
        {
            "type": "web_search",
            "search_context_size": "low",
            "user_location": {"type": "approximate", "country": "DE", "city": "Berlin"},
            "filters": {
                "allowed_domains": ["example.org"],
                "blocked_domains": ["bad.example.org"],
            },
        }
    ]
    assert (request["model"], request["input"]) == ("responses/m", "cats")
    assert (request["tool_choice"], request["store"]) == ("required", False)
    _, request = run_search(SearchOptions(max_results=12), MESSAGE)
    assert request["tools"] == [{"type": "web_search", "search_context_size": "high"}]


def test_filtered_pages_are_omitted() -> None:
    answer, _ = run_search(SearchOptions(blocked=("www.example.org",)), SEARCH)
    assert len(answer.results) == 2
    with pytest.raises(SearchFailure, match="not searched"):
        run_search(SearchOptions(allowed=("example.com",)), SEARCH, MESSAGE)


@check_each(
    ("output", "status", "reason"),
    [
        ([], "completed", "not searched"),
        ([{"type": "message", "content": "text"}, 5], "completed", "not searched"),
        ([{**SEARCH, "action": None}], "completed", "not searched"),
        ([MESSAGE], "failed", "has failed"),
    ],
)
def test_answer_without_pages_is_a_failure(output: list[Any], status: str, reason: str) -> None:
    with pytest.raises(SearchFailure, match=reason):
        run_search(SearchOptions(), *output, status=status)


def test_search_fails_after_waiting_for_a_slot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web_search_upstream, "MAX_PARALLEL_SEARCHES", 0)
    monkeypatch.setattr(web_search_upstream, "WAIT_SECONDS", 0.01)
    with pytest.raises(SearchFailure, match="Too many searches"):
        run_search(SearchOptions(), SEARCH, MESSAGE)
