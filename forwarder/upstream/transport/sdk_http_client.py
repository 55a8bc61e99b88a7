"""The SDK's HTTP client for one upstream, without the features that a forwarder does not use.

For each request httpx2 parses the URL, merges headers, and handles cookies, redirects and auth,
which costs as much as sending the request.  Here there are few URLs, all absolute; the SDK sets
all headers; cookies of upstreams are ignored; and a redirect counts as a refusal.
"""

from __future__ import annotations

import functools
from typing import Any

import httpx2

from forwarder.upstream.transport.answer_limits import MAX_ANSWER_BYTES, limit_answer, read_answer

_MAX_CACHED_URLS = 64
"""How many parsed URLs are cached; an upstream uses mostly two."""


class SdkHttpClient(httpx2.Client):
    """For ``OpenAI(http_client=...)``, with one transport for all hosts."""

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
        self, method: str, url: httpx2.URL | str, *, timeout: Any = None, **options: Any
    ) -> httpx2.Request:
        """Build a request with a body of bytes; httpx2 builds all other requests."""
        content = options.get("content")
        if not isinstance(content, bytes) or options.get("params"):
            return super().build_request(method, url, timeout=timeout, **options)
        target, netloc = parse_target(str(url))
        headers = httpx2.Headers(options["headers"]).raw
        names = {name.lower() for name, _ in headers}  # httpx2 decodes all headers to find one
        host = [] if b"host" in names else [(b"Host", netloc)]  # an operator may have set one
        length = (b"Content-Length", b"%d" % len(content))
        return httpx2.Request(
            method,
            target,
            headers=[*host, *headers, length],
            stream=httpx2.ByteStream(content),  # from ``content`` it would derive all of this
            extensions={"timeout": httpx2.Timeout(timeout).as_dict()},
        )

    def send(self, request: httpx2.Request, *, stream: bool = False, **_: Any) -> httpx2.Response:
        """Send a request; the response is read unless ``stream``."""
        response = self._single_transport.handle_request(request)
        response.request = request
        limit_answer(response)
        if not stream:
            read_answer(response, self._max_answer)
        return response


class StockHttpClient(httpx2.Client):
    """httpx2's own client, with the same limits for answers."""

    def __init__(self, timeout: httpx2.Timeout, max_answer: int = MAX_ANSWER_BYTES) -> None:
        super().__init__(timeout=timeout)
        self._max_answer = max_answer

    def send(
        self, request: httpx2.Request, *, stream: bool = False, **options: Any
    ) -> httpx2.Response:
        """Send a request; the response is read unless ``stream``."""
        response = super().send(request, stream=True, **options)
        limit_answer(response)
        if not stream:
            read_answer(response, self._max_answer)
        return response


@functools.lru_cache(_MAX_CACHED_URLS)
def parse_target(url: str) -> tuple[httpx2.URL, bytes]:
    """Return a parsed URL, and its host and port for the Host header."""
    parsed = httpx2.URL(url)
    return parsed, parsed.netloc
