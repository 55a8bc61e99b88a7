"""The gateway: answers the requests of clients, independently of the server."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from functools import partial

from forwarder.context.request_context import RequestContext
from forwarder.core.errors import Unsupported
from forwarder.core.types import EventStream, Json
from forwarder.core.validate import BOOL, read_field
from forwarder.pipeline.background_work import BackgroundWork
from forwarder.pipeline.dry_run import DryRun, build_report
from forwarder.pipeline.media_io import build_dry_media_io
from forwarder.pipeline.own_upstream_requests import InternalUpstreamClient
from forwarder.pipeline.pipeline import build_handler
from forwarder.pipeline.text_embedder import build_vector_stores
from forwarder.pipeline.upstream_calls import UpstreamCalls
from forwarder.protocols.chat import CHAT
from forwarder.protocols.registry import CLIENT_PROTOCOLS
from forwarder.protocols.responses import RESPONSES
from forwarder.services import Services
from forwarder.storage import NullConversationStore
from forwarder.storage.db.responses import StoredResponse
from forwarder.vector_stores.service import VectorStoreService


class Gateway:
    """Streams answers, starts background work, and previews requests."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._calls = UpstreamCalls(services)
        self._background = BackgroundWork(services, self._calls)
        services.hosted_tools.upstreams = InternalUpstreamClient(services, self._calls)
        self._vector_stores = build_vector_stores(services, self._calls)
        if services.stores_files:
            self._calls.vector_stores = self._vector_stores

    def stream(
        self, client: str, request: Json, style: str | None, context: RequestContext
    ) -> EventStream:
        """The stream that answers a request of the ``client`` protocol.

        ``style`` is the reasoning style that the request asks for.  Returns once the upstream has
        begun to answer.  Raises ForwarderError if the request is invalid or all upstreams fail;
        nothing is left open then.
        """
        before = len(context.cleanup)
        try:
            record = self._services.store.make_recorder(
                client, request, context, partial(self._calls.find_recording_upstream, context)
            )
            return context.convert_errors(
                record(self._calls.open_stream(client, request, style, context))
            )
        except BaseException:
            context.cleanup.close(keep_first=before)
            raise

    def start_background(
        self, request: Json, style: str | None, context: RequestContext, work: RequestContext
    ) -> Json:
        """Start background work and return the queued response.

        ``work`` is the context of the work; it is closed when the work ends.  Raises the errors
        that `stream` raises before it calls an upstream.
        """
        try:
            self._services.require_store()
            self.preview(RESPONSES.name, deepcopy(request), style, context)
            return self._background.start(request, style, context, work)
        except BaseException:
            work.cleanup.close()  # the work does not start, so its slot and memory are free
            raise

    def resume_background_work(self) -> None:
        """Start taking over background work of workers that have stopped."""
        self._background.start_takeover()
        if self._vector_stores is not None and self._services.stores_files:
            self._vector_stores.start()

    @property
    def vector_stores(self) -> VectorStoreService:
        """The vector stores of clients; raises Unsupported if files are not stored here."""
        if not self._services.stores_files:
            raise Unsupported(
                "Vector stores need files that are stored here, and this server passes files to an "
                "upstream. FORWARDER_FILES=store changes that.",
                code="vector_stores_disabled",
            )
        self._services.require_files()
        assert self._vector_stores is not None
        return self._vector_stores

    def cancel_at_upstream(self, response: StoredResponse, context: RequestContext) -> None:
        """Cancel a response at its upstream after it was cancelled or deleted here.

        A failure of the upstream is logged only.
        """
        self._background.cancel_at_upstream(response, context)

    def compact(self, request: Json, context: RequestContext) -> EventStream:
        """The answer to ``/responses/compact``, as a stream of one event."""
        request["stream"] = False
        return context.convert_errors(self._calls.open_compaction(request, context))

    def embed(self, client: str, request: Json, context: RequestContext) -> EventStream:
        """The answer to an embeddings request, as a stream of one event.

        ``client`` is ``embeddings`` (OpenAI) or one of Ollama's two protocols.
        """
        return context.convert_errors(self._calls.open_embeddings(client, request, context))

    def preview(
        self, client: str, request: Json, style: str | None, context: RequestContext
    ) -> Json:
        """The upstream request that `stream` would send; see `dry_run.build_report`.

        Nothing is called, fetched or uploaded.  Raises the errors that `stream` raises before it
        calls an upstream.
        """
        calls, asked = self._calls, dict(request)
        self.settle_stream_flag(client, request)
        route = calls.find_routes(client, request, context)[0]
        context.upstream, context.model = route.upstream.name, route.model
        attempt = calls.make_attempt(route, client, style, context, request)
        context.loss_report.local_parameters = calls.list_local_parameters(client, request, route)
        preview = partial(attempt.upstream.preview, route=route, client=client, context=context)
        run = DryRun(preview)
        media_io = build_dry_media_io(self._services, route, run, context)
        attempt = replace(attempt, media_io=media_io, is_preview=True)
        try:
            sent = run.capture_request(build_handler(attempt, run.handle_request), request)
        finally:
            context.release_added_memory()
        return build_report(asked, client, route, sent, context.loss_report.losses, run)

    def settle_stream_flag(self, client: str, request: Json) -> bool:
        """Return whether to stream the answer; set ``stream`` in the request if it is missing."""
        asked = read_field(request, "stream", BOOL, "stream")
        if asked is None:
            asked = CLIENT_PROTOCOLS[client].streams_by_default or (
                client == CHAT.name and self._services.settings.chat_default_stream
            )
            request["stream"] = asked
        return bool(asked)

    def can_store_responses(self, request: Json, context: RequestContext) -> bool:
        """Return whether the response to a Responses request can be stored, here or upstream."""
        routes = self._calls.find_routes(RESPONSES.name, request, context)
        speaks_responses = routes[0].protocol == RESPONSES.name
        return speaks_responses or not isinstance(self._services.store, NullConversationStore)
