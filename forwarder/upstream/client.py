"""The only importer of the openai SDK: an upstream's calls, and its failures as our errors.

The SDK makes every request (authentication, headers, time-outs, error classes) and hands over the
unread response; its typed layer is not used for bodies and events, which stay JSON.  Its retries
are switched off: they sleep where a client's leaving goes unnoticed, know no budget, count for
nobody, and end with the status line.  forwarder/resilience has its own.
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
from forwarder.context.request_context import RequestContext
from forwarder.context.route import Route
from forwarder.context.secrets import redact_headers, redact_secrets
from forwarder.core.cancellation import CancellationScope
from forwarder.core.client_headers import IDEMPOTENCY_KEY
from forwarder.core.data_urls import Blob
from forwarder.core.error_kinds import read_error
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
from forwarder.protocols.stream_end import (
    COMPLETENESS_CHECKS,
    MALFORMED_EVENT_ERRORS,
    malformed_event,
)
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
from forwarder.upstream.transport.answer_limits import MAX_ANSWER_BYTES, UnreadableAnswer
from forwarder.upstream.transport.connection_errors import describe_connection_error, find_proxy
from forwarder.upstream.transport.sdk_http_client import SdkHttpClient, StockHttpClient

REASONING_INCLUDED_HEADER = "x-reasoning-included"
"""Says that the reported usage counts the reasoning of earlier turns."""

log = logging.getLogger("forwarder.upstream")

_PROBE_CACHE_SECONDS = 60.0
"""How long it is remembered whether the base URL lacks a part."""

_PROBE_TIMEOUT_SECONDS = 5.0

_KEY_REFUSAL_LOG_SECONDS = 600.0
"""At least so long between two log entries about a refused key, when some requests succeed."""

_TLS_REQUIRED_PATTERN = re.compile(
    r"plain http.{0,40}(https|ssl)|http request to an https", re.IGNORECASE
)
"""What servers say to plain HTTP on a port for TLS."""

_CANCEL_TIMEOUT_SECONDS = 10.0
"""Seconds for which a client that cancels a response waits for the upstream that makes it."""

_MAX_CACHED_MODELS = 256
"""How many models' profiles are kept ready."""


class MultipartForm(NamedTuple):
    """A form with files: field -> text, and for each file its field and (name, content, type)."""

    fields: Mapping[str, str]
    files: list[tuple[str, tuple[str, IO[bytes], str]]]


class PassthroughResponse(NamedTuple):
    """An answer that is handed on as it comes; the headers' names are small."""

    status: int
    headers: Mapping[str, str]
    chunks: Iterator[bytes]


_OMITTED_SDK_HEADERS: dict[str, Any] = {
    "X-Stainless-Retry-Count": Omit(),
    "X-Stainless-Read-Timeout": Omit(),
}
"""What the SDK adds to every request, unless the request leaves it out."""


class ErrorConversion:
    """Whatever fails within leaves as ours."""

    def __init__(self, ours: Callable[[BaseException], UpstreamError | None]) -> None:
        self._convert = ours

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        failure = self._convert(error) if error is not None else None
        if failure is not None:
            raise failure from None


class PreviewedRequest(NamedTuple):
    """What is posted for a request: where to (without key and query), as whose, and the body."""

    url: str
    profile: Profile
    body: Json


class Upstream:
    """One configured upstream: a client of its own, kept for the life of the process."""

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
        # A registered model's host is never asked through a proxy.
        self._proxies = {} if settings.registered else getproxies()
        self._configured_header_names = frozenset(map(str.lower, settings.headers))
        self._has_own_authorization = "authorization" in self._configured_header_names
        timeout = httpx2.Timeout(settings.first_byte_timeout, connect=settings.connect_timeout)
        self._timeout = timeout
        self._unstreamed_timeout = httpx2.Timeout(
            settings.whole_timeout, connect=settings.connect_timeout
        )
        # Whole URLs: joining each with the base would cost the SDK a tenth of a call.
        self._urls = {
            "chat": join_url(settings.base_url, self.profile.chat_path),
            "responses": join_url(settings.base_url, self.profile.responses_path),
            "compact": join_url(settings.base_url, f"{self.profile.responses_path}/compact"),
            "embeddings": join_url(settings.base_url, "embeddings"),
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
        """Close the connections that lie idle; answers that are being read go on."""
        if self._transport is not None:
            self._transport.close()

    def make_handler(self, route: Route, client: str, exchange: RequestContext) -> Handler:
        """The call of this upstream that speaks ``route.protocol``.

        It connects before it returns, and is closed with ``exchange``.
        """

        def handle_request(request: Json) -> Batches:
            body, profile = self._prepare_request(request, route, client, exchange)
            if exchange.followed_response_id is not None:
                reply = self._reopen_response(exchange.followed_response_id, exchange)
                return self._read_response(reply, body, route.protocol, profile, exchange)
            try:
                return self.send(body, route.protocol, profile, exchange)
            except UpstreamRefused as refusal:
                sent = adapt_body(body, route.protocol, profile, exchange)
                lesson = infer_quirk(refusal, route.protocol, sent, profile)
                if lesson is None:
                    raise
                return self._retry_with_quirk(body, route, lesson, profile, refusal, exchange)

        return handle_request

    def make_compaction_handler(self, route: Route, exchange: RequestContext) -> Handler:
        """The call that has this upstream compact; its stream is one event, the whole answer."""

        def handle_request(request: Json) -> Batches:
            body, profile = self._prepare_request(request, route, "responses", exchange)
            body = adapt_body(body, "responses", profile, exchange)
            return self._send_unstreamed("compact", body, exchange)

        return handle_request

    def make_embeddings_handler(self, route: Route, exchange: RequestContext) -> Handler:
        """The call that has this upstream embed; its stream is one event, the whole answer.

        Raises NotFound where the upstream has no embeddings.
        """

        def handle_request(request: Json) -> Batches:
            body = {**request, "model": route.model}
            try:
                return self._send_unstreamed("embeddings", body, exchange)
            except UpstreamRefused as refusal:
                if refusal.status in ABSENT_STATUSES and "model" not in refusal.message.lower():
                    raise NotFound(
                        f"The upstream '{self.settings.name}' has no embeddings.",
                        code="no_embeddings",
                    ) from refusal
                raise

        return handle_request

    def preview(
        self, request: Json, route: Route, client: str, exchange: RequestContext
    ) -> PreviewedRequest:
        """What `make_handler` would post for ``request``; nobody is called."""
        body, profile = self._prepare_request(request, route, client, exchange)
        sent = adapt_body(body, route.protocol, profile, exchange)
        encode_body({"request": sent})  # who is shown it gets it inside of something
        return PreviewedRequest(self._urls[route.protocol].partition("?")[0], profile, sent)

    def _prepare_request(
        self, request: Json, route: Route, client: str, exchange: RequestContext
    ) -> tuple[Json, Profile]:
        """The body, and the profile by which it is to be mended."""
        is_own = not exchange.has_converted_body
        known = (
            PASSTHROUGH_PROFILE if is_own and self._is_passthrough(client, route.protocol) else None
        )
        return {**request, "model": route.model}, self.get_profile(route.model, known)

    def get_profile(self, model: str, known: Profile | None = None) -> Profile:
        """What holds for a model: the profile, or the one that is ``known``, and the lessons."""
        return self.learned_quirks.apply_to(model, known or self._select_profile(model))

    def send(
        self, body: Json, protocol: str, profile: Profile, exchange: RequestContext
    ) -> Batches:
        """One request, as ``profile`` has it, and its answer, which ``exchange`` closes.

        The answer has begun when this returns; one that breaks before that is closed at once.
        """
        return self._with_settings_check(
            lambda: self._start_response(body, protocol, profile, exchange), exchange.client_key
        )

    def _send_unstreamed(self, protocol: str, body: Json, exchange: RequestContext) -> Batches:
        """The same for a request whose answer is never streamed; its stream is one event."""

        def start_response() -> Batches:
            reply = self._post_request(protocol, body, exchange)
            exchange.cleanup.add(reply.close)
            exchange.reply_headers = reply.headers
            return self._await_first_batch(reply, reply.iter_batches())

        return self._with_settings_check(start_response, exchange.client_key)

    def _with_settings_check(self, begin: Callable[[], Batches], client_key: str | None) -> Batches:
        """The answer that ``start_response`` gives.

        Notes whether the upstream accepts the key.  Raises UpstreamMisconfigured where the base URL
        lacks a part.
        """
        try:
            answer = begin()
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

    def _start_response(
        self, body: Json, protocol: str, profile: Profile, exchange: RequestContext
    ) -> Batches:
        reply = self._post_request(
            protocol, adapt_body(body, protocol, profile, exchange), exchange
        )
        return self._read_response(reply, body, protocol, profile, exchange)

    def _read_response(
        self,
        reply: UpstreamResponse,
        body: Json,
        protocol: str,
        profile: Profile,
        exchange: RequestContext,
    ) -> Batches:
        """The events of a reply, which has begun when this returns, and which is closed at once
        if it breaks before that.
        """
        exchange.cleanup.add(reply.close)
        exchange.reply_headers = reply.headers
        if protocol == "responses":
            self.includes_reasoning = REASONING_INCLUDED_HEADER in reply.headers
        stream = adapt_response(
            reply.iter_batches(), body, protocol, profile, reply.saw_done_marker
        )
        return self._await_first_batch(
            reply, COMPLETENESS_CHECKS[protocol](stream, reply.saw_done_marker)
        )

    def _await_first_batch(self, reply: UpstreamResponse, stream: Batches) -> Batches:
        """The stream of a reply with its first batch read; a reply that fails is closed."""
        try:
            first = next(stream, None)
        except BaseException as error:
            reply.close()
            if isinstance(error, MALFORMED_EVENT_ERRORS):
                raise malformed_event() from error
            if isinstance(error, UpstreamRefused) and self._is_own_key_refused(error):
                raise self._make_key_refusal(error) from None
            raise
        return stream if first is None else self._watch_for_key_refusal(first, stream)

    def _watch_for_key_refusal(self, first: Batch, stream: Batches) -> Batches:
        """``first`` and the stream after it, in which the key may still be refused."""
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
        lesson: InferredQuirk,
        profile: Profile,
        refusal: UpstreamRefused,
        exchange: RequestContext,
    ) -> Batches:
        """Once more, with the lesson; one that does not help is none."""
        try:
            stream = self.send(body, route.protocol, replace(profile, **lesson.changes), exchange)
        except UpstreamRefused as again:
            if again.message == refusal.message:
                raise refusal from None
            if again.status in REQUEST_ERROR_STATUSES:  # it helped, and there is more to learn
                self._learn_quirk(route.model, lesson)
            raise
        self._learn_quirk(route.model, lesson)
        return stream

    def _learn_quirk(self, model: str, lesson: InferredQuirk) -> None:
        if lesson.is_lasting:
            self.learned_quirks.remember(model, lesson.changes)
            name, changes = self.settings.name, serialize_changes(lesson.changes)
            log.warning("upstream '%s' taught about '%s': %s", name, shorten_value(model), changes)

    def _is_passthrough(self, client: str, protocol: str) -> bool:
        """A chat body of the client's own is mended only where that is known to be needed."""
        return client == protocol == "chat" and self.profile == PROFILES["generic"]

    def list_models(self, timeout: float, client_key: str | None = None) -> list[Json]:
        """What the upstream lists, as plain model objects; to a client's key where that is used.

        Raises UpstreamMisconfigured where the base URL lacks a part.
        """
        try:
            listed = self._fetch_models(timeout, client_key)
        except (UpstreamRefused, UpstreamProtocolError) as error:
            if not isinstance(error, UpstreamRefused) or error.status in ABSENT_STATUSES:
                self._check_base_url(client_key)
            raise
        if not listed:
            self._check_base_url(client_key)
        return listed

    def _fetch_models(self, timeout: float, client_key: str | None) -> list[Json]:
        with self._error_conversion:
            response = self._client.get(
                "/models",
                cast_to=httpx2.Response,
                options={"timeout": timeout, "headers": self._build_auth_headers(client_key)},
            )
        return parse_model_list(response.content)

    def _check_base_url(self, client_key: str | None) -> None:
        """Raise UpstreamMisconfigured if the API is not at the base URL, but below it."""
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
            host = urlsplit(base).netloc  # alone: a path may hold a key
            raise UpstreamMisconfigured(
                f"The upstream '{self.settings.name}' on {host} has no API at its base URL "
                f"({setting}): the base URL lacks '{self._missing_path}' at its end."
            )

    def _send_probe(self, client_key: str | None, method: str, url: str) -> httpx2.Response | None:
        """The answer to a request without content, whatever its status."""
        send: Any = self._client.get if method == "GET" else self._client.post
        options = {
            "timeout": _PROBE_TIMEOUT_SECONDS,
            "headers": self._build_auth_headers(client_key),
        }
        given: Json = {} if method == "GET" else {"body": {}}
        try:
            answer: httpx2.Response = send(url, cast_to=httpx2.Response, options=options, **given)
        except openai.APIStatusError as error:
            return error.response
        except (openai.OpenAIError, httpx2.HTTPError, OSError):
            return None
        return answer

    def _name_setting(self, suffix: str, parameter: str) -> str:
        """The variable of a setting, or the parameter with which a model was registered."""
        return parameter if self.settings.registered else self.settings.name_variable(suffix)

    def _post_request(
        self, protocol: str, body: Json, exchange: RequestContext
    ) -> UpstreamResponse:
        streamed = bool(body.get("stream"))
        take_turn(exchange.body_size)
        url, content = self._urls[protocol], encode_body(body)
        take_turn(len(content))
        headers = self._build_headers(exchange, content)
        attempt = exchange.record_attempt(self.settings, self.profile.name, protocol, url, content)
        with self._error_conversion, CancellationScope(exchange), attempt:
            if streamed and protocol in ("chat", "responses"):
                request = EncodedRequest(url, content, exchange.id)
                unread = self._client.open_stream(protocol, request, headers, self._timeout)
            else:
                unread = self._client.post(
                    url,
                    content=content,
                    cast_to=httpx2.Response,  # the unread response, whatever the stream's class
                    options={
                        **DEFAULT_OPTIONS,
                        "headers": headers,
                        "idempotency_key": exchange.id,
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

    def _reopen_response(self, response_id: str, exchange: RequestContext) -> UpstreamResponse:
        """The stream of a background response that this upstream makes, from its beginning."""
        url = f"{self._urls['responses']}/{quote(response_id, safe='')}"
        request = EncodedRequest(url, None, exchange.id)
        headers = self._build_headers(exchange)
        with self._error_conversion, CancellationScope(exchange):
            unread = self._client.reopen_stream(response_id, request, headers, self._timeout)
        return UpstreamResponse(unread, "responses", True, self.settings, self._heartbeat)

    def cancel_response(self, response_id: str, exchange: RequestContext) -> None:
        """Cancel a background response that this upstream makes."""
        with self._error_conversion, CancellationScope(exchange):
            self._client.post(
                f"{self._urls['responses']}/{quote(response_id, safe='')}/cancel",
                cast_to=httpx2.Response,
                options={
                    "headers": self._build_headers(exchange),
                    "timeout": _CANCEL_TIMEOUT_SECONDS,
                },
            )

    def _build_headers(self, exchange: RequestContext, content: bytes = b"") -> dict[str, Any]:
        """The headers of one request; those that the operator has set replace a client's.

        The client's ``Idempotency-Key`` is for one body.  Other bodies that are sent for the same
        exchange, such as the request for a summary, go without.  Clients that share the forwarder's
        key may choose the same one, so it is replaced by one that is different for each client.
        """
        given = exchange.trace_headers().items()
        own = {
            name: value
            for name, value in given
            if name.lower() not in self._configured_header_names
        }
        if IDEMPOTENCY_KEY in own and not exchange.is_first_body(content):
            del own[IDEMPOTENCY_KEY]
        elif IDEMPOTENCY_KEY in own and exchange.account_id and not self.settings.passthrough_key:
            text = f"{exchange.account_id} {own[IDEMPOTENCY_KEY]}"
            own[IDEMPOTENCY_KEY] = hashlib.sha256(text.encode()).hexdigest()
        return {**own, **self._build_auth_headers(exchange.client_key)}

    def _build_auth_headers(self, client_key: str | None) -> dict[str, Any]:
        """The headers that say who asks; the SDK lets its own be left out only by the request."""
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
        """Store a file; the upstream's id of it."""
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
        exchange: RequestContext,
        form: MultipartForm | None = None,
    ) -> PassthroughResponse:
        """Any GET, POST or DELETE below the base URL, and its answer, which ``exchange`` closes."""
        headers = {**self._build_headers(exchange), "Accept": "*/*"}
        given: Json = {}
        if form is not None:
            headers["Content-Type"] = "multipart/form-data"
            given |= {"body": form.fields, "files": form.files}
        if method != "DELETE":  # the SDK has no unread answers of these
            given |= {"stream": True, "stream_cls": Stream[object]}
        send: Any = getattr(self._client, method.lower())
        options = {"headers": headers, "params": query}
        with self._error_conversion, CancellationScope(exchange):
            response = send(path, cast_to=httpx2.Response, options=options, **given)
        exchange.cleanup.add(response.close)
        exchange.reply_headers = self._select_client_headers(response.headers)
        latin = "latin-1"  # as WSGI has it: byte for byte what the upstream said
        said = {k.decode(latin).lower(): v.decode(latin) for k, v in response.headers.raw}
        said = redact_headers(said, self.settings)
        return PassthroughResponse(response.status_code, said, self._iter_chunks(response))

    def _select_client_headers(self, headers: httpx2.Headers) -> dict[str, str]:
        return redact_headers(select_client_headers(headers), self.settings)

    def _iter_chunks(self, response: httpx2.Response) -> Iterator[bytes]:
        with self._error_conversion:
            yield from response.iter_bytes()

    # -- failures -------------------------------------------------------------------------------

    def _convert_error(self, error: BaseException) -> UpstreamError | None:
        """The error of the SDK or of its HTTP as ours; ``None`` for any other."""
        refused = error if isinstance(error, UnreadableAnswer) else error.__cause__
        if isinstance(refused, UnreadableAnswer):
            return UpstreamProtocolError(f"The upstream '{self.settings.name}' {refused}.")
        if isinstance(error, openai.APIStatusError):
            return self._convert_status_error(error)
        if isinstance(error, openai.APITimeoutError):
            return self._make_timeout_error(error.__cause__, error.request)
        if isinstance(error, openai.APIConnectionError):
            return self._make_connection_error(error.__cause__ or error)
        if isinstance(error, httpx2.TimeoutException):  # an error's body stalled; the SDK passes it
            return self._make_timeout_error(error)
        if isinstance(error, httpx2.TransportError | OSError):  # it broke, or was never wrapped
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
                "its base URL should be the place it leads to."
            )
        proxy = find_proxy(self.settings.base_url, self._proxies) if status == 407 else None
        if proxy:
            return self._make_unreachable_error(
                f"the proxy {proxy} wants a user and password (407)"
            )
        if status == 400 and self._requires_tls(error):
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

    def _requires_tls(self, error: openai.APIStatusError) -> bool:
        plain = self.settings.base_url.startswith("http://")
        return plain and bool(_TLS_REQUIRED_PATTERN.search(error.response.text[:1000]))

    def _is_own_key_refused(self, refusal: UpstreamRefused) -> bool:
        """Is it the forwarder's key that is refused, and not the client's own?"""
        return not self.settings.passthrough_key and is_key_refusal(refusal)

    def _make_key_refusal(self, refusal: UpstreamRefused) -> UpstreamKeyRefused:
        """The error for a refused key; the log is told once, not for every request."""
        error = describe_key_refusal(refusal, self.settings)
        now = time.monotonic()
        waited = now - self._key_refusal_logged_at > _KEY_REFUSAL_LOG_SECONDS
        if self.logs_key_refusal and waited:
            self.logs_key_refusal, self._key_refusal_logged_at = False, now
            name = self.settings.name
            # Without the upstream's words: some quote what the client sent.
            detail = describe_refused_key(self.settings)
            told = {"event": "upstream_key_refused", "upstream": name, "detail": detail}
            log.error(told)
        return error

    def _read_error_object(self, error: openai.APIStatusError) -> Json:
        # The SDK's body lacks the code where that stands beside the error; it is None if unread.
        text = "" if error.body is None else error.response.text.strip()
        if not text or text.startswith("<"):
            return {"message": f"The upstream answered {error.status_code} without a JSON body."}
        found = redact_secrets(read_error(text), self.settings)
        name = error.response.headers.get("x-amzn-errortype")  # AWS names the error nowhere else
        if name and "code" not in found:
            found["code"] = name.partition(":")[0]
        if found.keys() == {"message"}:  # a text of any length; no half of a secret may stand there
            found["message"] = found["message"][:500]
        return {**found, "message": found["message"] or str(error.status_code)}

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

    def _make_unreachable_error(self, why: str) -> UpstreamUnreachable:
        return UpstreamUnreachable(f"The upstream '{self.settings.name}' cannot be reached: {why}.")


def describe_limit(limits: Mapping[str, Any], kind: str) -> str:
    """The limit that was exceeded, where the request had one."""
    seconds = limits.get(kind)
    return f"within {seconds:g} seconds" if seconds else "in time"


def adapt_body(body: Json, protocol: str, profile: Profile, exchange: RequestContext) -> Json:
    return (
        body
        if profile is PASSTHROUGH_PROFILE
        else adapt_request(body, protocol, profile, exchange.loss_report)
    )


def join_url(base_url: str, path: str) -> str:
    """A path below the base URL, or from the host's root."""
    if not path.startswith("/"):
        return f"{base_url}/{path}"
    url = urlsplit(base_url)
    return f"{url.scheme}://{url.netloc}{path}"


def encode_body(body: Json) -> bytes:
    try:
        return orjson.dumps(body)
    except TypeError:  # of what was read from JSON, only its depth can be too much
        raise InvalidRequest("The request is nested too deeply.", code="invalid_json") from None
