"""The client of one upstream: its handlers, and the conversion of its errors.

The official SDK makes every request (authentication, headers, time-outs, error classes) and returns
the unread response; bodies and events stay JSON (`sdk_client`).  The SDK's retries are off: they
sleep without noticing that the client disconnected, have no budget, appear in no metric, and end
with the status line.  `forwarder.upstream.resilience` retries instead.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import IO, Any, NamedTuple
from urllib.parse import quote, urlsplit
from urllib.request import getproxies

import httpx2
import openai
import orjson
from openai import Omit, Stream

from forwarder.config.settings import UpstreamSettings
from forwarder.context.redaction import redact_headers, redact_secrets
from forwarder.context.request_context import RequestContext, Route
from forwarder.core.cancellation import CancellationScope
from forwarder.core.client_headers import IDEMPOTENCY_KEY
from forwarder.core.data_urls import Blob
from forwarder.core.error_classification import read_error
from forwarder.core.errors import (
    InvalidRequest,
    NotFound,
    UpstreamConnectTimeout,
    UpstreamError,
    UpstreamKeyRefused,
    UpstreamMisconfigured,
    UpstreamProtocolError,
    UpstreamRefused,
    UpstreamTimeout,
    UpstreamUnreachable,
    shorten_value,
)
from forwarder.core.large_bodies import take_turn
from forwarder.core.types import Batch, Handler, Json
from forwarder.core.types import EventStream as Batches
from forwarder.protocols.chat import CHAT
from forwarder.protocols.registry import EMBEDDINGS, UPSTREAM_PROTOCOLS
from forwarder.protocols.responses import RESPONSES
from forwarder.protocols.stream_end import MALFORMED_EVENT_ERRORS, malformed_event
from forwarder.providers import (
    PASSTHROUGH_PROFILE,
    PROFILES,
    Profile,
    adapt_request,
    adapt_response,
    apply_model_overrides,
    select_profile,
)
from forwarder.providers.learn import REQUEST_ERROR_STATUSES, InferredQuirk, infer_quirk
from forwarder.providers.learned_cache import LearnedQuirks, serialize_changes
from forwarder.upstream.base_url import ABSENT_STATUSES, find_missing_path, has_version
from forwarder.upstream.key_refusal import (
    describe_key_refusal,
    describe_refused_key,
    is_key_refusal,
)
from forwarder.upstream.response import UpstreamResponse, parse_model_list, select_client_headers
from forwarder.upstream.sdk_client import DEFAULT_OPTIONS, EncodedRequest, SdkClient
from forwarder.upstream.transport.answer_limits import (
    MAX_ANSWER_BYTES,
    UnreadableAnswer,
    read_model_list,
)
from forwarder.upstream.transport.connection_errors import describe_connection_error, find_proxy
from forwarder.upstream.transport.sdk_http_client import SdkHttpClient, StockHttpClient

REASONING_INCLUDED_HEADER = "x-reasoning-included"
"""Response header: the reported usage includes the reasoning of earlier turns."""

log = logging.getLogger("forwarder.upstream")

_PROBE_CACHE_SECONDS = 60.0
"""Seconds for which the check of the base URL is cached."""

_PROBE_TIMEOUT_SECONDS = 5.0

_KEY_REFUSAL_LOG_SECONDS = 600.0
"""Minimum seconds between two log entries about a refused key, if some requests succeed."""

_TLS_REQUIRED_PATTERN = re.compile(
    r"plain http.{0,40}(https|ssl)|http request to an https", re.IGNORECASE
)
"""The errors of servers that get plain HTTP on a TLS port."""

_CANCEL_TIMEOUT_SECONDS = 10.0
"""Seconds that the cancellation of a background response waits for the upstream."""

_MAX_CACHED_MODELS = 256
"""How many profiles of models are cached."""


class MultipartForm(NamedTuple):
    """A form with files: ``fields`` as text; ``files`` as field and (name, content, type)."""

    fields: Mapping[str, str]
    files: list[tuple[str, tuple[str, IO[bytes], str]]]


class PassthroughResponse(NamedTuple):
    """An answer that is passed through unchanged; header names are in lower case."""

    status: int
    headers: Mapping[str, str]
    chunks: Iterator[bytes]


_OMITTED_SDK_HEADERS: dict[str, Any] = {
    "X-Stainless-Retry-Count": Omit(),
    "X-Stainless-Read-Timeout": Omit(),
}
"""Headers that the SDK adds unless the request omits them."""


class ErrorConversion:
    """Context manager that replaces exceptions by those that ``convert`` returns."""

    def __init__(self, convert: Callable[[BaseException], UpstreamError | None]) -> None:
        self._convert = convert

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        converted = self._convert(error) if error is not None else None
        if converted is not None:
            raise converted from None


class PreviewedRequest(NamedTuple):
    """A request as it would be sent: URL (without query), provider profile and body."""

    url: str
    profile: Profile
    body: Json


class Upstream:
    """The client of one upstream, with its own SDK client and connections."""

    def __init__(
        self,
        settings: UpstreamSettings,
        transport: httpx2.BaseTransport | None,
        heartbeat: float,
        max_answer: int = MAX_ANSWER_BYTES,
    ) -> None:
        self.settings = settings
        self.profile: Profile = select_profile(
            settings.provider, settings.base_url, settings.quirks
        )
        self.learned_quirks = LearnedQuirks()
        self._select_profile = functools.lru_cache(_MAX_CACHED_MODELS)(
            functools.partial(apply_model_overrides, self.profile)
        )
        self._heartbeat = heartbeat
        self._max_answer = max_answer
        self._transport = transport
        self._error_conversion = ErrorConversion(self._convert_error)
        self.key_refusal: str | None = None
        self.logs_key_refusal = True
        self.includes_reasoning = False
        self._key_refusal_logged_at = float("-inf")
        self._missing_path: str | None = None
        self._probed_at = float("-inf")
        # Hosts of registered models are never called through a proxy.
        self._proxies = {} if settings.registered else getproxies()
        self._configured_header_names = frozenset(map(str.lower, settings.headers))
        self._has_own_authorization = "authorization" in self._configured_header_names
        timeout = httpx2.Timeout(settings.first_byte_timeout, connect=settings.connect_timeout)
        self._timeout = timeout
        self._unstreamed_timeout = httpx2.Timeout(
            settings.whole_timeout, connect=settings.connect_timeout
        )
        # Absolute URLs: joining paths with the base URL takes the SDK a tenth of a call.
        self._urls = {
            CHAT.name: join_url(settings.base_url, self.profile.chat_path),
            RESPONSES.name: join_url(settings.base_url, self.profile.responses_path),
            "compact": join_url(settings.base_url, f"{self.profile.responses_path}/compact"),
            EMBEDDINGS.name: join_url(settings.base_url, "embeddings"),
        }
        self._client = SdkClient(
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

    def close(self) -> None:
        """Close idle connections; answers that are being read continue."""
        if self._transport is not None:
            self._transport.close()
        else:
            self._client.close()

    def make_handler(self, route: Route, client: str, context: RequestContext) -> Handler:
        """Make the handler that calls this upstream in ``route.protocol``.

        ``client`` is the client's protocol.  The handler connects before it returns; its response
        is closed with ``context``.
        """

        def handle_request(request: Json) -> Batches:
            body, profile = self._prepare_request(request, route, client, context)
            if context.followed_response_id is not None:
                response = self._reopen_response(context.followed_response_id, context)
                return self._read_response(response, body, route.protocol, profile, context)
            try:
                return self.send(body, route.protocol, profile, context)
            except UpstreamRefused as refusal:
                sent = adapt_body(body, route.protocol, profile, context)
                quirk = infer_quirk(refusal, route.protocol, sent, profile)
                if quirk is None:
                    raise
                return self._retry_with_quirk(body, route, quirk, profile, refusal, context)

        return handle_request

    def make_compaction_handler(self, route: Route, context: RequestContext) -> Handler:
        """Make the handler for compaction; its stream is one event, the whole answer."""

        def handle_request(request: Json) -> Batches:
            body, profile = self._prepare_request(request, route, RESPONSES.name, context)
            body = adapt_body(body, RESPONSES.name, profile, context)
            return self._send_unstreamed("compact", body, context)

        return handle_request

    def make_embeddings_handler(self, route: Route, context: RequestContext) -> Handler:
        """Make the handler for embeddings; its stream is one event, the whole answer.

        The handler raises NotFound if the upstream has no embeddings.
        """

        def handle_request(request: Json) -> Batches:
            body = {**request, "model": route.model}
            try:
                return self._send_unstreamed(EMBEDDINGS.name, body, context)
            except UpstreamRefused as refusal:
                if refusal.status in ABSENT_STATUSES and "model" not in refusal.message.lower():
                    raise NotFound(
                        f"The upstream '{self.settings.name}' has no embeddings.",
                        code="no_embeddings",
                    ) from refusal
                raise

        return handle_request

    def preview(
        self, request: Json, route: Route, client: str, context: RequestContext
    ) -> PreviewedRequest:
        """Return the request that `make_handler` would send for ``request``, without sending it."""
        body, profile = self._prepare_request(request, route, client, context)
        sent = adapt_body(body, route.protocol, profile, context)
        encode_body({"request": sent})  # raises if the preview, one level deeper, is too deep
        return PreviewedRequest(self._urls[route.protocol].partition("?")[0], profile, sent)

    def _prepare_request(
        self, request: Json, route: Route, client: str, context: RequestContext
    ) -> tuple[Json, Profile]:
        """Return the body for the upstream, and the profile that adapts it."""
        # The generic profile adapts a chat client's own chat body only by learned quirks.
        is_passthrough = (
            client == route.protocol
            and UPSTREAM_PROTOCOLS[client].passes_unadapted
            and not context.has_converted_body
            and self.profile == PROFILES["generic"]
        )
        base = PASSTHROUGH_PROFILE if is_passthrough else None
        return {**request, "model": route.model}, self.get_profile(route.model, base)

    def get_profile(self, model: str, base: Profile | None = None) -> Profile:
        """Return the profile for a model (or ``base``), changed by the learned quirks."""
        return self.learned_quirks.apply_to(model, base or self._select_profile(model))

    def send(self, body: Json, protocol: str, profile: Profile, context: RequestContext) -> Batches:
        """Send a request that is adapted to ``profile``; return its answer.

        The answer has begun when this returns, and is closed with ``context``.
        """

        def start_response() -> Batches:
            sent = adapt_body(body, protocol, profile, context)
            response = self._post_request(protocol, sent, context)
            return self._read_response(response, body, protocol, profile, context)

        return self._with_settings_check(start_response, context.client_key)

    def _send_unstreamed(self, protocol: str, body: Json, context: RequestContext) -> Batches:
        """Send a request whose answer is never streamed; return the answer as one event."""

        def start_response() -> Batches:
            response = self._post_request(protocol, body, context)
            context.cleanup.add(response.close)
            context.reply_headers = response.headers
            return self._await_first_batch(response, response.iter_batches())

        return self._with_settings_check(start_response, context.client_key)

    def _with_settings_check(
        self, start_response: Callable[[], Batches], client_key: str | None
    ) -> Batches:
        """Start a response and record whether the upstream accepts the key.

        Raises UpstreamMisconfigured if the base URL is incomplete.
        """
        try:
            answer = start_response()
        except UpstreamKeyRefused as refusal:
            self.key_refusal = refusal.message
            raise
        except (UpstreamRefused, UpstreamProtocolError) as error:
            if not isinstance(error, UpstreamRefused) or error.status in ABSENT_STATUSES:
                self._check_base_url(client_key)
            raise
        self.key_refusal = None
        self.logs_key_refusal = True
        return answer

    def _read_response(
        self,
        response: UpstreamResponse,
        body: Json,
        protocol: str,
        profile: Profile,
        context: RequestContext,
    ) -> Batches:
        """Return the events of a response after reading the first batch."""
        context.cleanup.add(response.close)
        context.reply_headers = response.headers
        if protocol == RESPONSES.name:
            self.includes_reasoning = REASONING_INCLUDED_HEADER in response.headers
        stream = adapt_response(
            response.iter_batches(), body, protocol, profile, response.saw_done_marker
        )
        require_complete = UPSTREAM_PROTOCOLS[protocol].require_complete
        return self._await_first_batch(response, require_complete(stream, response.saw_done_marker))

    def _await_first_batch(self, response: UpstreamResponse, stream: Batches) -> Batches:
        """Read the first batch of ``stream``; if that fails, close the response at once."""
        try:
            first = next(stream, None)
        except BaseException as error:
            response.close()
            if isinstance(error, MALFORMED_EVENT_ERRORS):
                raise malformed_event() from error
            if isinstance(error, UpstreamRefused) and self._is_own_key_refused(error):
                raise self._make_key_refusal(error) from None
            raise
        return stream if first is None else self._watch_for_key_refusal(first, stream)

    def _watch_for_key_refusal(self, first: Batch, stream: Batches) -> Batches:
        """Yield ``first`` and the rest of the stream, which may still refuse the key."""
        try:
            yield first
            yield from stream
        except UpstreamRefused as error:
            if not self._is_own_key_refused(error):
                raise
            refusal = self._make_key_refusal(error)
            self.key_refusal = refusal.message
            raise refusal from None

    def _retry_with_quirk(
        self,
        body: Json,
        route: Route,
        quirk: InferredQuirk,
        profile: Profile,
        refusal: UpstreamRefused,
        context: RequestContext,
    ) -> Batches:
        """Retry with an inferred quirk, and remember it if it helped."""
        try:
            stream = self.send(body, route.protocol, replace(profile, **quirk.changes), context)
        except UpstreamRefused as second_refusal:
            if second_refusal.message == refusal.message:
                raise refusal from None
            # The quirk helped, and the request has a further problem.
            if second_refusal.status in REQUEST_ERROR_STATUSES:
                self._learn_quirk(route.model, quirk)
            raise
        self._learn_quirk(route.model, quirk)
        return stream

    def _learn_quirk(self, model: str, quirk: InferredQuirk) -> None:
        if quirk.is_lasting:
            self.learned_quirks.remember(model, quirk.changes)
            log.warning(
                "upstream '%s': learned a quirk of '%s': %s",
                self.settings.name,
                shorten_value(model),
                serialize_changes(quirk.changes),
                extra={"event": "quirk_learned"},
            )

    def list_models(self, timeout: float, client_key: str | None = None) -> list[Json]:
        """Return the upstream's models as JSON objects, each with an ``id``.

        ``client_key`` is used if the upstream gets the clients' own keys.  Raises
        UpstreamMisconfigured if the base URL is incomplete.
        """
        options: Any = {"timeout": timeout, "headers": self._build_auth_headers(client_key)}
        try:
            with self._error_conversion:
                response = self._client.get(
                    "/models",
                    cast_to=httpx2.Response,
                    options=options,
                    stream=True,  # unread, because a list has a limit of its own
                    stream_cls=Stream[object],
                )
                body = read_model_list(response, self._max_answer)
            models = parse_model_list(body)
        except (UpstreamRefused, UpstreamProtocolError) as error:
            if not isinstance(error, UpstreamRefused) or error.status in ABSENT_STATUSES:
                self._check_base_url(client_key)
            raise
        if not models:
            self._check_base_url(client_key)
        return models

    def _check_base_url(self, client_key: str | None) -> None:
        """Raise UpstreamMisconfigured if the API is below the base URL instead of at it."""
        base = self.settings.base_url
        if has_version(base):
            return
        if time.monotonic() - self._probed_at > _PROBE_CACHE_SECONDS:
            self._probed_at = time.monotonic()
            calls = [self._urls[api] for api in self.settings.apis]
            probe = functools.partial(self._send_probe, client_key)
            self._missing_path = find_missing_path(base, calls, probe)
        if self._missing_path:
            setting = self._name_setting("BASE_URL", "remote_host")
            host = urlsplit(base).netloc  # without the path, which may contain a key
            raise UpstreamMisconfigured(
                f"The upstream '{self.settings.name}' on {host} has no API at its base URL "
                f"({setting}): the base URL lacks '{self._missing_path}' at its end."
            )

    def _send_probe(self, client_key: str | None, method: str, url: str) -> httpx2.Response | None:
        """Send a request without content; return its response with any status, or ``None``."""
        send: Any = self._client.get if method == "GET" else self._client.post
        options = {
            "timeout": _PROBE_TIMEOUT_SECONDS,
            "headers": self._build_auth_headers(client_key),
        }
        body: Json = {} if method == "GET" else {"body": {}}
        try:
            response: httpx2.Response = send(url, cast_to=httpx2.Response, options=options, **body)
        except openai.APIStatusError as error:
            return error.response
        except (openai.OpenAIError, httpx2.HTTPError, OSError):
            return None
        return response

    def _name_setting(self, suffix: str, parameter: str) -> str:
        """Return the name of a setting's variable, or the parameter of a registered model."""
        return parameter if self.settings.registered else self.settings.name_variable(suffix)

    def _post_request(self, protocol: str, body: Json, context: RequestContext) -> UpstreamResponse:
        streamed = bool(body.get("stream"))
        take_turn(context.body_size)
        url, content = self._urls[protocol], encode_body(body)
        take_turn(len(content))
        headers = self._build_headers(context, content)
        attempt = context.record_attempt(self.settings, self.profile.name, protocol, url, content)
        with self._error_conversion, CancellationScope(context), attempt:
            if streamed and protocol in UPSTREAM_PROTOCOLS:
                request = EncodedRequest(url, content, context.id)
                unread = self._client.open_stream(protocol, request, headers, self._timeout)
            else:
                unread = self._client.post(
                    url,
                    content=content,
                    cast_to=httpx2.Response,  # the unread response, whatever the stream's class
                    options={
                        **DEFAULT_OPTIONS,
                        "headers": headers,
                        "idempotency_key": context.id,
                        "timeout": self._unstreamed_timeout,
                    },
                    stream=True,
                    stream_cls=Stream[object],
                )
        attempt.record_head(unread)
        choices = body.get("n") or 1
        return UpstreamResponse(
            unread,
            protocol,
            streamed,
            self.settings,
            self._heartbeat,
            choices,
            attempt.tap,
            self._max_answer,
        )

    def _reopen_response(self, response_id: str, context: RequestContext) -> UpstreamResponse:
        """Open the stream of an existing background response, from its beginning."""
        url = f"{self._urls[RESPONSES.name]}/{quote(response_id, safe='')}"
        request = EncodedRequest(url, None, context.id)
        headers = self._build_headers(context)
        with self._error_conversion, CancellationScope(context):
            unread = self._client.reopen_stream(response_id, request, headers, self._timeout)
        return UpstreamResponse(unread, RESPONSES.name, True, self.settings, self._heartbeat)

    def cancel_response(self, response_id: str, context: RequestContext) -> None:
        """Cancel a background response of this upstream."""
        with self._error_conversion, CancellationScope(context):
            self._client.post(
                f"{self._urls[RESPONSES.name]}/{quote(response_id, safe='')}/cancel",
                cast_to=httpx2.Response,
                options={
                    "headers": self._build_headers(context),
                    "timeout": _CANCEL_TIMEOUT_SECONDS,
                },
            )

    def _build_headers(self, context: RequestContext, content: bytes = b"") -> dict[str, Any]:
        """Build the headers of one request; the operator's headers replace the client's.

        The client's ``Idempotency-Key`` applies to one body, so other bodies of the same request,
        such as the request for a summary, are sent without it.  Clients that share the forwarder's
        key may choose the same value, so it is replaced by a hash that differs for each client.
        """
        headers = {
            name: value
            for name, value in context.trace_headers().items()
            if name.lower() not in self._configured_header_names
        }
        if IDEMPOTENCY_KEY in headers:
            if not context.is_first_body(content):
                del headers[IDEMPOTENCY_KEY]
            elif context.account_id and not self.settings.passthrough_key:
                text = f"{context.account_id} {headers[IDEMPOTENCY_KEY]}"
                headers[IDEMPOTENCY_KEY] = hashlib.sha256(text.encode()).hexdigest()
        return {**headers, **self._build_auth_headers(context.client_key)}

    def _build_auth_headers(self, client_key: str | None) -> dict[str, Any]:
        """Build the authentication headers; only a request can omit the SDK's own header."""
        if self._has_own_authorization:
            return _OMITTED_SDK_HEADERS
        key = client_key if self.settings.passthrough_key else self.settings.api_key
        header = self.profile.key_header
        if key and not header:
            return {**_OMITTED_SDK_HEADERS, "Authorization": f"Bearer {key}"}
        return {
            **_OMITTED_SDK_HEADERS,
            "Authorization": Omit(),
            **({header: key} if key and header else {}),
        }

    # -- files ----------------------------------------------------------------------------------

    def upload(self, blob: Blob, client_key: str | None) -> str:
        """Store a file; return the upstream's id of it."""
        with self._error_conversion:
            file = self._client.files.create(
                file=(blob.name or "file", blob.data, blob.type),
                purpose="user_data",
                extra_headers=self._build_auth_headers(client_key),
            )
        return file.id

    def delete_file(self, file_id: str, client_key: str | None) -> None:
        """Delete a stored file."""
        with self._error_conversion:
            self._client.files.delete(file_id, extra_headers=self._build_auth_headers(client_key))

    def passthrough(
        self,
        method: str,
        path: str,
        query: Json,
        context: RequestContext,
        content: MultipartForm | Json | None = None,
    ) -> PassthroughResponse:
        """Send a GET, POST or DELETE below the base URL; the answer is closed with ``context``.

        ``content`` is a form, or a value to send as JSON.
        """
        headers = {**self._build_headers(context), "Accept": "*/*"}
        arguments: Json = {}
        if isinstance(content, MultipartForm):
            headers["Content-Type"] = "multipart/form-data"
            arguments |= {"body": content.fields, "files": content.files}
        elif content is not None:
            arguments["body"] = content
        if method != "DELETE":  # the SDK cannot return an unread answer to a DELETE
            arguments |= {"stream": True, "stream_cls": Stream[object]}
        send: Any = getattr(self._client, method.lower())
        options: Json = {"headers": headers, "params": query}
        if content is not None:
            options["timeout"] = self._unstreamed_timeout
        with self._error_conversion, CancellationScope(context):
            response = send(path, cast_to=httpx2.Response, options=options, **arguments)
        context.cleanup.add(response.close)
        context.reply_headers = self._select_client_headers(response.headers)
        latin = "latin-1"  # WSGI's encoding of headers keeps their bytes unchanged
        answer_headers = {k.decode(latin).lower(): v.decode(latin) for k, v in response.headers.raw}
        answer_headers = redact_headers(answer_headers, self.settings)
        return PassthroughResponse(
            response.status_code, answer_headers, self._iter_chunks(response)
        )

    def _select_client_headers(self, headers: httpx2.Headers) -> dict[str, str]:
        return redact_headers(select_client_headers(headers), self.settings)

    def _iter_chunks(self, response: httpx2.Response) -> Iterator[bytes]:
        with self._error_conversion:
            yield from response.iter_bytes()

    # -- failures -------------------------------------------------------------------------------

    def _convert_error(self, error: BaseException) -> UpstreamError | None:
        """Convert an error of the SDK or of its HTTP client; ``None`` for other exceptions."""
        unreadable = error if isinstance(error, UnreadableAnswer) else error.__cause__
        if isinstance(unreadable, UnreadableAnswer):
            return UpstreamProtocolError(f"The upstream '{self.settings.name}' {unreadable}.")
        if isinstance(error, openai.APIStatusError):
            return self._convert_status_error(error)
        if isinstance(error, openai.APITimeoutError):
            return self._make_timeout_error(error.__cause__, error.request)
        if isinstance(error, openai.APIConnectionError):
            return self._make_connection_error(error.__cause__ or error)
        if isinstance(error, httpx2.TimeoutException):  # the SDK does not wrap a stalled error body
            return self._make_timeout_error(error)
        if isinstance(error, httpx2.TransportError | OSError):  # nor a broken one
            return self._make_connection_error(error)
        if not isinstance(error, openai.OpenAIError):
            return None
        return UpstreamProtocolError(
            f"The upstream '{self.settings.name}' could not be used: {error}"
        )

    def _convert_status_error(self, error: openai.APIStatusError) -> UpstreamError:
        status = error.status_code
        if status < 400:
            return UpstreamProtocolError(
                f"The upstream '{self.settings.name}' answered {status}, a redirect; "
                "set its base URL to the target of the redirect."
            )
        proxy = find_proxy(self.settings.base_url, self._proxies) if status == 407 else None
        if proxy:
            return self._make_unreachable_error(
                f"the proxy {proxy} wants a user and password (407)"
            )
        is_plain_http = self.settings.base_url.startswith("http://")
        if (
            status == 400
            and is_plain_http
            and _TLS_REQUIRED_PATTERN.search(error.response.text[:1000])
        ):
            return UpstreamMisconfigured(
                f"The upstream '{self.settings.name}' expects TLS: its base URL "
                f"({self._name_setting('BASE_URL', 'remote_host')}) must begin with https://."
            )
        refusal = UpstreamRefused(
            status,
            self._read_error_object(error),
            self._select_client_headers(error.response.headers),
        )
        return self._make_key_refusal(refusal) if self._is_own_key_refused(refusal) else refusal

    def _is_own_key_refused(self, refusal: UpstreamRefused) -> bool:
        """Return whether the upstream refused the forwarder's key, not the client's."""
        return not self.settings.passthrough_key and is_key_refusal(refusal)

    def _make_key_refusal(self, refusal: UpstreamRefused) -> UpstreamKeyRefused:
        """Create the error for a refused key; log it once, not for every request."""
        error = describe_key_refusal(refusal, self.settings)
        now = time.monotonic()
        waited = now - self._key_refusal_logged_at > _KEY_REFUSAL_LOG_SECONDS
        if self.logs_key_refusal and waited:
            self.logs_key_refusal, self._key_refusal_logged_at = False, now
            name = self.settings.name
            # Without the upstream's message, which may quote the client's request.
            detail = describe_refused_key(self.settings)
            log.error({"event": "upstream_key_refused", "upstream": name, "detail": detail})
        return error

    def _read_error_object(self, error: openai.APIStatusError) -> Json:
        # The SDK's body lacks a code beside the error object; it is None if the body is unread.
        text = "" if error.body is None else error.response.text.strip()
        if not text or text.startswith("<"):
            return {"message": f"The upstream answered {error.status_code} without a JSON body."}
        fields = redact_secrets(read_error(text), self.settings)
        name = error.response.headers.get("x-amzn-errortype")  # AWS names the error only here
        if name and "code" not in fields:
            fields["code"] = name.partition(":")[0]
        if fields.keys() == {"message"}:  # cut only after redaction, or half a secret could remain
            fields["message"] = fields["message"][:500]
        return {**fields, "message": fields["message"] or str(error.status_code)}

    def _make_timeout_error(
        self, error: BaseException | None, request: httpx2.Request | None = None
    ) -> UpstreamTimeout:
        limits = request.extensions.get("timeout", {}) if request is not None else {}
        name = self.settings.name
        if isinstance(error, httpx2.PoolTimeout):
            return UpstreamConnectTimeout(f"All connections to the upstream '{name}' are in use.")
        if isinstance(error, httpx2.ConnectTimeout):
            proxy = find_proxy(self.settings.base_url, self._proxies)
            through = f" through the proxy {proxy}" if proxy else ""
            within = describe_limit(limits, "connect")
            return UpstreamConnectTimeout(
                f"The upstream '{name}' could not be connected to{through} {within}."
            )
        return UpstreamTimeout(
            f"The upstream '{name}' did not answer {describe_limit(limits, 'read')}."
        )

    def _make_connection_error(self, error: BaseException) -> UpstreamUnreachable:
        return self._make_unreachable_error(
            describe_connection_error(error, self.settings.base_url, self._proxies)
        )

    def _make_unreachable_error(self, reason: str) -> UpstreamUnreachable:
        name = self.settings.name
        return UpstreamUnreachable(f"The upstream '{name}' cannot be reached: {reason}.")


def describe_limit(limits: Mapping[str, Any], kind: str) -> str:
    """Return the exceeded time-out as a phrase."""
    seconds = limits.get(kind)
    return f"within {seconds:g} seconds" if seconds else "in time"


def adapt_body(body: Json, protocol: str, profile: Profile, context: RequestContext) -> Json:
    return (
        body
        if profile is PASSTHROUGH_PROFILE
        else adapt_request(body, protocol, profile, context.loss_report)
    )


def join_url(base_url: str, path: str) -> str:
    """Join a path to the base URL; a path with a leading slash starts at the host's root."""
    if not path.startswith("/"):
        return f"{base_url}/{path}"
    url = urlsplit(base_url)
    return f"{url.scheme}://{url.netloc}{path}"


def encode_body(body: Json) -> bytes:
    try:
        return orjson.dumps(body)
    except TypeError:  # a value from parsed JSON can fail only by its depth
        raise InvalidRequest("The request is nested too deeply.", code="invalid_json") from None
