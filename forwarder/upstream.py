"""The only importer of the openai SDK: an upstream's calls, and its failures as our errors.

The SDK makes every request (authentication, headers, retries, time-outs, error classes) and hands
over the unread response; its typed layer is not used for bodies and events, which stay JSON.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import httpx2
import openai
import orjson
from openai import Omit, OpenAI, Stream

from forwarder.arrivals import arrivals_of
from forwarder.config import UpstreamSettings
from forwarder.errors import (
    UpstreamBroken,
    UpstreamError,
    UpstreamKeyRefused,
    UpstreamRefused,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from forwarder.exchange import Exchange
from forwarder.profiles import Profile, mend, profile_for
from forwarder.routing import Route
from forwarder.sse import Decoder
from forwarder.translate import whole
from forwarder.translate.call import Call, Json
from forwarder.translate.call import Stream as Batches
from forwarder.translate.ending import HONEST
from forwarder.translate.vocabulary import TERMINALS

_PATHS = {"chat": "/chat/completions", "responses": "/responses"}

_HANDED_ON = ("retry-after", "retry-after-ms", "x-should-retry", "openai-processing-ms")

_GRACE = 0.25
"""Seconds to wait after the last event for late usage and the end of the body, which lets the
connection be used again."""


class Upstream:
    """One configured upstream: a client of its own, kept for the life of the process."""

    def __init__(
        self, settings: UpstreamSettings, transport: httpx2.BaseTransport | None, heartbeat: float
    ) -> None:
        self.settings = settings
        self.profile: Profile = profile_for(settings.provider, settings.base_url, settings.quirks)
        self._heartbeat = heartbeat
        timeout = httpx2.Timeout(settings.first_byte_timeout, connect=settings.connect_timeout)
        self._client = OpenAI(
            api_key=settings.api_key or "none",
            base_url=settings.base_url,
            timeout=timeout,
            max_retries=settings.max_retries,
            http_client=httpx2.Client(transport=transport, timeout=timeout),
            default_headers=self._headers(),
            default_query=dict(settings.query),
        )

    def call(self, route: Route, client: str, exchange: Exchange) -> Call:
        """The call of this upstream that speaks ``route.protocol``.

        It connects before it returns, and is closed with ``exchange``.
        """

        def upstream_call(request: Json) -> Batches:
            body = {**request, "model": route.model}
            # A body of the client's own is mended only where the provider is known to need it.
            if client != route.protocol or self.profile.name != "generic":
                body = mend(body, route.protocol, self.profile, exchange.ledger)
            reply = self._post(route.protocol, body, exchange)
            exchange.opened.callback(reply.close)
            exchange.reply_headers = reply.headers
            return HONEST[route.protocol](reply.batches(), reply.was_done)

        return upstream_call

    def models(self, timeout: float) -> list[Json]:
        """What the upstream lists, as plain model objects."""
        try:
            response = self._client.get(
                "/models", cast_to=httpx2.Response, options={"timeout": timeout}
            )
        except openai.OpenAIError as error:
            raise self._ours(error) from None
        data = _json(response.content).get("data")
        return [model for model in data or () if isinstance(model, dict) and model.get("id")]

    def _post(self, protocol: str, body: Json, exchange: Exchange) -> Reply:
        options: Any = {"headers": self._key_of(exchange)}
        try:
            response = self._client.post(
                _PATHS[protocol],
                content=orjson.dumps(body),
                cast_to=httpx2.Response,
                options=options,
                stream=True,
                stream_cls=Stream[object],
            )
        except openai.OpenAIError as error:
            raise self._ours(error) from None
        except OSError as error:  # some transports let it through unwrapped
            raise self._unreachable(error) from None
        return Reply(response, protocol, bool(body.get("stream")), self)  # type: ignore[arg-type]

    def _headers(self) -> dict[str, Any]:
        headers: dict[str, Any] = {"Accept-Encoding": "identity", **self.settings.headers}
        if self.profile.key_header and self.settings.api_key:
            headers |= {self.profile.key_header: self.settings.api_key, "Authorization": Omit()}
        return headers

    def _key_of(self, exchange: Exchange) -> dict[str, str]:
        if not self.settings.passthrough_key:
            return {}
        key = exchange.client_key or "none"
        if self.profile.key_header:
            return {self.profile.key_header: key}
        return {"Authorization": f"Bearer {key}"}

    # -- failures -------------------------------------------------------------------------------

    def _ours(self, error: openai.OpenAIError) -> UpstreamError:
        """The SDK's exception as ours."""
        if isinstance(error, openai.APIStatusError):
            return self._refused(error)
        if isinstance(error, openai.APITimeoutError):
            return UpstreamTimeout(f"The upstream '{self.settings.name}' did not answer in time.")
        if isinstance(error, openai.APIConnectionError):
            return self._unreachable(error.__cause__ or error)
        return UpstreamBroken(f"The upstream '{self.settings.name}' could not be used: {error}")

    def _refused(self, error: openai.APIStatusError) -> UpstreamError:
        status = error.status_code
        if status == 401 and not self.settings.passthrough_key:
            return UpstreamKeyRefused(
                f"The upstream '{self.settings.name}' does not accept the forwarder's key."
            )
        return UpstreamRefused(status, self._error_object(error), handed_on(error.response.headers))

    def _error_object(self, error: openai.APIStatusError) -> Json:
        body = error.body
        if isinstance(body, dict):
            inner = body.get("error", body)
            body = inner if isinstance(inner, dict) else {"message": str(inner)}
            message = body.get("message") or body.get("detail") or body.get("msg")
            return {**body, "message": self._redacted(str(message or error.status_code))}
        text = str(body or "").strip()
        if not text or text.startswith("<"):
            text = f"The upstream answered {error.status_code} without a JSON body."
        return {"message": self._redacted(text[:500])}

    def _redacted(self, text: str) -> str:
        """Providers quote keys in their errors; ours stays ours."""
        key = self.settings.api_key
        return text.replace(key, "***") if key else text

    def _unreachable(self, error: BaseException) -> UpstreamUnreachable:
        kind = type(error).__name__
        return UpstreamUnreachable(
            f"The upstream '{self.settings.name}' cannot be reached ({kind})."
        )


class Reply:
    """One open answer of an upstream."""

    def __init__(
        self, response: httpx2.Response, protocol: str, streamed: bool, upstream: Upstream
    ) -> None:
        self._response = response
        self._protocol = protocol
        self._streamed = streamed
        self._settings = upstream.settings
        self._decoder = Decoder()
        self._arrivals = arrivals_of(response, upstream._heartbeat)
        self.headers = handed_on(response.headers)

    def was_done(self) -> bool:
        """Did the upstream say ``[DONE]``?"""
        return self._decoder.done

    def close(self) -> None:
        """Give the connection back, or cut it when the answer is not over."""
        self._arrivals.close()
        self._response.close()

    def batches(self) -> Batches:
        """The events, batch by batch as they arrive; empty ones while the upstream is silent."""
        try:
            yield from self._read()
        except httpx2.TimeoutException:
            raise self._timeout("stopped sending") from None
        except (httpx2.TransportError, httpx2.StreamError, OSError):
            raise UpstreamUnreachable(
                f"The connection to the upstream '{self._settings.name}' broke.",
                code="upstream_disconnected",
            ) from None

    def _read(self) -> Batches:
        pieces = self._patient()
        first = b""
        for first in pieces:
            if first.strip():
                break
            yield []
        if not self._streamed or _looks_whole(first, self._response):
            yield from self._whole(first, pieces)
            return
        feed = self._decoder.feed
        batch = feed(first)
        while True:
            if batch:
                yield batch
                if self._decoder.done or batch[-1].get("type") in TERMINALS:
                    self._arrivals.patience = _GRACE
            data = next(pieces, None)
            if data is None:
                break
            if not data:
                yield []
            batch = feed(data)
        rest = self._decoder.flush()
        if rest:
            yield rest

    def _patient(self) -> Iterator[bytes]:
        """What arrives, within the limits for silence and for the whole."""
        idle = self._settings.idle_timeout
        total = self._settings.total_timeout
        started = heard = time.monotonic()
        for data in self._arrivals:
            if data and not total:
                heard = 0.0
            else:
                now = time.monotonic()
                heard = now if data or not heard else heard
                if total and now - started > total:
                    raise self._timeout("took too long")
                if now - heard >= idle:
                    raise self._timeout("stopped sending")
            yield data

    def _timeout(self, what: str) -> UpstreamTimeout:
        return UpstreamTimeout(f"The upstream '{self._settings.name}' {what}.")

    def _whole(self, first: bytes, pieces: Iterator[bytes]) -> Batches:
        """A whole JSON answer: a stream of one event, or of what it would have streamed."""
        body = [first]
        for piece in pieces:
            body.append(piece)
            if not piece:
                yield []
        yield whole.events(self._protocol, _json(b"".join(body)), self._streamed)


def handed_on(headers: httpx2.Headers) -> dict[str, str]:
    """The response headers that concern the client."""
    kept = {k: v for k, v in headers.items() if k in _HANDED_ON or k.startswith("x-ratelimit-")}
    if "x-request-id" in headers:
        kept["x-upstream-request-id"] = headers["x-request-id"]
    return kept


def _looks_whole(first: bytes, response: httpx2.Response) -> bool:
    """Not every 200 is a stream, whatever its content type says."""
    head = first.lstrip()[:1]
    if head == b"<" or "text/html" in response.headers.get("content-type", ""):
        raise UpstreamBroken("The upstream answered with a page instead of a stream.")
    return head == b"{"


def _json(body: bytes) -> Json:
    try:
        value = orjson.loads(body)
    except ValueError:
        raise UpstreamBroken("The upstream's answer is not JSON.") from None
    if not isinstance(value, dict):
        raise UpstreamBroken("The upstream's answer is not a JSON object.")
    return value
