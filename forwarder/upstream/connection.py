"""The connection to one upstream: its SDK client, URLs, headers and time-outs.

The official SDK makes every request (authentication, headers, time-outs, error classes) and returns
the unread response; bodies and events stay JSON (`sdk_client`).  The SDK's retries are off: they
sleep without noticing that the client disconnected, have no budget, appear in no metric, and end
once the status line has arrived.  `forwarder.upstream.resilience` retries instead.
"""

from __future__ import annotations

import hashlib
from typing import Any
from urllib.parse import quote, urlsplit

import httpx2
import openai
import orjson
from openai import Omit

from forwarder.config.settings import UpstreamSettings
from forwarder.context.client_identity import is_key_identity
from forwarder.context.request_context import RequestContext
from forwarder.core.cancellation import CancellationScope
from forwarder.core.client_headers import IDEMPOTENCY_KEY
from forwarder.core.errors import InvalidRequest, Unsupported
from forwarder.core.large_bodies import take_turn
from forwarder.core.types import Json
from forwarder.protocols.chat import CHAT
from forwarder.protocols.registry import EMBEDDINGS, UPSTREAM_PROTOCOLS
from forwarder.protocols.responses import RESPONSES
from forwarder.providers import Profile
from forwarder.upstream.errors import ErrorConverter
from forwarder.upstream.response import UpstreamResponse
from forwarder.upstream.sdk_client import RAW_STREAM, EncodedRequest, SdkClient
from forwarder.upstream.transport.answer_limits import MAX_ANSWER_BYTES, read_model_list
from forwarder.upstream.transport.sdk_http_client import SdkHttpClient, StockHttpClient

_CANCEL_TIMEOUT_SECONDS = 10.0
"""Seconds that the cancellation of a background response waits for the upstream."""

_PROBE_TIMEOUT_SECONDS = 5.0

_OMITTED_SDK_HEADERS: dict[str, Any] = {
    "X-Stainless-Retry-Count": Omit(),
    "X-Stainless-Read-Timeout": Omit(),
}
"""Headers that the SDK adds unless the request omits them."""


class UpstreamConnection:
    """Sends requests to one upstream; its context manager ``errors`` converts exceptions."""

    def __init__(
        self,
        settings: UpstreamSettings,
        profile: Profile,
        transport: httpx2.BaseTransport | None,
        heartbeat: float,
        max_answer: int = MAX_ANSWER_BYTES,
    ) -> None:
        self.settings = settings
        self.errors = ErrorConverter(settings)
        # Absolute URLs: joining paths with the base URL takes the SDK a tenth of a call.
        self.urls = {
            CHAT.name: join_url(settings.base_url, profile.chat_path),
            RESPONSES.name: join_url(settings.base_url, profile.responses_path),
            "compact": join_url(settings.base_url, f"{profile.responses_path}/compact"),
            EMBEDDINGS.name: join_url(settings.base_url, "embeddings"),
        }
        timeout = httpx2.Timeout(settings.first_byte_timeout, connect=settings.connect_timeout)
        self.sdk = SdkClient(
            api_key=settings.api_key or "none",
            base_url=settings.base_url,
            timeout=timeout,
            max_retries=0,
            http_client=SdkHttpClient(transport, timeout, max_answer)
            if transport
            else StockHttpClient(timeout, max_answer),
            headers={"Accept-Encoding": "identity", **settings.headers},
            default_query=dict(settings.query),
        )
        self._timeout = timeout
        self.unstreamed_timeout = httpx2.Timeout(
            settings.whole_timeout, connect=settings.connect_timeout
        )
        self._profile = profile
        self._transport = transport
        self._heartbeat = heartbeat
        self._max_answer = max_answer
        self._configured_header_names = frozenset(map(str.lower, settings.headers))
        self._has_own_authorization = "authorization" in self._configured_header_names

    def close(self) -> None:
        """Close idle connections; answers that are being read continue."""
        if self._transport is not None:
            self._transport.close()
        else:
            self.sdk.close()

    # -- requests for answers -------------------------------------------------------------------

    def post(self, protocol: str, body: Json, context: RequestContext) -> UpstreamResponse:
        """Send a request for an answer; return it unread.

        ``protocol`` is a key of ``urls``.  The caller closes the response.
        """
        streamed = bool(body.get("stream"))
        take_turn(context.body_size)
        url, content = self.urls[protocol], encode_body(body)
        take_turn(len(content))
        headers = self.build_headers(context, content)
        attempt = context.record_attempt(self.settings, self._profile.name, protocol, url, content)
        request = EncodedRequest(url, content, context.id)
        with self.errors, CancellationScope(context), attempt:
            if streamed and protocol in UPSTREAM_PROTOCOLS:
                unread = self.sdk.open_stream(protocol, request, headers, self._timeout)
            else:
                unread = self.sdk.send_unread(request, headers, self.unstreamed_timeout)
        attempt.record_head(unread)
        return UpstreamResponse(
            unread,
            protocol,
            streamed,
            self.settings,
            self._heartbeat,
            body.get("n") or 1,
            attempt.tap,
            self._max_answer,
        )

    def reopen(self, response_id: str, context: RequestContext) -> UpstreamResponse:
        """Open the stream of an existing background response, from its beginning."""
        url = f"{self.urls[RESPONSES.name]}/{quote(response_id, safe='')}"
        request = EncodedRequest(url, None, context.id)
        headers = self.build_headers(context)
        with self.errors, CancellationScope(context):
            unread = self.sdk.reopen_stream(response_id, request, headers, self._timeout)
        return UpstreamResponse(
            unread,
            RESPONSES.name,
            True,
            self.settings,
            self._heartbeat,
            max_answer=self._max_answer,
        )

    def cancel(self, response_id: str, context: RequestContext) -> None:
        """Cancel a background response."""
        url = f"{self.urls[RESPONSES.name]}/{quote(response_id, safe='')}/cancel"
        headers = self.build_headers(context)
        options: Any = {"headers": headers, "timeout": _CANCEL_TIMEOUT_SECONDS}
        with self.errors, CancellationScope(context):
            self.sdk.post(url, cast_to=httpx2.Response, options=options)

    # -- other requests -------------------------------------------------------------------------

    def get_models(self, timeout: float, client_key: str | None) -> bytes:
        """Return the body of the upstream's list of models."""
        options: Any = {"timeout": timeout, "headers": self.build_auth_headers(client_key)}
        with self.errors:
            response: Any = self.sdk.get(
                "/models",
                cast_to=httpx2.Response,
                options=options,
                stream=True,  # unread, because a list has a limit of its own
                stream_cls=RAW_STREAM,
            )
            return read_model_list(response, self._max_answer)

    def probe(self, method: str, url: str, client_key: str | None) -> httpx2.Response | None:
        """Send a request without content; return its response with any status, or ``None``."""
        send: Any = self.sdk.get if method == "GET" else self.sdk.post
        options = {
            "timeout": _PROBE_TIMEOUT_SECONDS,
            "headers": self.build_auth_headers(client_key),
        }
        body: Json = {} if method == "GET" else {"body": {}}
        try:
            response: httpx2.Response = send(url, cast_to=httpx2.Response, options=options, **body)
        except openai.APIStatusError as error:
            return error.response
        except (openai.OpenAIError, httpx2.HTTPError, OSError):
            return None
        return response

    # -- headers --------------------------------------------------------------------------------

    def build_headers(self, context: RequestContext, content: bytes = b"") -> dict[str, Any]:
        """Build the headers of one request; the operator's headers replace the client's.

        The client's ``Idempotency-Key`` applies to one body, so other bodies of the same request,
        such as the request for a summary, are sent without it, and so are all bodies of a composed
        answer.  Clients that share the forwarder's key may choose the same value, so it is
        replaced by a hash that differs for each client.
        """
        headers = {
            name: value
            for name, value in context.collect_upstream_headers().items()
            if name.lower() not in self._configured_header_names
        }
        if IDEMPOTENCY_KEY in headers:
            if context.is_answer_composed or not context.record_first_body(content):
                del headers[IDEMPOTENCY_KEY]
            elif context.account_id and not self.settings.passthrough_key:
                text = f"{context.account_id} {headers[IDEMPOTENCY_KEY]}"
                headers[IDEMPOTENCY_KEY] = hashlib.sha256(text.encode()).hexdigest()
        return {**headers, **self.build_auth_headers(context.client_key)}

    def build_auth_headers(self, client_key: str | None) -> dict[str, Any]:
        """Build the authentication headers, which omit the SDK's own header in each request."""
        if self._has_own_authorization:
            return _OMITTED_SDK_HEADERS
        key = client_key if self.settings.passthrough_key else self.settings.api_key
        if self.settings.passthrough_key and is_key_identity(client_key):
            raise Unsupported(
                f"The upstream '{self.settings.name}' needs the client's own key, but this "
                "client uses a key of the forwarder.",
                code="upstream_needs_client_key",
            )
        header = self._profile.key_header
        if key and not header:
            return {**_OMITTED_SDK_HEADERS, "Authorization": f"Bearer {key}"}
        return {
            **_OMITTED_SDK_HEADERS,
            "Authorization": Omit(),
            **({header: key} if key and header else {}),
        }


def join_url(base_url: str, path: str) -> str:
    """Join a path to the base URL; a path with a leading slash starts at the host's root."""
    if not path.startswith("/"):
        return f"{base_url}/{path}"
    url = urlsplit(base_url)
    return f"{url.scheme}://{url.netloc}{path}"


def encode_body(body: Json) -> bytes:
    """Encode a request body.  Raises InvalidRequest if it is nested too deeply."""
    try:
        return orjson.dumps(body)
    except TypeError:  # parsed JSON can fail only because of its depth
        raise InvalidRequest("The request is nested too deeply.", code="invalid_json") from None
