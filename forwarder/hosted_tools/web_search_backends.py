"""Search engines: how each is asked, and its results in one form.

`BACKENDS` has one row for each engine. All of them answer JSON over HTTP. The operator configures
one by name, address and key, so its address is not guarded. Other searches of the same interface
(`SearchBackend`) are in `web_search_upstream.py` and `web_search_mcp.py`.
"""

from __future__ import annotations

import html
import re
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any, NamedTuple, Protocol
from urllib.parse import urlsplit

import httpx2
import orjson

from forwarder.core.blocking_work import ClientSlots
from forwarder.core.types import Json
from forwarder.hosted_tools.greenlet_call import ToolFailure
from forwarder.hosted_tools.tool_context import CallScope
from forwarder.middleware.media.fetch import MAX_URL_LENGTH

MAX_ANSWER_BYTES = 4 * 2**20
MAX_QUERY_LENGTH = 400
MAX_BRAVE_WORDS = 50
"""Words of a query, with its operators. Brave refuses more words or characters by a 422."""

MAX_PARALLEL_SEARCHES = 16
"""Maximum number of requests to the engine at the same time. One client may have a quarter of them.
Further requests wait within their time limit."""

MAX_SITE_OPERATORS = 8
"""Maximum number of domains in a query, for engines without a parameter for domains."""

TIME_RANGES = {"day": 1, "week": 7, "month": 31, "year": 366}
"""Names that engines use for a maximum age of pages -> days."""

MAX_RECENT_DAYS = TIME_RANGES["year"]
"""The longest time range, in days. A search with more ``recent_days`` has no time range, except
that Exa gets this one."""

MAX_RAW_LENGTH = 20_000
"""Characters of a title or passage that are read. Cleaning megabytes would take seconds."""

_TAG = re.compile(r"<[^<>]{0,200}>")
_SPACE = re.compile(r"\s+")


class WebSearchResult(NamedTuple):
    """One result; ``snippet`` is plain text, ``published`` a date as the engine writes it."""

    title: str
    url: str
    snippet: str
    published: str | None = None


class SearchAnswer(NamedTuple):
    """The results of a search; ``text`` is the search engine's own answer, if it gives one."""

    results: list[WebSearchResult]
    text: str = ""


class SearchOptions(NamedTuple):
    """The options of a search request.

    ``country`` is a two-letter code. ``allowed`` and ``blocked`` are domains, which include their
    subdomains; empty ``allowed`` allows all. ``recent_days`` is the age of the oldest pages.
    """

    max_results: int = 8
    snippet_length: int = 600
    country: str | None = None
    city: str | None = None
    allowed: tuple[str, ...] = ()
    blocked: tuple[str, ...] = ()
    recent_days: int | None = None

    @property
    def time_range(self) -> str | None:
        """The shortest of ``day``, ``week``, ``month`` and ``year`` that covers ``recent_days``."""
        days = self.recent_days or MAX_RECENT_DAYS + 1
        return next((name for name, length in TIME_RANGES.items() if days <= length), None)

    def allows(self, url: str) -> bool:
        """Return whether a URL is valid and the domain filters allow it."""
        if len(url) > MAX_URL_LENGTH:
            return False
        try:
            host = (urlsplit(url).hostname or "").lower().removesuffix(".")
        except ValueError:
            return False
        if any(is_subdomain(host, domain) for domain in self.blocked):
            return False
        return not self.allowed or any(is_subdomain(host, domain) for domain in self.allowed)


class BackendRequest(NamedTuple):
    """An HTTP request to an engine, relative to its address."""

    path: str
    query: Mapping[str, str] = {}
    body: Json | None = None


class Backend(NamedTuple):
    """A search engine.

    ``make_request`` makes the request for a query, ``read_results`` finds the results in the
    answer. ``key_header`` and ``key_prefix`` say how the key is sent.
    """

    url: str | None
    key_header: str
    key_prefix: str
    make_request: Callable[[str, SearchOptions], BackendRequest]
    read_results: Callable[[Json], Any]
    read_result: Callable[[Json], WebSearchResult]
    needs_key: bool = True


class SearchFailure(ToolFailure):
    """A search failed; the message is for the model and the client."""


class SearchBackend(Protocol):
    """Searches the web for all clients."""

    def search(
        self, query: str, options: SearchOptions, client: str, call: CallScope
    ) -> SearchAnswer:
        """Return the results that the filters allow, best first.

        ``client`` identifies the client that pays. When ``call`` is cancelled, expensive searches
        end and no search begins. Raises SearchFailure or ForwarderError.
        """


def is_subdomain(host: str, domain: str) -> bool:
    return host == domain or host.endswith(f".{domain}")


# -- engines ------------------------------------------------------------------------------------


def add_site_operators(query: str, options: SearchOptions) -> str:
    """Name the domains in the query, for engines that have no parameter for them."""
    sites = [f"site:{domain}" for domain in options.allowed[:MAX_SITE_OPERATORS]]
    query += f" ({' OR '.join(sites)})" if len(sites) > 1 else "".join(f" {s}" for s in sites)
    return query + "".join(f" -site:{d}" for d in options.blocked[:MAX_SITE_OPERATORS])


def make_searxng_request(query: str, options: SearchOptions) -> BackendRequest:
    parameters = {"q": add_site_operators(query, options), "format": "json", "pageno": "1"}
    if options.time_range:
        parameters["time_range"] = options.time_range
    return BackendRequest("/search", parameters)


def read_searxng_result(result: Json) -> WebSearchResult:
    return make_result(result, "content", result.get("publishedDate"))


def make_brave_request(query: str, options: SearchOptions) -> BackendRequest:
    operators = add_site_operators("", options)
    if len(operators) > MAX_QUERY_LENGTH // 2:
        operators = ""  # the results are filtered by their domains anyway
    words = query.split()[: MAX_BRAVE_WORDS - len(operators.split())]
    parameters = {
        "q": " ".join(words)[: MAX_QUERY_LENGTH - len(operators)] + operators,
        "count": str(min(options.max_results, 20)),
    }
    if options.country:
        parameters["country"] = options.country
    if options.time_range:
        parameters["freshness"] = f"p{options.time_range[0]}"
    return BackendRequest("/res/v1/web/search", parameters)


def read_brave_results(answer: Json) -> Any:
    """Return the results. Brave sends no ``web``, or null, if it has found no page."""
    if answer.get("type") == "search" and answer.get("web") is None:
        return []
    return (answer.get("web") or {}).get("results")


def read_brave_result(result: Json) -> WebSearchResult:
    more = [str(text) for text in result.get("extra_snippets") or ()]
    text = " ".join([str(result.get("description") or ""), *more])
    return make_result({**result, "text": text}, "text", result.get("page_age"))


def make_tavily_request(query: str, options: SearchOptions) -> BackendRequest:
    body: Json = {"query": query, "max_results": min(options.max_results, 20)}
    if options.allowed:
        body["include_domains"] = list(options.allowed)
    if options.blocked:
        body["exclude_domains"] = list(options.blocked)
    if options.time_range:
        body["time_range"] = options.time_range
    return BackendRequest("/search", body=body)


def read_tavily_result(result: Json) -> WebSearchResult:
    return make_result(result, "content", result.get("published_date"))


def make_exa_request(query: str, options: SearchOptions) -> BackendRequest:
    contents = {"text": {"maxCharacters": options.snippet_length}}
    body: Json = {"query": query, "numResults": options.max_results, "contents": contents}
    if options.allowed:
        body["includeDomains"] = list(options.allowed)
    elif options.blocked:  # Exa takes only one of the two
        body["excludeDomains"] = list(options.blocked)
    if options.country:
        body["userLocation"] = options.country
    if options.recent_days:
        begin = datetime.now(UTC) - timedelta(days=min(options.recent_days, MAX_RECENT_DAYS))
        body["startPublishedDate"] = begin.strftime("%Y-%m-%dT00:00:00Z")
    return BackendRequest("/search", body=body)


def read_exa_result(result: Json) -> WebSearchResult:
    return make_result(result, "text", result.get("publishedDate"))


def make_result(result: Json, text_field: str, published: Any) -> WebSearchResult:
    url = str(result.get("url") or "")
    title = clean_text(str(result.get("title") or "")) or url
    snippet = clean_text(str(result.get(text_field) or ""))
    return WebSearchResult(title, url, snippet, str(published)[:40] if published else None)


def clean_text(text: str) -> str:
    """Return the beginning as plain text: some engines mark the words of the query with HTML."""
    return _SPACE.sub(" ", html.unescape(_TAG.sub("", text[:MAX_RAW_LENGTH]))).strip()


def read_results(answer: Json) -> Any:
    return answer.get("results")


BACKENDS: Mapping[str, Backend] = {
    "searxng": Backend(
        None, "Authorization", "Bearer ", make_searxng_request, read_results, read_searxng_result,
        needs_key=False,
    ),
    "brave": Backend(
        "https://api.search.brave.com", "X-Subscription-Token", "", make_brave_request,
        read_brave_results, read_brave_result,
    ),
    "tavily": Backend(
        "https://api.tavily.com", "Authorization", "Bearer ", make_tavily_request, read_results,
        read_tavily_result,
    ),
    "exa": Backend(
        "https://api.exa.ai", "x-api-key", "", make_exa_request, read_results, read_exa_result
    ),
}  # fmt: skip
"""Name in ``FORWARDER_WEB_SEARCH`` -> engine, with its public address."""


# -- searching ----------------------------------------------------------------------------------


class SearchEngine:
    """The operator's search engine; ``seconds`` limits each search."""

    def __init__(
        self, name: str, url: str | None = None, key: str | None = None, seconds: float = 10.0
    ) -> None:
        self.name = name
        self._backend = BACKENDS[name]
        self._url = (url or self._backend.url or "").rstrip("/")
        self._key = key
        self._seconds = seconds
        self._slots = ClientSlots(MAX_PARALLEL_SEARCHES)

    def search(
        self, query: str, options: SearchOptions, client: str = "", call: CallScope | None = None
    ) -> SearchAnswer:
        request = self._backend.make_request(query[:MAX_QUERY_LENGTH], options)
        too_many = SearchFailure("Too many searches are running.")
        with self._slots.hold(client, self._seconds, too_many):
            if call is not None and call.is_cancelled:
                raise SearchFailure("The search was cancelled.")
            found = self._backend.read_results(self._send(request))
        if not isinstance(found, list):
            raise SearchFailure("The search engine sent an answer without results.")
        results = (self._backend.read_result(each) for each in found if isinstance(each, dict))
        return SearchAnswer(select_results(results, options))

    def _send(self, request: BackendRequest) -> Json:
        headers = {"Accept": "application/json", "User-Agent": "forwarder"}
        if self._key:
            headers[self._backend.key_header] = f"{self._backend.key_prefix}{self._key}"
        try:
            with (
                httpx2.Client(
                    timeout=self._seconds, verify=get_tls_context(), trust_env=False
                ) as client,
                client.stream(
                    "GET" if request.body is None else "POST",
                    self._url + request.path,
                    params=dict(request.query),
                    json=request.body,
                    headers=headers,
                ) as response,
            ):
                if response.status_code != 200:
                    raise SearchFailure(f"The search engine answered {response.status_code}.")
                answer = orjson.loads(self._read_body(response))
        except httpx2.TimeoutException:
            raise SearchFailure("The search engine did not answer in time.") from None
        except httpx2.HTTPError:
            raise SearchFailure("The search engine cannot be reached.") from None
        except ValueError:
            raise SearchFailure("The search engine sent an answer that is not JSON.") from None
        if not isinstance(answer, dict):
            raise SearchFailure("The search engine sent an answer without results.")
        return answer

    def _read_body(self, response: httpx2.Response) -> bytes:
        deadline = time.monotonic() + self._seconds
        body = bytearray()
        for piece in response.iter_bytes():
            body += piece
            if len(body) > MAX_ANSWER_BYTES or time.monotonic() > deadline:
                raise SearchFailure("The search engine's answer is too large or too slow.")
        return bytes(body)


def select_results(
    results: Iterable[WebSearchResult], options: SearchOptions
) -> list[WebSearchResult]:
    """Return the first result for each URL that the filters allow, with cut snippets."""
    selected: dict[str, WebSearchResult] = {}
    for result in results:
        if result.url.startswith(("http://", "https://")) and options.allows(result.url):
            cut = cut_text(result.snippet, options.snippet_length)
            selected.setdefault(result.url, result._replace(snippet=cut))
            if len(selected) == options.max_results:
                break
    return list(selected.values())


def cut_text(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1].rstrip() + "…"


@cache
def get_tls_context() -> Any:
    return httpx2.create_ssl_context()
