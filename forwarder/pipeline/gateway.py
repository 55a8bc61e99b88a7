"""From a client's request to the stream that answers it; and all that outlives a request.

For a request: routes, and for each until one answers its path (see `path.py`) to that upstream,
which is tried again as its standing allows; what stores the answer, and a guard around all.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from functools import partial
from secrets import token_urlsafe

import httpx2
import orjson

from forwarder.config.settings import Settings, UpstreamSettings
from forwarder.context.recorder import Asked
from forwarder.context.request_context import Exchange, Observer
from forwarder.context.route import Route
from forwarder.core.body_memory import MEMORY_PER_BYTE, BodyMemory
from forwarder.core.client_headers import HeaderSelection
from forwarder.core.concurrency import get_address_info
from forwarder.core.data_urls import Blob
from forwarder.core.encryption import Sealer
from forwarder.core.errors import ForwarderError, InvalidRequest, NotFound, Unsupported, shorten
from forwarder.core.ids import random_id
from forwarder.core.shutdown import Running
from forwarder.core.translation_context import Ledger
from forwarder.core.types import Call, Json, Stream
from forwarder.core.validate import BOOL, optional
from forwarder.middleware.compaction import as_compaction
from forwarder.middleware.media import Fetcher, Guard, Hands, Uploads, download
from forwarder.middleware.media.policy import Fetch
from forwarder.middleware.reasoning_cache import Recall
from forwarder.middleware.reasoning_cache.memory_backend import LocalShelf, Shelf
from forwarder.middleware.reasoning_cache.signatures import SignatureRecall
from forwarder.models.catalog import Catalog
from forwarder.models.codex import digest_settings
from forwarder.models.codex_headers import describe_answer
from forwarder.models.health import Health, Target
from forwarder.models.register import Creating
from forwarder.models.registered_model import Remote
from forwarder.models.registry import NoRegistry, Registry
from forwarder.models.router import Router
from forwarder.observability.capture.observer import capture_for
from forwarder.observability.metrics import Metrics
from forwarder.pipeline.dry_run import DryRun, report
from forwarder.pipeline.pipeline import OLLAMA, Ends, Kit, Path
from forwarder.protocols.chat_reasoning import find_field
from forwarder.protocols.mappings import SEALED
from forwarder.storage import Forgetful, Owners, Remembering, RequestLimits
from forwarder.storage.background import Limits, Takeover, Task
from forwarder.storage.background_requests import (
    StoredRequest,
    can_be_repeated,
    is_readable,
    read_stored_request,
)
from forwarder.storage.db import Pruner, open_database, secret_for
from forwarder.storage.db.background_leases import Origin, Taken
from forwarder.storage.db.key_rotation import Renewed
from forwarder.storage.db.responses import Kept
from forwarder.storage.reasoning_cache import StoredShelf
from forwarder.storage.resume import OURS
from forwarder.upstream.client import Passed, Upstream
from forwarder.upstream.pool import PerUpstream
from forwarder.upstream.resilience import Resilience
from forwarder.upstream.transport.select import transport_for

log = logging.getLogger("forwarder.bridge")


class Bridge:
    """Everything that outlives a request: the routes, the upstreams and the seal."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.metrics = Metrics(settings) if settings.metrics else Observer()
        self.header_selection = HeaderSelection(settings.client_headers)
        self.observers: list[Observer] = [self.metrics] if settings.metrics else []
        self.capture = capture_for(settings, self._registered)
        if self.capture is not None:
            self.observers.append(self.capture)
            self.capture.start()
        self.database = open_database(settings.database_url)
        made_up = token_urlsafe(32)
        secrets = settings.secret_keys or secret_for(self.database, made_up)
        self._sealer = Sealer(secrets or (made_up,))
        self._owners = Owners(self.database, secrets)
        self.registry = self._registry(secrets)
        if self.database is not None and self.database.kind == "sqlite" and not secrets:
            self.database.recovered.append(partial(self._adopt_secret, made_up))
        self.router = Router(settings, self.registry.find, self.registry.listed)
        self._configured = frozenset(u.name for u in settings.upstreams)
        self.guard = Guard(settings.remote_allow)
        self._transport: httpx2.BaseTransport | None = None
        self._fetch_for = _fetch(settings)
        self.upstreams = PerUpstream(self._connect, settings.upstreams)
        self.resilience = Resilience(settings, self.metrics)
        digest = digest_settings(settings)
        self.catalog = Catalog(
            self.router,
            self.upstreams,
            settings.ready_ttl,
            lambda: f"{digest} {self.registry.edition()}",
        )
        self.router.has_helper = self.catalog.has_codex_helper
        self.creating = Creating(
            self.registry, self.catalog, self.guard, self._connect, self._configured
        )
        self.health = Health(self._targets, self.metrics, settings.health_ask_interval)
        self._uploads = PerUpstream(self._uploading, settings.upstreams)
        self.running = Running()
        # One body of the largest size has room whatever the limit.
        memory = max(settings.max_body_memory, settings.max_body * MEMORY_PER_BYTE)
        self.body_memory = BodyMemory(memory)
        shelf = self._shelf()
        self._recall, self._signatures = Recall(shelf), SignatureRecall(shelf)
        self.state = self._remembering()
        if settings.health_interval:
            self.health.start(settings.health_interval)

    def open(self, client: str, request: Json, style: str | None, exchange: Exchange) -> Stream:
        """The stream that answers a request of the ``client`` protocol.

        ``style`` is how this one request wants its reasoning.  Connects before it returns; raises
        ForwarderError when the request or every upstream for it fails before that; then nothing is
        left open for it, and it may be asked in another way.
        """
        before = len(exchange.opened)
        try:
            kept = self.state.kept(client, request, exchange, partial(self._origin, exchange))
            return exchange.guarded(kept(self._opened(client, request, style, exchange)))
        except BaseException:
            exchange.opened.close(but=before)
            raise

    def _opened(self, client: str, request: Json, style: str | None, exchange: Exchange) -> Stream:
        """The same, without being stored."""
        routes = self._routes(client, request, exchange)
        answer = partial(self._answer, client, request, style, exchange)
        return self.resilience.first_of(routes, answer, exchange)

    def begin(self, request: Json, style: str | None, exchange: Exchange, work: Exchange) -> Json:
        """Begin background work; the response as it is queued.  ``work`` is closed when it ends.

        Raises what `open` would before it calls.
        """
        background = self.stored.background
        self.shown("responses", deepcopy(request), style, exchange)
        self._routes("responses", request, exchange)
        self.resilience.admit(work)
        self.serve()
        stored = StoredRequest(
            request=request,
            style=style,
            client_key=work.client_key,
            payer=work.payer,
            address=work.address(),
            strict=work.ledger.strict,
            client_address=work.client_address,
            client_headers=work.client_headers,
        )
        task = self._task(stored, self._sealer.seal(stored.to_json()), work)
        try:
            return background.start(self.stored.find_owner(exchange), request, work, task)
        except Exception:
            work.opened.close()  # it will not begin, and takes nobody's place
            raise

    def serve(self) -> None:
        """Take up the background work that other workers have left."""
        if isinstance(self.state, Remembering):
            takeover = Takeover(
                self._admit_work, self._can_read_request, self._revive, self._cancel_work
            )
            self.state.background.serve(takeover)

    def _task(self, stored: StoredRequest, sealed: str, work: Exchange) -> Task:
        """The task that a request for background work is."""
        request = {**stored.request, "stream": True}
        made = partial(self._opened, "responses", request, stored.style, work)
        follow = partial(self._followed, request, stored.style, work)
        repeats = self.settings.background_attempts > 1 and can_be_repeated(request)
        return Task(made, follow, sealed, repeats, lambda: self._origin(work) is not None)

    def _followed(self, request: Json, style: str | None, work: Exchange, origin: Origin) -> Stream:
        """The stream of a response that its upstream makes already."""
        work.follows = origin.upstream_id
        asked = {k: v for k, v in request.items() if k not in OURS} | {"input": []}
        answer = partial(self._answer, "responses", asked, style, work)
        routes = self._routes("responses", asked, work)
        there = [route for route in routes if route.upstream.name == origin.upstream]
        if not there:
            raise NotFound(f"The upstream '{origin.upstream}' does not serve this model any more.")
        return self.resilience.first_of(there, answer, work)

    def stop_upstream(self, kept: Kept, exchange: Exchange) -> None:
        """Cancel a response that was cancelled or deleted here where its upstream still makes it.

        It has ended here whatever the upstream says to that.
        """
        if kept.upstream_id is None or not (kept.is_running or kept.status == "cancelled"):
            return
        self._cancel_origin(Origin(kept.upstream or "", kept.upstream_id), exchange)

    def _cancel_work(self, origin: Origin, sealed: str | None) -> None:
        """Cancel a response where its upstream makes it, for the client of a sealed request."""
        exchange = self._make_work_exchange()
        values = self._sealer.unseal(sealed) if sealed else None
        if values is not None:
            exchange.client_key = values.get("client_key")
            exchange.client_headers = values.get("client_headers") or {}
        self._cancel_origin(origin, exchange)

    def _cancel_origin(self, origin: Origin, exchange: Exchange) -> None:
        said = {"id": exchange.id, "upstream": origin.upstream, "response": origin.upstream_id}
        try:
            upstream = self.upstream(origin.upstream)
            if upstream is not None:
                upstream.cancel(origin.upstream_id, exchange)
                log.info({"event": "upstream_cancelled", **said})
        except ForwarderError as error:
            failed = {"event": "upstream_cancel_failed", **said}
            log.warning({**failed, "detail": shorten(error.message)})

    def _admit_work(self) -> Exchange:
        """An exchange for background work that is taken up; raises Overloaded."""
        work = self._make_work_exchange()
        self.resilience.admit(work)
        return work

    def _make_work_exchange(self) -> Exchange:
        settings = self.settings
        return Exchange(
            id=random_id("req"),
            route="background",
            ledger=Ledger(strict=settings.strict, max_schema_nodes=settings.max_schema_nodes),
            log_sample=settings.log_sample,
            log_bodies=settings.log_bodies,
            observers=self.observers,
        )

    def _can_read_request(self, sealed: str) -> bool:
        """Was a request sealed under a secret, and by a version, that this worker knows?"""
        return is_readable(self._sealer.unseal(sealed))

    def _revive(self, work: Exchange, taken: Taken) -> Task:
        """The task that another worker has begun; this one can read its request."""
        work.began(lambda name: None)
        stored = read_stored_request(self._sealer.unseal(taken.request), taken.kept.input)
        work.client_key, work.payer = stored.client_key, stored.payer
        work.client_address, work.client_headers = stored.client_address, stored.client_headers
        work.address, work.ledger.strict = lambda: stored.address, stored.strict
        if self.capture is not None:
            work.tape = self.capture.tape(work, Asked("POST", "/v1/responses", [], []))
        if work.tape is not None:
            work.tape.heard(orjson.dumps(stored.request))
        return self._task(stored, taken.request, work)

    @property
    def stored(self) -> Remembering:
        """The state of clients; raises Unsupported where nothing is stored."""
        if isinstance(self.state, Forgetful):
            raise Unsupported("Nothing is stored here.", code="store_disabled")
        return self.state

    def _answer(
        self, client: str, request: Json, style: str | None, exchange: Exchange, route: Route
    ) -> Stream:
        """The stream of one route's upstream."""
        exchange.ledger.honoured = self._honoured(client, request, route)
        path = self._path(route, client, style, exchange)
        ends = self._ends(path.upstream.call(route, client, exchange), route, exchange)
        model = request["model"]
        stream = path.call(ends, request)(request)
        if client == "responses":
            exchange.reply_headers = describe_answer(
                exchange.reply_headers, model, route, self.catalog.etag()
            )
        return stream

    def _path(self, route: Route, client: str, style: str | None, exchange: Exchange) -> Path:
        kit = Kit(
            self.settings, self._sealer, self._recall, self._signatures, self._owners, self.state
        )
        return Path(kit, self.upstreams.of(route.upstream), route, client, style, exchange)

    def compact(self, request: Json, exchange: Exchange) -> Stream:
        """The stream that answers ``/responses/compact``: of one event, the whole."""
        request["stream"] = False
        routes = self._routes("responses", request, exchange)
        answer = partial(self._compacted, request, exchange)
        return exchange.guarded(self.resilience.first_of(routes, answer, exchange))

    def _compacted(self, request: Json, exchange: Exchange, route: Route) -> Stream:
        """The stream of one route's upstream, which compacts itself or has it done here."""
        path = self._path(route, "responses", None, exchange)
        if path.is_native:
            request = {k: v for k, v in request.items() if k != "stream"}
            call = path.upstream.compact(route, exchange)
        else:
            call = path.upstream.call(route, "responses", exchange)
        ends = self._ends(call, route, exchange)
        return path.call(ends, request, as_compaction)(request)

    def embed(self, client: str, request: Json, exchange: Exchange) -> Stream:
        """The stream that answers a request for embeddings: of one event, the whole.

        ``client`` is ``embeddings``, OpenAI's own, or one of Ollama's two.
        """
        routes = self._routes(client, request, exchange)
        answer = partial(self._embedded, client, request, exchange)
        return exchange.guarded(self.resilience.first_of(routes, answer, exchange))

    def _embedded(self, client: str, request: Json, exchange: Exchange, route: Route) -> Stream:
        path = self._path(route, client, None, exchange)
        ends = self._ends(path.upstream.embeddings(route, exchange), route, exchange)
        return path.embedding(ends.call)(request)

    def _ends(self, call: Call, route: Route, exchange: Exchange) -> Ends:
        standing = self.resilience.standings.of(route.upstream)
        call = standing.steadied(exchange.watched(call, route), exchange)
        upload = partial(self._upload, route, exchange)
        download = partial(self._download, route, exchange)
        fetch = self._fetch_for(exchange) if self._fetch_for else None
        return Ends(call, Hands(fetch, upload, download, self._keeps_files(route)))

    def _keeps_files(self, route: Route) -> bool:
        return self.router.keeper in (None, route.upstream.name)

    def _upload(self, route: Route, exchange: Exchange, blob: Blob, path: str) -> str:
        """The upstream's id of a file, which is sent there unless it has it."""
        key = exchange.client_key if route.upstream.passthrough_key else None
        id_of = partial(self._uploads.of(route.upstream).id_of, blob, key)
        return self.resilience.standings.of(route.upstream).attempt(id_of, exchange)

    def _download(self, route: Route, exchange: Exchange, file_id: str, path: str) -> Blob:
        """A file of the upstream that has files, or else of the one that is asked."""
        keeper = self.router.keeper
        upstream = self.upstreams[keeper] if keeper else self.upstreams.of(route.upstream)

        def get(what: str) -> Passed:
            return upstream.forward("GET", what, {}, exchange)

        return download(get, file_id, path, self.settings.fetch_max)

    def shown(self, client: str, request: Json, style: str | None, exchange: Exchange) -> Json:
        """What `open` would ask of which upstream for a request; see `dry_run.report`.

        Nothing is called, fetched or uploaded.  Raises ForwarderError where `open` would before
        it calls.
        """
        asked = dict(request)
        self.wants_stream(client, request)
        route = self._routes(client, request, exchange)[0]
        exchange.upstream, exchange.model = route.upstream.name, route.model
        path = self._path(route, client, style, exchange)
        exchange.ledger.honoured = self._honoured(client, request, route)
        run = DryRun(partial(path.upstream.shown, route=route, client=client, exchange=exchange))
        fetch = run.fetch if self._fetch_for else None
        ends = Ends(run.call, Hands(fetch, run.upload, run.download, self._keeps_files(route)))
        sent = run.sent(path.call(ends, request), request)
        return report(asked, client, route, sent, exchange.ledger.dropped, run)

    def wants_stream(self, client: str, request: Json) -> bool:
        """Is the answer to be streamed?  The request says so afterwards, whoever decided."""
        asked = optional(request, "stream", BOOL, "stream")
        if asked is None:
            asked = client in OLLAMA or (client == "chat" and self.settings.chat_default_stream)
            request["stream"] = asked
        return bool(asked)

    def keeps_responses(self, request: Json, exchange: Exchange) -> bool:
        """Does a Responses request go to where responses may be stored?"""
        own = self._routes("responses", request, exchange)[0].protocol == "responses"
        return own or not isinstance(self.state, Forgetful)

    def _honoured(self, client: str, request: Json, route: Route) -> frozenset[str]:
        """What is no loss: what the forwarder does itself, and what the client has not sent.

        Reasoning in a ``[thinking]`` block becomes a field on its way, which not every upstream
        takes.  A client that has sent no such field is not told of one.
        """
        here = self.state.honours(client, request, client != route.protocol)
        if client == "chat" and find_field(request.get("messages")) is None:
            here |= {"messages.reasoning_content"}
        return here if client == "responses" else here | _UNASKED

    def _routes(self, client: str, request: Json, exchange: Exchange) -> list[Route]:
        model = request.get("model") or self.settings.default_model
        if model is not None and not isinstance(model, str):
            raise InvalidRequest(
                "Invalid type for 'model': expected a string.", param="model", code="invalid_type"
            )
        routes = self.router.routes(model, client, exchange.client_key)
        request["model"] = model
        return routes

    def _registry(self, secrets: Sequence[str]) -> NoRegistry:
        if self.database is None:
            return NoRegistry()
        registry = Registry(self.database, secrets, self._disconnect)
        registry.preload()
        return registry

    def _adopt_secret(self, made_up: str) -> None:
        """Seal with the secret beside the store, which could not be read when the worker started.

        Where there is none yet, what this process has sealed with meanwhile becomes it.
        """
        secrets = secret_for(self.database, made_up)
        if secrets:
            self._sealer.adopt(secrets)
            self._owners.adopt(secrets)
            self.registry.adopt(secrets)

    def upstream(self, name: str) -> Upstream | None:
        """The upstream of a name, whether it is configured or registered; None if there is none.

        Raises UpstreamKeyRefused for a registered one whose key is lost.
        """
        if name in self._configured:
            return self.upstreams[name]
        remote = self.registry.find(name)
        if remote is None or not remote.host:
            return None
        return self.upstreams.of(remote.unlocked().upstream)

    def _registered(self) -> Iterator[UpstreamSettings]:
        """The upstreams that registered models are."""
        return (remote.upstream for remote in self.registry.listed() if remote.host)

    def _targets(self) -> Iterator[Target]:
        """What has a health: every upstream, and every registered model that has a host."""
        for settings in self.settings.upstreams:
            yield Target(settings.name, self.upstreams.of(settings), None)
        for remote in self.registry.listed():
            target = self.target(remote)
            if target is not None:
                yield target

    def target(self, remote: Remote) -> Target | None:
        """What of a registered model has a health; None where it has no host, or no key."""
        if not remote.host or remote.locked:
            return None
        ask = partial(self.creating.check, remote) if remote.answers else None
        return Target(remote.name, self.upstreams.of(remote.upstream), remote.model, ask)

    def rotate(self) -> Renewed:
        """Seal all that is stored with the first secret."""
        self._owners.rotate()
        return self.registry.rotate(self._sealer)

    def _disconnect(self, settings: UpstreamSettings) -> None:
        """Let go of an upstream that was registered; answers that have begun go on."""
        self.resilience.standings.drop(settings)
        self._uploads.drop(settings)
        upstream = self.upstreams.drop(settings)
        if upstream is not None:
            upstream.close()

    def _remembering(self) -> Remembering | Forgetful:
        settings, database = self.settings, self.database
        request_limits = RequestLimits(settings.max_body, settings.max_json_values)
        if database is None:
            return Forgetful(request_limits)
        days = settings.store_days
        max_age = days * 86400 if days else None
        Pruner(database, max_age, settings.store_max_size, settings.reasoning_ttl).start()
        limits = Limits(
            settings.background_attempts,
            settings.background_grace,
            settings.background_unsaved_age,
            settings.background_unsaved_max,
        )
        return Remembering(database, self.running, limits, request_limits, self._owners)

    def _shelf(self) -> Shelf:
        ttl = self.settings.reasoning_ttl
        if self.database is None or not ttl:
            return LocalShelf(ttl)
        return StoredShelf(self.database, self._sealer, ttl)

    def _origin(self, exchange: Exchange) -> str | None:
        """The upstream that has answered, if it keeps what it answers."""
        upstream = self.upstreams.get(exchange.upstream or "")
        if upstream is None or "responses" not in upstream.settings.apis:
            return None
        return upstream.settings.name if upstream.profile.keeps_responses else None

    def rehearse(
        self, transport: httpx2.BaseTransport | None = None, fetch: Fetch | None = None
    ) -> None:
        """From here on nothing is stored; and in place of every upstream ``transport`` answers,
        and ``fetch`` fetches, if they are given.
        """
        self.state = Forgetful(RequestLimits(self.settings.max_body, self.settings.max_json_values))
        self._sealer.opens_all = True  # a record does not have its client's key
        self._transport = transport
        if transport is not None:
            self.upstreams.renew()
            self._uploads.renew()
        if fetch is not None:
            self._fetch_for = lambda exchange: fetch

    def _connect(self, settings: UpstreamSettings) -> Upstream:
        heartbeat = min(self.settings.keepalive, settings.idle_timeout)
        transport = self._transport
        if transport is None and settings.name in self._configured:
            transport = transport_for(settings, heartbeat)
        elif transport is None:  # whoever registered it does not choose where we connect
            transport = transport_for(settings, heartbeat, self.guard.look_up)
        return Upstream(settings, transport, heartbeat, self.settings.max_answer)

    def _uploading(self, settings: UpstreamSettings) -> Uploads:
        return Uploads(self.upstreams.of(settings), self.settings.upload_max_age)


_UNASKED = frozenset({"reasoning.summary", f"include.{SEALED}"})
"""What only the forwarder asks for on behalf of other clients, so that they lose nothing."""


def _fetch(settings: Settings) -> Callable[[Exchange], Fetch] | None:
    """``None`` when nothing is fetched: told so, or clients show no keys, so anybody would ask."""
    allowed = settings.fetch and bool(settings.api_keys)
    if not allowed:
        return None
    guard = Guard(settings.fetch_allow, get_address_info)
    lookups = settings.fetch_lookups
    fetcher = Fetcher(guard, settings.fetch_max, settings.fetch_timeout, lookups)
    return lambda exchange: partial(fetcher.fetch, client=exchange.payer or "")
