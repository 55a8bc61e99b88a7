"""The gateway: answers requests, and holds the objects that live as long as the process.

A request is resolved to routes. `Resilience` tries them in order until one answers; each attempt
runs through the pipeline (`pipeline.py`). The answer is recorded where responses are stored.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import replace
from functools import partial
from secrets import token_urlsafe

import httpx2
import orjson

from forwarder.config.settings import Settings, UpstreamSettings
from forwarder.context.recorder import RequestHead
from forwarder.context.request_context import RequestContext, RequestObserver
from forwarder.context.route import Route
from forwarder.core.body_memory import MEMORY_PER_BYTE, BodyMemory
from forwarder.core.client_headers import HeaderSelection
from forwarder.core.concurrency import get_address_info
from forwarder.core.data_urls import Blob
from forwarder.core.encryption import TokenCipher
from forwarder.core.errors import (
    ForwarderError,
    InvalidRequest,
    NotFound,
    Unsupported,
    shorten_value,
)
from forwarder.core.ids import generate_id
from forwarder.core.shutdown import InFlightRequests
from forwarder.core.translation_context import LossReport
from forwarder.core.types import EventStream, Handler, Json
from forwarder.core.validate import BOOL, read_field
from forwarder.middleware.compaction import (
    HandlerWrapper,
    make_compact_handler,
    with_compaction,
)
from forwarder.middleware.media import AddressGuard, Fetcher, MediaIO, UploadCache, download
from forwarder.middleware.media.policy import Fetch
from forwarder.middleware.reasoning_cache import ReasoningCache
from forwarder.middleware.reasoning_cache.memory_backend import CacheBackend, MemoryBackend
from forwarder.middleware.reasoning_cache.signatures import SignatureCache
from forwarder.models.catalog import Catalog
from forwarder.models.codex import digest_settings
from forwarder.models.codex_headers import make_response_headers
from forwarder.models.health import HealthMonitor, HealthTarget
from forwarder.models.register import ModelRegistration
from forwarder.models.registered_model import RegisteredModel
from forwarder.models.registry import DatabaseModelRegistry, ModelRegistry, NullModelRegistry
from forwarder.models.router import Router
from forwarder.observability.capture.observer import make_capture_observer
from forwarder.observability.metrics import MetricsObserver
from forwarder.pipeline.attempt import Attempt, PipelineServices
from forwarder.pipeline.dry_run import DryRun, build_report
from forwarder.pipeline.pipeline import (
    build_embeddings_handler,
    build_handler,
)
from forwarder.protocols.chat import CHAT
from forwarder.protocols.chat_reasoning import find_reasoning_field
from forwarder.protocols.mappings import INCLUDE_ENCRYPTED_REASONING
from forwarder.protocols.registry import CLIENT_PROTOCOLS
from forwarder.protocols.responses import RESPONSES
from forwarder.storage import (
    ConversationStore,
    DatabaseConversationStore,
    NullConversationStore,
    OwnerResolver,
    RequestLimits,
)
from forwarder.storage.background import BackgroundLimits, BackgroundTask, TakeoverCallbacks
from forwarder.storage.background_requests import (
    StoredRequest,
    is_readable,
    is_repeatable,
    read_stored_request,
)
from forwarder.storage.db import Pruner, load_secrets, open_database
from forwarder.storage.db.background_leases import ClaimedWork, ResponseOrigin
from forwarder.storage.db.key_rotation import RotationReport
from forwarder.storage.db.responses import StoredResponse
from forwarder.storage.reasoning_cache import DatabaseBackend
from forwarder.storage.resume import LOCAL_PARAMETERS
from forwarder.upstream.client import PassthroughResponse, Upstream
from forwarder.upstream.pool import UpstreamPool
from forwarder.upstream.resilience import Resilience
from forwarder.upstream.transport.select import select_transport

log = logging.getLogger("forwarder.gateway")


class Gateway:
    """Streams answers, starts background work, and previews requests.

    It also builds the objects that live as long as the process: router, upstream pool, database,
    caches, health checks.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.metrics = MetricsObserver(settings) if settings.metrics else RequestObserver()
        self.header_selection = HeaderSelection(settings.client_headers)
        self.observers: list[RequestObserver] = [self.metrics] if settings.metrics else []
        self.capture = make_capture_observer(settings, self._list_registered_upstreams)
        if self.capture is not None:
            self.observers.append(self.capture)
            self.capture.start()
        self.database = open_database(settings.database_url)
        new_secret = token_urlsafe(32)
        secrets = settings.secret_keys or load_secrets(self.database, new_secret)
        self._cipher = TokenCipher(secrets or (new_secret,))
        self._owners = OwnerResolver(self.database, secrets)
        self.registry = self._build_registry(secrets)
        if self.database is not None and self.database.kind == "sqlite" and not secrets:
            self.database.recovery_callbacks.append(partial(self._adopt_secret, new_secret))
        self.router = Router(settings, self.registry.find, self.registry.list_models)
        self._configured = frozenset(u.name for u in settings.upstreams)
        self.guard = AddressGuard(settings.remote_allow)
        self._transport: httpx2.BaseTransport | None = None
        self._fetch_for = build_fetcher(settings)
        self.upstreams = UpstreamPool(self._connect_upstream, settings.upstreams)
        self.resilience = Resilience(settings, self.metrics)
        digest = digest_settings(settings)
        self.catalog = Catalog(
            self.router,
            self.upstreams,
            settings.ready_ttl,
            lambda: f"{digest} {self.registry.get_version()}",
        )
        self.router.check_codex_helper = self.catalog.has_codex_helper
        self.creating = ModelRegistration(
            self.registry, self.catalog, self.guard, self._connect_upstream, self._configured
        )
        self.health = HealthMonitor(
            self._list_health_targets, self.metrics, settings.health_ask_interval
        )
        self._uploads = UpstreamPool(self._new_upload_cache, settings.upstreams)
        self.running = InFlightRequests()
        # One body of the maximum size always has room.
        memory = max(settings.max_body_memory, settings.max_body * MEMORY_PER_BYTE)
        self.body_memory = BodyMemory(memory)
        backend = self._build_cache_backend()
        self._recall, self._signatures = ReasoningCache(backend), SignatureCache(backend)
        self.state = self._build_conversation_store()
        if settings.health_interval:
            self.health.start(settings.health_interval)

    def stream(
        self, client: str, request: Json, style: str | None, context: RequestContext
    ) -> EventStream:
        """The stream that answers a request of the ``client`` protocol.

        ``style`` is the reasoning style that the request asks for.  The upstream has answered when
        this returns.  Raises ForwarderError if the request is invalid or all upstreams fail;
        nothing is left open then.
        """
        before = len(context.cleanup)
        try:
            kept = self.state.make_recorder(
                client, request, context, partial(self._find_recording_upstream, context)
            )
            return context.convert_errors(
                kept(self._stream_unrecorded(client, request, style, context))
            )
        except BaseException:
            context.cleanup.close(keep_first=before)
            raise

    def _stream_unrecorded(
        self, client: str, request: Json, style: str | None, context: RequestContext
    ) -> EventStream:
        """The stream of the first route that answers, without recording it."""
        routes = self._find_routes(client, request, context)
        answer = partial(self._stream_from_route, client, request, style, context)
        return self.resilience.open_first_available(routes, answer, context)

    def start_background(
        self, request: Json, style: str | None, context: RequestContext, work: RequestContext
    ) -> Json:
        """Start background work and return the queued response.

        ``work`` is the context of the work; it is closed when the work ends.  Raises the errors
        that `stream` raises before it calls an upstream.
        """
        background = self.store.background
        self.preview(RESPONSES.name, deepcopy(request), style, context)
        self._find_routes(RESPONSES.name, request, context)
        self.resilience.admit_request(work)
        self.resume_background_work()
        stored = StoredRequest(
            request=request,
            style=style,
            client_key=work.client_key,
            payer=work.account_id,
            address=work.get_base_url(),
            strict=work.loss_report.strict,
            client_address=work.client_address,
            client_headers=work.client_headers,
        )
        task = self._new_background_task(stored, self._cipher.encrypt(stored.to_json()), work)
        try:
            return background.start_job(self.store.find_owner(context), request, work, task)
        except Exception:
            work.cleanup.close()  # the work does not start, so its slot is free
            raise

    def resume_background_work(self) -> None:
        """Start taking over background work of workers that have stopped."""
        if isinstance(self.state, DatabaseConversationStore):
            takeover = TakeoverCallbacks(
                self._new_background_context,
                self._can_read_request,
                self._restore_background_task,
                self._cancel_work,
            )
            self.state.background.start_takeover(takeover)

    def _new_background_task(
        self, stored: StoredRequest, sealed: str, work: RequestContext
    ) -> BackgroundTask:
        """The task for a background request."""
        request = {**stored.request, "stream": True}
        made = partial(self._stream_unrecorded, RESPONSES.name, request, stored.style, work)
        follow = partial(self._follow_upstream_response, request, stored.style, work)
        repeats = self.settings.background_attempts > 1 and is_repeatable(request)
        return BackgroundTask(
            made, follow, sealed, repeats, lambda: self._find_recording_upstream(work) is not None
        )

    def _follow_upstream_response(
        self, request: Json, style: str | None, work: RequestContext, origin: ResponseOrigin
    ) -> EventStream:
        """The stream of a response that an upstream is already generating."""
        work.followed_response_id = origin.upstream_id
        asked = {k: v for k, v in request.items() if k not in LOCAL_PARAMETERS} | {"input": []}
        answer = partial(self._stream_from_route, RESPONSES.name, asked, style, work)
        routes = self._find_routes(RESPONSES.name, asked, work)
        there = [route for route in routes if route.upstream.name == origin.upstream]
        if not there:
            raise NotFound(f"The upstream '{origin.upstream}' does not serve this model any more.")
        return self.resilience.open_first_available(there, answer, work)

    def cancel_at_upstream(self, kept: StoredResponse, context: RequestContext) -> None:
        """Cancel a response at its upstream after it was cancelled or deleted here.

        A failure of the upstream is logged only.
        """
        if kept.upstream_id is None or not (kept.is_running or kept.status == "cancelled"):
            return
        self._cancel_origin(ResponseOrigin(kept.upstream or "", kept.upstream_id), context)

    def _cancel_work(self, origin: ResponseOrigin, sealed: str | None) -> None:
        """Cancel a response at its upstream with the key of an encrypted request."""
        context = self._new_work_context()
        values = self._cipher.decrypt(sealed) if sealed else None
        if values is not None:
            context.client_key = values.get("client_key")
            context.client_headers = values.get("client_headers") or {}
        self._cancel_origin(origin, context)

    def _cancel_origin(self, origin: ResponseOrigin, context: RequestContext) -> None:
        said = {"id": context.id, "upstream": origin.upstream, "response": origin.upstream_id}
        try:
            upstream = self.find_upstream(origin.upstream)
            if upstream is not None:
                upstream.cancel_response(origin.upstream_id, context)
                log.info({"event": "upstream_cancelled", **said})
        except ForwarderError as error:
            failed = {"event": "upstream_cancel_failed", **said}
            log.warning({**failed, "detail": shorten_value(error.message)})

    def _new_background_context(self) -> RequestContext:
        """A context for background work that is taken over; raises Overloaded."""
        work = self._new_work_context()
        self.resilience.admit_request(work)
        return work

    def _new_work_context(self) -> RequestContext:
        settings = self.settings
        return RequestContext(
            id=generate_id("req"),
            route="background",
            loss_report=LossReport(
                strict=settings.strict, max_schema_nodes=settings.max_schema_nodes
            ),
            log_sample_rate=settings.log_sample,
            log_bodies=settings.log_bodies,
            observers=self.observers,
        )

    def _can_read_request(self, sealed: str) -> bool:
        """Whether this worker has the secret and knows the version of an encrypted request."""
        return is_readable(self._cipher.decrypt(sealed))

    def _restore_background_task(self, work: RequestContext, taken: ClaimedWork) -> BackgroundTask:
        """The task of work that another worker started; this worker can decrypt its request."""
        work.notify_request(lambda name: None)
        stored = read_stored_request(self._cipher.decrypt(taken.request), taken.response.input)
        work.client_key, work.account_id = stored.client_key, stored.payer
        work.client_address, work.client_headers = stored.client_address, stored.client_headers
        work.get_base_url, work.loss_report.strict = lambda: stored.address, stored.strict
        if self.capture is not None:
            work.recorder = self.capture.make_recorder(
                work, RequestHead("POST", "/v1/responses", [], [])
            )
        if work.recorder is not None:
            work.recorder.record_body(orjson.dumps(stored.request))
        return self._new_background_task(stored, taken.request, work)

    @property
    def store(self) -> DatabaseConversationStore:
        """The conversation store; raises Unsupported if nothing is stored."""
        if not isinstance(self.state, DatabaseConversationStore):
            raise Unsupported("Nothing is stored here.", code="store_disabled")
        return self.state

    def _stream_from_route(
        self, client: str, request: Json, style: str | None, context: RequestContext, route: Route
    ) -> EventStream:
        """The stream of the upstream of one route."""
        context.loss_report.local_parameters = self._list_local_parameters(client, request, route)
        attempt = self._new_attempt(route, client, style, context, request)
        call = attempt.upstream.make_handler(route, client, context)
        model = request["model"]
        stream = build_handler(attempt, self._with_retries(call, route, context))(request)
        if client == RESPONSES.name:
            context.reply_headers = make_response_headers(
                context.reply_headers, model, route, self.catalog.compute_etag()
            )
        return stream

    def _new_attempt(
        self,
        route: Route,
        client: str,
        style: str | None,
        context: RequestContext,
        request: Json,
        compaction: HandlerWrapper = with_compaction,
    ) -> Attempt:
        services = PipelineServices(
            self.settings, self._cipher, self._recall, self._signatures, self._owners, self.state
        )
        media_io = MediaIO(
            self._fetch_for(context) if self._fetch_for else None,
            partial(self._upload_file, route, context),
            partial(self._download_file, route, context),
            self._keeps_files(route),
        )
        upstream = self.upstreams.get_or_create(route.upstream)
        return Attempt(
            services, upstream, route, client, style, context, request, media_io, compaction
        )

    def compact(self, request: Json, context: RequestContext) -> EventStream:
        """The answer to ``/responses/compact``, as a stream of one event."""
        request["stream"] = False
        routes = self._find_routes(RESPONSES.name, request, context)
        answer = partial(self._compact_at_route, request, context)
        return context.convert_errors(self.resilience.open_first_available(routes, answer, context))

    def _compact_at_route(
        self, request: Json, context: RequestContext, route: Route
    ) -> EventStream:
        """Compact by the upstream if it can, otherwise by a summary of its model."""
        attempt = self._new_attempt(
            route, RESPONSES.name, None, context, request, make_compact_handler
        )
        if attempt.compacts_natively:
            request = {k: v for k, v in request.items() if k != "stream"}
            attempt = replace(attempt, request=request)
            call = attempt.upstream.make_compaction_handler(route, context)
        else:
            call = attempt.upstream.make_handler(route, RESPONSES.name, context)
        return build_handler(attempt, self._with_retries(call, route, context))(request)

    def embed(self, client: str, request: Json, context: RequestContext) -> EventStream:
        """The answer to an embeddings request, as a stream of one event.

        ``client`` is ``embeddings`` (OpenAI) or one of Ollama's two protocols.
        """
        routes = self._find_routes(client, request, context)
        answer = partial(self._embed_at_route, client, request, context)
        return context.convert_errors(self.resilience.open_first_available(routes, answer, context))

    def _embed_at_route(
        self, client: str, request: Json, context: RequestContext, route: Route
    ) -> EventStream:
        attempt = self._new_attempt(route, client, None, context, request)
        call = attempt.upstream.make_embeddings_handler(route, context)
        return build_embeddings_handler(attempt, self._with_retries(call, route, context))(request)

    def _with_retries(self, call: Handler, route: Route, context: RequestContext) -> Handler:
        """The upstream's handler as observers see it, with retries and the circuit breaker."""
        state = self.resilience.upstream_states.get_or_create(route.upstream)
        return state.with_retries(context.instrument(call, route), context)

    def _keeps_files(self, route: Route) -> bool:
        return self.router.default_file_upstream in (None, route.upstream.name)

    def _upload_file(self, route: Route, context: RequestContext, blob: Blob, path: str) -> str:
        """The upstream's file id of ``blob``; uploads it if the upstream does not have it."""
        key = context.client_key if route.upstream.passthrough_key else None
        id_of = partial(self._uploads.get_or_create(route.upstream).get_file_id, blob, key)
        return self.resilience.upstream_states.get_or_create(route.upstream).run_with_retries(
            id_of, context
        )

    def _download_file(
        self, route: Route, context: RequestContext, file_id: str, path: str
    ) -> Blob:
        """A file from the upstream that keeps files, or else from the route's upstream."""
        keeper = self.router.default_file_upstream
        upstream = (
            self.upstreams[keeper] if keeper else self.upstreams.get_or_create(route.upstream)
        )

        def get_file(what: str) -> PassthroughResponse:
            return upstream.passthrough("GET", what, {}, context)

        return download(get_file, file_id, path, self.settings.fetch_max)

    def preview(
        self, client: str, request: Json, style: str | None, context: RequestContext
    ) -> Json:
        """The upstream request that `stream` would send; see `dry_run.build_report`.

        Nothing is called, fetched or uploaded.  Raises the errors that `stream` raises before it
        calls an upstream.
        """
        asked = dict(request)
        self.wants_stream(client, request)
        route = self._find_routes(client, request, context)[0]
        context.upstream, context.model = route.upstream.name, route.model
        attempt = self._new_attempt(route, client, style, context, request)
        context.loss_report.local_parameters = self._list_local_parameters(client, request, route)
        show = partial(attempt.upstream.preview, route=route, client=client, context=context)
        run = DryRun(show)
        fetch = run.fetch if self._fetch_for else None
        media_io = MediaIO(fetch, run.upload, run.download, self._keeps_files(route))
        attempt = replace(attempt, media_io=media_io)
        sent = run.capture_request(build_handler(attempt, run.handle_request), request)
        return build_report(asked, client, route, sent, context.loss_report.losses, run)

    def wants_stream(self, client: str, request: Json) -> bool:
        """Whether to stream the answer; sets ``stream`` in the request if it is missing."""
        asked = read_field(request, "stream", BOOL, "stream")
        if asked is None:
            asked = CLIENT_PROTOCOLS[client].streams_by_default or (
                client == CHAT.name and self.settings.chat_default_stream
            )
            request["stream"] = asked
        return bool(asked)

    def keeps_responses(self, request: Json, context: RequestContext) -> bool:
        """Whether the response to a Responses request can be stored, here or upstream."""
        own = self._find_routes(RESPONSES.name, request, context)[0].protocol == RESPONSES.name
        return own or not isinstance(self.state, NullConversationStore)

    def _list_local_parameters(self, client: str, request: Json, route: Route) -> frozenset[str]:
        """Parameters that are not reported as lost: handled here, or not sent by the client.

        Reasoning in a ``[thinking]`` block becomes a field that some upstreams do not accept.  A
        client that did not send that field gets no report of it.
        """
        here = self.state.list_local_parameters(client, request, client != route.protocol)
        if client == CHAT.name and find_reasoning_field(request.get("messages")) is None:
            here |= {"messages.reasoning_content"}
        return here if client == RESPONSES.name else here | _UNREQUESTED_PARAMETERS

    def _find_routes(self, client: str, request: Json, context: RequestContext) -> list[Route]:
        model = request.get("model") or self.settings.default_model
        if model is not None and not isinstance(model, str):
            raise InvalidRequest(
                "Invalid type for 'model': expected a string.", param="model", code="invalid_type"
            )
        routes = self.router.list_routes(model, client, context.client_key)
        request["model"] = model
        return routes

    def _build_registry(self, secrets: Sequence[str]) -> ModelRegistry:
        if self.database is None:
            return NullModelRegistry()
        registry = DatabaseModelRegistry(self.database, secrets, self._drop_upstream)
        registry.preload_models()
        return registry

    def _adopt_secret(self, new_secret: str) -> None:
        """Use the secret file beside the database once the database can be read.

        If there is no such file, the secret that this process made up is saved as one.
        """
        secrets = load_secrets(self.database, new_secret)
        if secrets:
            self._cipher.add_secrets(secrets)
            self._owners.add_secrets(secrets)
            self.registry.adopt_secrets(secrets)

    def find_upstream(self, name: str) -> Upstream | None:
        """The configured or registered upstream of this name, or None.

        Raises UpstreamKeyRefused if the key of a registered upstream cannot be decrypted.
        """
        if name in self._configured:
            return self.upstreams[name]
        remote = self.registry.find(name)
        if remote is None or not remote.host:
            return None
        return self.upstreams.get_or_create(remote.require_key().upstream)

    def _list_registered_upstreams(self) -> Iterator[UpstreamSettings]:
        """The upstreams of registered models."""
        return (remote.upstream for remote in self.registry.list_models() if remote.host)

    def _list_health_targets(self) -> Iterator[HealthTarget]:
        """The targets of health checks: upstreams, and registered models with a host."""
        for settings in self.settings.upstreams:
            yield HealthTarget(settings.name, self.upstreams.get_or_create(settings), None)
        for remote in self.registry.list_models():
            target = self.health_target(remote)
            if target is not None:
                yield target

    def health_target(self, remote: RegisteredModel) -> HealthTarget | None:
        """The health target of a registered model, or None if it has no host or no key."""
        if not remote.host or remote.locked:
            return None
        ask = partial(self.creating.probe_registered, remote) if remote.can_answer else None
        return HealthTarget(
            remote.name, self.upstreams.get_or_create(remote.upstream), remote.model, ask
        )

    def rotate_keys(self) -> RotationReport:
        """Encrypt everything that is stored with the first secret."""
        self._owners.rotate_keys()
        return self.registry.rotate_secrets(self._cipher)

    def _drop_upstream(self, settings: UpstreamSettings) -> None:
        """Close an upstream that was registered; running answers continue."""
        self.resilience.upstream_states.drop(settings)
        self._uploads.drop(settings)
        upstream = self.upstreams.drop(settings)
        if upstream is not None:
            upstream.close()

    def _build_conversation_store(self) -> ConversationStore:
        settings, database = self.settings, self.database
        request_limits = RequestLimits(settings.max_body, settings.max_json_values)
        if database is None:
            return NullConversationStore(request_limits)
        days = settings.store_days
        max_age = days * 86400 if days else None
        Pruner(database, max_age, settings.store_max_size, settings.reasoning_ttl).start()
        limits = BackgroundLimits(
            settings.background_attempts,
            settings.background_grace,
            settings.background_unsaved_age,
            settings.background_unsaved_max,
        )
        return DatabaseConversationStore(
            database, self.running, limits, request_limits, self._owners
        )

    def _build_cache_backend(self) -> CacheBackend:
        ttl = self.settings.reasoning_ttl
        if self.database is None or not ttl:
            return MemoryBackend(ttl)
        return DatabaseBackend(self.database, self._cipher, ttl)

    def _find_recording_upstream(self, context: RequestContext) -> str | None:
        """The name of the upstream that answered, if it stores responses itself."""
        upstream = self.upstreams.get(context.upstream or "")
        if upstream is None or RESPONSES.name not in upstream.settings.apis:
            return None
        return upstream.settings.name if upstream.profile.keeps_responses else None

    def use_for_replay(
        self, transport: httpx2.BaseTransport | None = None, fetch: Fetch | None = None
    ) -> None:
        """Store nothing from now on, and replace the upstreams' transport and the media fetcher."""
        self.state = NullConversationStore(
            RequestLimits(self.settings.max_body, self.settings.max_json_values)
        )
        self._cipher.accepts_all_owners = True  # a capture does not contain its client's key
        self._transport = transport
        if transport is not None:
            self.upstreams.rebuild()
            self._uploads.rebuild()
        if fetch is not None:
            self._fetch_for = lambda context: fetch

    def _connect_upstream(self, settings: UpstreamSettings) -> Upstream:
        heartbeat = min(self.settings.keepalive, settings.idle_timeout)
        transport = self._transport
        if transport is None and settings.name in self._configured:
            transport = select_transport(settings, heartbeat)
        elif transport is None:  # a registered host may not lead into the private network
            transport = select_transport(settings, heartbeat, self.guard.look_up)
        return Upstream(settings, transport, heartbeat, self.settings.max_answer)

    def _new_upload_cache(self, settings: UpstreamSettings) -> UploadCache:
        return UploadCache(self.upstreams.get_or_create(settings), self.settings.upload_max_age)


_UNREQUESTED_PARAMETERS = frozenset({"reasoning.summary", f"include.{INCLUDE_ENCRYPTED_REASONING}"})
"""Parameters that the forwarder itself adds to requests of other clients."""


def build_fetcher(settings: Settings) -> Callable[[RequestContext], Fetch] | None:
    """The media fetcher of a context, or None if fetching is off or clients need no keys."""
    allowed = settings.fetch and bool(settings.api_keys)
    if not allowed:
        return None
    guard = AddressGuard(settings.fetch_allow, get_address_info)
    lookups = settings.fetch_lookups
    fetcher = Fetcher(guard, settings.fetch_max, settings.fetch_timeout, lookups)
    return lambda context: partial(fetcher.fetch_all, client=context.account_id or "")
