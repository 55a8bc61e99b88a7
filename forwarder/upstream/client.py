"""The client of one upstream: its handlers, provider profiles and learned quirks."""

from __future__ import annotations

import contextlib
import functools
import itertools
import logging
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import NamedTuple

import httpx2

from forwarder.config.settings import UpstreamSettings
from forwarder.context.request_context import RequestContext, Route
from forwarder.core.errors import (
    NotFound,
    UpstreamError,
    UpstreamKeyRefused,
    UpstreamProtocolError,
    UpstreamRefused,
    shorten_value,
)
from forwarder.core.types import EventStream, Handler, Json
from forwarder.protocols.registry import EMBEDDINGS, UPSTREAM_PROTOCOLS
from forwarder.protocols.responses import RESPONSES
from forwarder.protocols.stream_end import MALFORMED_EVENT_ERRORS, make_malformed_event_error
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
from forwarder.upstream.base_url_check import ABSENT_STATUSES, BaseUrlCheck
from forwarder.upstream.connection import UpstreamConnection, encode_body
from forwarder.upstream.files import UpstreamFiles
from forwarder.upstream.response import UpstreamResponse, parse_model_list
from forwarder.upstream.transport.answer_limits import MAX_ANSWER_BYTES

REASONING_INCLUDED_HEADER = "x-reasoning-included"
"""Response header: the reported usage includes the reasoning of earlier turns."""

log = logging.getLogger("forwarder.upstream")

_MAX_CACHED_MODELS = 256
"""How many profiles of models are cached."""


class PreviewedRequest(NamedTuple):
    """A request as it would be sent: URL (without query), provider profile and body."""

    url: str
    profile: Profile
    body: Json


class Upstream:
    """The client of one upstream, with its own SDK client and connections.

    An upstream with several endpoints has one client for each.  The first endpoint's client lists
    the models of the whole upstream, and its ``list_replicas`` returns the other clients.
    """

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
        self.includes_reasoning = False
        self._is_generic = self.profile == PROFILES["generic"]
        self._select_profile = functools.lru_cache(_MAX_CACHED_MODELS)(
            functools.partial(apply_model_overrides, self.profile)
        )
        self._connection = UpstreamConnection(
            settings, self.profile, transport, heartbeat, max_answer
        )
        self._base_url_check = BaseUrlCheck(self._connection)
        self.errors = self._connection.errors
        self.files = UpstreamFiles(self._connection)
        self.list_replicas: Callable[[], Iterable[Upstream]] = tuple
        self.close = self._connection.close
        self.cancel_response = self._connection.cancel

    @property
    def key_refusal(self) -> str | None:
        """The upstream's refusal of one of the forwarder's keys, until it accepts that key."""
        refusals = (each.errors.key_refusal for each in (self, *self.list_replicas()))
        return next(filter(None, refusals), None)

    @property
    def reports_reasoning(self) -> bool:
        """Whether the latest response of any endpoint said that its usage includes reasoning."""
        return any(each.includes_reasoning for each in (self, *self.list_replicas()))

    def make_handler(self, route: Route, client: str, context: RequestContext) -> Handler:
        """Make the handler that calls this upstream in ``route.protocol``.

        ``client`` is the client's protocol.  The handler returns after the first batch of the
        answer; the response is closed with ``context``.
        """

        def handle_request(request: Json) -> EventStream:
            body, profile = self._prepare_request(request, route, client, context)
            if context.followed_response_id is not None:
                return self._follow(context.followed_response_id, body, route, profile, context)
            try:
                return self.send(body, route.protocol, profile, context)
            except UpstreamRefused as refusal:
                sent = adapt_body(body, route.protocol, profile, context)
                quirk = infer_quirk(refusal, route.protocol, sent, profile)
                if quirk is None:
                    raise
                return self._retry_with_quirk(body, route, quirk, profile, refusal, context)

        return handle_request

    def _follow(
        self, response_id: str, body: Json, route: Route, profile: Profile, context: RequestContext
    ) -> EventStream:
        """Read the stream of a response that the upstream is already generating."""

        def start_response() -> EventStream:
            response = self._connection.reopen(response_id, context)
            return self._read_response(response, body, route.protocol, profile, context)

        return self._with_settings_check(start_response, context.client_key)

    def make_compaction_handler(self, route: Route, context: RequestContext) -> Handler:
        """Make the handler for compaction; its stream is one event, the whole answer."""

        def handle_request(request: Json) -> EventStream:
            body, profile = self._prepare_request(request, route, RESPONSES.name, context)
            body = adapt_body(body, RESPONSES.name, profile, context)
            return self._send_unstreamed("compact", body, context)

        return handle_request

    def make_embeddings_handler(self, route: Route, context: RequestContext) -> Handler:
        """Make the handler for embeddings; its stream is one event, the whole answer.

        The handler raises NotFound if the upstream has no embeddings.
        """

        def handle_request(request: Json) -> EventStream:
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
        url, _, _ = self._connection.urls[route.protocol].partition("?")
        return PreviewedRequest(url, profile, sent)

    def _prepare_request(
        self, request: Json, route: Route, client: str, context: RequestContext
    ) -> tuple[Json, Profile]:
        """Return the body for the upstream, and the profile that adapts it."""
        # The generic profile adapts a chat client's own chat body only by learned quirks. A body
        # to which the forwarder adds messages is not the client's own.
        is_passthrough = (
            client == route.protocol
            and UPSTREAM_PROTOCOLS[client].passes_unadapted
            and not context.has_converted_body
            and not context.is_answer_composed
            and self._is_generic
        )
        base = PASSTHROUGH_PROFILE if is_passthrough else None
        return {**request, "model": route.model}, self.get_profile(route.model, base)

    def get_profile(self, model: str, base: Profile | None = None) -> Profile:
        """Return the profile for a model (or ``base``), changed by the learned quirks."""
        return self.learned_quirks.apply_to(model, base or self._select_profile(model))

    def send(
        self, body: Json, protocol: str, profile: Profile, context: RequestContext
    ) -> EventStream:
        """Adapt a request to ``profile``, send it, and return its answer.

        This returns after the first batch of the answer, which is closed with ``context``.
        """

        def start_response() -> EventStream:
            sent = adapt_body(body, protocol, profile, context)
            response = self._connection.post(protocol, sent, context)
            return self._read_response(response, body, protocol, profile, context)

        return self._with_settings_check(start_response, context.client_key)

    def _send_unstreamed(self, protocol: str, body: Json, context: RequestContext) -> EventStream:
        """Send a request whose answer is never a stream; return the answer as one event."""

        def start_response() -> EventStream:
            response = self._connection.post(protocol, body, context)
            context.cleanup.add(response.close)
            context.reply_headers = response.headers
            return self._await_first_batch(response, response.iter_batches())

        return self._with_settings_check(start_response, context.client_key)

    def _with_settings_check(
        self, start_response: Callable[[], EventStream], client_key: str | None
    ) -> EventStream:
        """Start a response and record whether the upstream accepts the key.

        Raises UpstreamMisconfigured if the base URL is incomplete.
        """
        try:
            answer = start_response()
        except UpstreamKeyRefused as refusal:
            self.errors.key_refusal = refusal.message
            raise
        except (UpstreamRefused, UpstreamProtocolError) as error:
            self._check_base_url(error, client_key)
            raise
        self.errors.record_success()
        return answer

    def _read_response(
        self,
        response: UpstreamResponse,
        body: Json,
        protocol: str,
        profile: Profile,
        context: RequestContext,
    ) -> EventStream:
        """Return the events of a response after reading the first batch."""
        context.cleanup.add(response.close)
        context.reply_headers = response.headers
        if protocol == RESPONSES.name:
            self.includes_reasoning = REASONING_INCLUDED_HEADER in response.headers
        stream = adapt_response(
            response.iter_batches(), body, protocol, profile, response.saw_done_marker
        )
        require_complete = UPSTREAM_PROTOCOLS[protocol].require_complete
        return self._await_first_batch(
            response,
            require_complete(stream, response.saw_done_marker, self.errors.convert_refusal),
        )

    def _await_first_batch(self, response: UpstreamResponse, stream: EventStream) -> EventStream:
        """Read the first batch of ``stream``; if that fails, close the response at once."""
        try:
            first = next(stream, None)
        except BaseException as error:
            response.close()
            if isinstance(error, MALFORMED_EVENT_ERRORS):
                raise make_malformed_event_error() from error
            if isinstance(error, UpstreamRefused) and self.errors.is_own_key_refused(error):
                raise self.errors.make_key_refusal(error) from None
            raise
        return stream if first is None else itertools.chain([first], stream)

    def _retry_with_quirk(
        self,
        body: Json,
        route: Route,
        quirk: InferredQuirk,
        profile: Profile,
        refusal: UpstreamRefused,
        context: RequestContext,
    ) -> EventStream:
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

        ``client_key`` is used if the upstream gets the clients' own keys.  If the first of
        several endpoints fails, the others are asked.  Raises UpstreamMisconfigured if the base
        URL is incomplete.
        """
        try:
            return self._list_own_models(timeout, client_key)
        except UpstreamError as error:
            for replica in self.list_replicas():
                with contextlib.suppress(UpstreamError):
                    return replica.list_models(timeout, client_key)
            raise error

    def _list_own_models(self, timeout: float, client_key: str | None) -> list[Json]:
        try:
            models = parse_model_list(self._connection.get_models(timeout, client_key))
        except (UpstreamRefused, UpstreamProtocolError) as error:
            self._check_base_url(error, client_key)
            raise
        if not models:
            self._base_url_check.require_complete_url(client_key)
        return models

    def _check_base_url(
        self, error: UpstreamRefused | UpstreamProtocolError, client_key: str | None
    ) -> None:
        """Raise UpstreamMisconfigured if ``error`` comes from an incomplete base URL."""
        if not isinstance(error, UpstreamRefused) or error.status in ABSENT_STATUSES:
            self._base_url_check.require_complete_url(client_key)


def adapt_body(body: Json, protocol: str, profile: Profile, context: RequestContext) -> Json:
    return (
        body
        if profile is PASSTHROUGH_PROFILE
        else adapt_request(body, protocol, profile, context.loss_report)
    )
