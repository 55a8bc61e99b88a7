"""The SDK's HTTP client, for one upstream: what a forwarder never asks of one is left out.

httpx2 parses the URL, merges headers and consults cookies, redirects and auth for every request,
which costs as much as sending it.  The URLs here are few and whole, the SDK brings all headers,
an upstream's cookies are nobody's, and a redirect is the upstream's refusal.
"""

from __future__ import annotations

import functools
from typing import Any

import httpx2

from forwarder.upstream.transport.answer_limits import MAX_ANSWER_BYTES, limit_answer, read_answer

_MAX_CACHED_URLS = 64
"""How many parsed URLs are kept; an upstream has two that matter."""


class SdkHttpClient(httpx2.Client):
    """For ``OpenAI(http_client=...)``, over one transport for all hosts."""

    def __init__(
        self,
        transport: httpx2.BaseTransport,
        timeout: httpx2.Timeout,
        max_answer: int = MAX_ANSWER_BYTES,
    ) -> None:
        super().__init__(transport=transport, timeout=timeout)
        self._single_transport = transport
        self._max_answer = max_answer

    def build_request(
        self, method: str, url: httpx2.URL | str, *, timeout: Any = None, **given: Any
    ) -> httpx2.Request:
        """A request with a body of bytes as it is; anything else is httpx2's to build."""
        content = given.get("content")
        if not isinstance(content, bytes) or given.get("params"):
            return super().build_request(method, url, timeout=timeout, **given)
        target = parse_url(url) if isinstance(url, str) else url
        length = [("Content-Length", str(len(content)))]
        return httpx2.Request(
            method,
            target,
            headers=[*make_host_header(target, given["headers"]), *given["headers"], *length],
            stream=httpx2.ByteStream(content),  # of ``content`` it would find out all of this
            extensions={"timeout": httpx2.Timeout(timeout).as_dict()},
        )

    def send(self, request: httpx2.Request, *, stream: bool = False, **_: Any) -> httpx2.Response:
        """Hand a request to the transport, and its response back, read unless ``stream``."""
        response = self._single_transport.handle_request(request)
        response.request = request
        limit_answer(response)
        if not stream:
            read_answer(response, self._max_answer)
        return response


class StockHttpClient(httpx2.Client):
    """httpx2's own client, whose answers are held to the same limits."""

    def __init__(self, timeout: httpx2.Timeout, max_answer: int = MAX_ANSWER_BYTES) -> None:
        super().__init__(timeout=timeout)
        self._max_answer = max_answer

    def send(
        self, request: httpx2.Request, *, stream: bool = False, **given: Any
    ) -> httpx2.Response:
        """Send a request; its response is read unless ``stream``."""
        response = super().send(request, stream=True, **given)
        limit_answer(response)
        if not stream:
            read_answer(response, self._max_answer)
        return response


def make_host_header(url: httpx2.URL, headers: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """The header that says who is called, unless the operator has another word for it."""
    named = any(name.lower() == "host" for name, _ in headers)
    return [] if named else [("Host", url.netloc.decode("ascii"))]


parse_url = functools.lru_cache(_MAX_CACHED_URLS)(httpx2.URL)
"""A URL, parsed but once."""
