"""Calls the upstreams that can answer a request.

A request is resolved to routes. `Resilience` tries them in order until one answers; each attempt
runs through the pipeline (`pipeline.py`). The caller handles the answer: `gateway.py` for clients
that wait, `background_work.py` for background work.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from forwarder.context.request_context import RequestContext, Route
from forwarder.core.errors import InvalidRequest, NotFound, shorten_value
from forwarder.core.types import EventStream, Handler, Json
from forwarder.middleware.compaction import (
    HandlerWrapper,
    make_compact_handler,
    with_compaction,
)
from forwarder.models.codex_headers import make_response_headers
from forwarder.models.router import MAX_NAME_LENGTH
from forwarder.pipeline.affinity import find_affinity
from forwarder.pipeline.attempt import Attempt
from forwarder.pipeline.file_search import build_file_search
from forwarder.pipeline.media_io import build_media_io
from forwarder.pipeline.pipeline import build_embeddings_handler, build_handler
from forwarder.protocols.chat import CHAT
from forwarder.protocols.chat_reasoning import find_reasoning_field
from forwarder.protocols.chat_responses_mappings import INCLUDE_ENCRYPTED_REASONING
from forwarder.protocols.responses import RESPONSES
from forwarder.services import Services
from forwarder.storage.db.background_leases import ResponseOrigin
from forwarder.storage.history_reference import LOCAL_PARAMETERS
from forwarder.upstream.resilience.balance import Affinity
from forwarder.vector_stores.service import VectorStoreService


def require_allowed_model(model: str, context: RequestContext) -> None:
    """Raise NotFound if the client's key does not allow a model, as OpenAI does for projects."""
    if context.grants is not None and not context.grants.allows_model(model):
        raise NotFound(
            f"The model '{shorten_value(model)}' does not exist or you do not have access to it.",
            param="model",
            code="model_not_found",
        )


class UpstreamCalls:
    """Opens the streams of upstreams; each stream is returned after its first batch has arrived.

    All methods raise ForwarderError if the request is invalid or all of its upstreams fail.
    """

    def __init__(self, services: Services) -> None:
        self._services = services
        self.vector_stores: VectorStoreService | None = None
        """The vector stores that the tool ``file_search`` searches; None if it cannot run here."""

    def find_routes(self, client: str, request: Json, context: RequestContext) -> list[Route]:
        """The routes of a request, in the order in which they are tried; sets its ``model``."""
        services = self._services
        model = request.get("model") or services.settings.default_model
        if model is not None and not isinstance(model, str):
            raise InvalidRequest(
                "Invalid type for 'model': expected a string.", param="model", code="invalid_type"
            )
        if model is not None:
            require_allowed_model(model, context)
        routes = services.router.list_routes(model, client, context.client_key)
        request["model"] = model
        return routes

    def _find_and_record_routes(
        self, client: str, request: Json, context: RequestContext
    ) -> list[Route]:
        """Return the routes of a request, and record its model, so that it counts as usage."""
        model = request.get("model") or self._services.settings.default_model
        context.requested_model = model[:MAX_NAME_LENGTH] if isinstance(model, str) else ""
        return self.find_routes(client, request, context)

    def open_stream(
        self, client: str, request: Json, style: str | None, context: RequestContext
    ) -> EventStream:
        """The stream of the first route that answers, without recording it."""
        routes = self._find_and_record_routes(client, request, context)
        answer = partial(self._stream_from_route, client, request, style, context)
        affinity = find_affinity(self._services, routes, request, context)
        return self._services.resilience.open_first_available(routes, answer, context, affinity)

    def follow_response(
        self, request: Json, style: str | None, work: RequestContext, origin: ResponseOrigin
    ) -> EventStream:
        """The stream of a response that an upstream is already generating."""
        work.followed_response_id = origin.upstream_id
        asked = {k: v for k, v in request.items() if k not in LOCAL_PARAMETERS} | {"input": []}
        answer = partial(self._stream_from_route, RESPONSES.name, asked, style, work)
        routes = self._find_and_record_routes(RESPONSES.name, asked, work)
        matching = [route for route in routes if route.upstream.find_endpoint(origin.upstream)]
        if not matching:
            raise NotFound(f"The upstream '{origin.upstream}' does not serve this model any more.")
        first = replace(matching[0], member=None)
        affinity = Affinity(origin=origin.upstream, is_pinned=True)
        return self._services.resilience.open_first_available([first], answer, work, affinity)

    def open_compaction(self, request: Json, context: RequestContext) -> EventStream:
        """The answer to a compaction request, as a stream of one event."""
        routes = self._find_and_record_routes(RESPONSES.name, request, context)
        answer = partial(self._compact_at_route, request, context)
        affinity = find_affinity(self._services, routes, request, context)
        return self._services.resilience.open_first_available(routes, answer, context, affinity)

    def open_embeddings(self, client: str, request: Json, context: RequestContext) -> EventStream:
        """The answer to an embeddings request, as a stream of one event."""
        routes = self._find_and_record_routes(client, request, context)
        answer = partial(self._embed_at_route, client, request, context)
        return self._services.resilience.open_first_available(routes, answer, context)

    def find_recording_upstream(self, context: RequestContext) -> str | None:
        """The origin of the upstream that answered, if it stores responses itself."""
        upstream = self._services.upstreams.get(context.upstream or "")
        if context.is_answer_composed:
            return None
        if upstream is None or RESPONSES.name not in upstream.settings.apis:
            return None
        return context.origin if upstream.profile.keeps_responses else None

    def make_attempt(
        self,
        route: Route,
        client: str,
        style: str | None,
        context: RequestContext,
        request: Json,
        compaction: HandlerWrapper = with_compaction,
    ) -> Attempt:
        """An attempt to serve the request over ``route``."""
        services = self._services
        media_io = build_media_io(services, route, context)
        upstream = services.upstreams.get_or_create(route.upstream)
        file_search = None
        if self.vector_stores is not None:
            get_owner = partial(services.owners.find_owner, context.client_key)
            file_search = build_file_search(self.vector_stores, get_owner, context.account_id or "")
        return Attempt(
            services,
            upstream,
            route,
            client,
            style,
            context,
            request,
            media_io,
            compaction,
            file_search=file_search,
        )

    def list_local_parameters(self, client: str, request: Json, route: Route) -> frozenset[str]:
        """Parameters that are not reported as lost: handled here, or not sent by the client.

        Reasoning in a ``[thinking]`` block becomes a field that some upstreams do not accept.  A
        client that did not send that field gets no report of it.
        """
        store = self._services.store
        here = store.list_local_parameters(client, request, client != route.protocol)
        if client == CHAT.name and find_reasoning_field(request.get("messages")) is None:
            here |= {"messages.reasoning_content"}
        return here if client == RESPONSES.name else here | _UNREQUESTED_PARAMETERS

    def _stream_from_route(
        self, client: str, request: Json, style: str | None, context: RequestContext, route: Route
    ) -> EventStream:
        """The stream of the upstream of one route."""
        context.loss_report.local_parameters = self.list_local_parameters(client, request, route)
        attempt = self.make_attempt(route, client, style, context, request)
        call = attempt.upstream.make_handler(route, client, context)
        model = request["model"]
        stream = build_handler(attempt, self._with_retries(call, route, context))(request)
        if client == RESPONSES.name:
            context.reply_headers = make_response_headers(
                context.reply_headers, model, route, self._services.catalog.compute_etag()
            )
        return stream

    def _compact_at_route(
        self, request: Json, context: RequestContext, route: Route
    ) -> EventStream:
        """Compact by the upstream if it can, otherwise by a summary of its model."""
        attempt = self.make_attempt(
            route, RESPONSES.name, None, context, request, make_compact_handler
        )
        if attempt.compacts_natively:
            request = {k: v for k, v in request.items() if k != "stream"}
            attempt = replace(attempt, request=request)
            call = attempt.upstream.make_compaction_handler(route, context)
        else:
            call = attempt.upstream.make_handler(route, RESPONSES.name, context)
        return build_handler(attempt, self._with_retries(call, route, context))(request)

    def _embed_at_route(
        self, client: str, request: Json, context: RequestContext, route: Route
    ) -> EventStream:
        attempt = self.make_attempt(route, client, None, context, request)
        call = attempt.upstream.make_embeddings_handler(route, context)
        return build_embeddings_handler(attempt, self._with_retries(call, route, context))(request)

    def _with_retries(self, call: Handler, route: Route, context: RequestContext) -> Handler:
        """Wrap the upstream's handler in observers, retries and the circuit breaker."""
        state = self._services.resilience.upstream_states.get_or_create(route.upstream)
        return state.with_retries(context.instrument(call, route), context)


_UNREQUESTED_PARAMETERS = frozenset({"reasoning.summary", f"include.{INCLUDE_ENCRYPTED_REASONING}"})
"""Parameters that the forwarder itself adds to requests of other clients."""
