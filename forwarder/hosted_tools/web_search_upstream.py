"""Web search through an upstream that has a web search of its own.

The upstream gets a small Responses request that demands a call of its search. The pages that its
answer cites and that its search has found are the results.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from forwarder.core.blocking_work import ClientSlots
from forwarder.core.types import Json
from forwarder.hosted_tools.tool_context import CallScope, GetUpstreams
from forwarder.hosted_tools.web_search_backends import (
    MAX_PARALLEL_SEARCHES,
    SearchAnswer,
    SearchFailure,
    SearchOptions,
    WebSearchResult,
    clean_text,
    cut_text,
    select_results,
)

MAX_QUERY_LENGTH = 2_000
MAX_OUTPUT_TOKENS = 4_000
MAX_TEXT_LENGTH = 20_000
"""Characters of the upstream's answer that are used."""

WAIT_SECONDS = 30.0
"""Seconds that a search waits while `MAX_PARALLEL_SEARCHES` are running, or a quarter of them for
the same client."""

SOURCES_INCLUDE = "web_search_call.action.sources"

INSTRUCTIONS = (
    "Search the web for the query. Report what the pages say about it, briefly and with the facts, "
    "dates and numbers that matter, and cite each page. Do not answer from memory."
)

_CONTEXT_SIZES = ((4, "low"), (8, "medium"))
"""Number of results -> ``search_context_size`` for at most that many; more is ``high``."""


class UpstreamSearch:
    """Searches with a model; ``model`` is its name for clients."""

    def __init__(self, model: str, get_upstreams: GetUpstreams) -> None:
        self._model = model
        self._get_upstreams = get_upstreams
        self._slots = ClientSlots(MAX_PARALLEL_SEARCHES)

    def search(
        self, query: str, options: SearchOptions, client: str, call: CallScope
    ) -> SearchAnswer:
        request = self._make_request(query, options)
        too_many = SearchFailure("Too many searches are running.")
        with self._slots.hold(client, WAIT_SECONDS, too_many):
            response = self._get_upstreams().ask(request, client, call)
        if response.get("status") == "failed":
            raise SearchFailure("The upstream that searches the web has failed.")
        output = [item for item in response.get("output") or () if isinstance(item, dict)]
        results = select_results([*read_citations(output), *read_sources(output)], options)
        if not results:
            raise SearchFailure("The upstream has not searched the web.")
        return SearchAnswer(results, cut_text(read_text(output), MAX_TEXT_LENGTH))

    def _make_request(self, query: str, options: SearchOptions) -> Json:
        sizes = (size for count, size in _CONTEXT_SIZES if options.max_results <= count)
        tool: Json = {"type": "web_search", "search_context_size": next(sizes, "high")}
        places = {"country": options.country, "city": options.city}
        location = {name: place for name, place in places.items() if place}
        if location:
            tool["user_location"] = {"type": "approximate", **location}
        filters = {"allowed_domains": options.allowed, "blocked_domains": options.blocked}
        if any(filters.values()):
            tool["filters"] = {name: list(value) for name, value in filters.items() if value}
        query = query[:MAX_QUERY_LENGTH]
        if options.recent_days:
            query += f"\nOnly pages of the last {options.recent_days} days count."
        return {
            "model": self._model,
            "instructions": INSTRUCTIONS,
            "input": query,
            "tools": [tool],
            "tool_choice": "required",
            "include": [SOURCES_INCLUDE],
            "max_output_tokens": MAX_OUTPUT_TOKENS,
            "store": False,
            "stream": False,
        }


def read_parts(output: list[Json]) -> Iterator[Json]:
    """Yield the parts of the messages of an answer."""
    for item in output:
        content = item.get("content") if item.get("type") == "message" else None
        yield from list_objects(content)


def read_text(output: list[Json]) -> str:
    return "\n".join(str(part["text"]) for part in read_parts(output) if part.get("text"))


def read_citations(output: list[Json]) -> Iterator[WebSearchResult]:
    """Yield the pages that the answer cites."""
    for part in read_parts(output):
        for citation in list_objects(part.get("annotations")):
            url = str(citation.get("url") or "")
            yield WebSearchResult(clean_text(str(citation.get("title") or "")) or url, url, "")


def read_sources(output: list[Json]) -> Iterator[WebSearchResult]:
    """Yield the pages that the search has found."""
    for item in output:
        action = item.get("action")
        for source in list_objects(action.get("sources") if isinstance(action, dict) else None):
            url = str(source.get("url") or "")
            yield WebSearchResult(url, url, "")


def list_objects(value: Any) -> list[Json]:
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []
