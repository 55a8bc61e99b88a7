"""The composition root: builds and connects the objects that live as long as the process.

`Services.build` opens the database. Constructors open nothing and start no threads. Background
loops begin in `Services.start` and end in `Services.close`. Only the application starts them:
commands and replays need none.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from secrets import token_urlsafe
from typing import NamedTuple

import httpx2

from forwarder.client_keys.budgets import BudgetObserver
from forwarder.client_keys.registry import ClientKeyRegistry, build_client_keys
from forwarder.config.settings import Settings, UpstreamSettings
from forwarder.config.upstream_endpoints import ORIGIN_SIGN
from forwarder.context.client_identity import ClientNames
from forwarder.context.request_context import RequestContext, RequestObserver
from forwarder.core.blocking_work import get_address_info
from forwarder.core.body_memory import PEAK_COPIES, BodyMemory
from forwarder.core.cleanup import CleanupStack
from forwarder.core.client_headers import HeaderSelection
from forwarder.core.encryption import TokenCipher
from forwarder.core.errors import Unsupported
from forwarder.core.form_disk_limit import FormDiskLimit
from forwarder.core.in_flight_requests import InFlightRequests
from forwarder.core.periodic_task import PeriodicTask
from forwarder.core.ssrf import AddressGuard
from forwarder.hosted_tools.tool_services import HostedToolServices
from forwarder.middleware.media import Fetcher, UploadCache
from forwarder.middleware.media.stage import Fetch
from forwarder.middleware.reasoning_cache import ReasoningCache
from forwarder.middleware.reasoning_cache.memory_backend import CacheBackend, MemoryBackend
from forwarder.middleware.reasoning_cache.signatures import SignatureCache
from forwarder.models.catalog import Catalog
from forwarder.models.codex import digest_settings
from forwarder.models.registration import ModelRegistration
from forwarder.models.registry import DatabaseModelRegistry, ModelRegistry, NullModelRegistry
from forwarder.models.router import Router
from forwarder.models.upstream_health import HealthMonitor, HealthTargets, record_verification
from forwarder.observability.capture import CaptureObserver, make_capture_observer
from forwarder.observability.logging import log_configuration
from forwarder.observability.metrics import MetricsObserver, ProcessState, read_resident_memory
from forwarder.providers.learned_cache import LearnedQuirks
from forwarder.storage import (
    ConversationStore,
    DatabaseConversationStore,
    NullConversationStore,
    OwnerResolver,
    RequestLimits,
)
from forwarder.storage.background import BackgroundLimits
from forwarder.storage.db import Database, Pruner, load_secrets, open_database
from forwarder.storage.db.reencryption import ReencryptionReport
from forwarder.storage.files import FileStore
from forwarder.storage.reasoning_cache import DatabaseBackend
from forwarder.storage.repositories.files import FileRepository
from forwarder.storage.repositories.usage import UsageRepository
from forwarder.upstream.client import Upstream
from forwarder.upstream.resilience import Resilience, UpstreamState
from forwarder.upstream.resilience.shared_state import RedisStorage, SharedState
from forwarder.upstream.transport import select_transport
from forwarder.upstream.upstream_map import PerUpstream
from forwarder.usage.counter import UsageCounter
from forwarder.usage.prices import PriceTable
from forwarder.usage.report import UsageReporter
from forwarder.usage.store import MemoryUsageStore, UsageStore

log = logging.getLogger("forwarder.services")

PROCESS_SAMPLE_SECONDS = 5.0
"""Seconds between two updates of the metrics of this worker."""

MakeFetch = Callable[[RequestContext], Fetch | None]
"""Returns the media fetcher for the client of a context, None if URLs are not fetched for it."""


class ReplayOverrides(NamedTuple):
    """Replacements for the replay of a captured request, which stores no answer.

    ``transport`` answers instead of all upstreams, and ``fetch`` replaces the media fetcher.
    """

    transport: httpx2.BaseTransport | None = None
    fetch: Fetch | None = None


@dataclass(eq=False)
class Services:
    """The long-lived objects of a process.

    ``observers`` see each request; ``usage`` is one of them, except in a replay. ``metrics`` also
    receives the events of upstreams. ``capture`` and ``database`` are None if they are off, and
    ``files`` is None without a database. ``store`` keeps conversations; `require_store` returns it
    with the operations that need a database.
    """

    settings: Settings
    client_keys: ClientKeyRegistry
    client_names: ClientNames
    observers: list[RequestObserver]
    usage: UsageCounter
    usage_reports: UsageReporter
    budgets: BudgetObserver
    metrics: RequestObserver
    capture: CaptureObserver | None
    header_selection: HeaderSelection
    running: InFlightRequests
    body_memory: BodyMemory
    form_disk: FormDiskLimit
    database: Database | None
    pruner: Pruner | None
    cipher: TokenCipher
    owners: OwnerResolver
    store: ConversationStore
    reasoning_cache: ReasoningCache
    signature_cache: SignatureCache
    upstreams: PerUpstream[Upstream]
    uploads: PerUpstream[UploadCache]
    files: FileStore | None
    resilience: Resilience
    hosted_tools: HostedToolServices
    make_fetch: MakeFetch
    registry: ModelRegistry
    router: Router
    catalog: Catalog
    registration: ModelRegistration
    health_targets: HealthTargets
    health: HealthMonitor
    process_sampler: PeriodicTask | None
    shared_state: SharedState | None
    _is_started: bool = field(default=False, init=False)
    _is_closed: bool = field(default=False, init=False)

    @classmethod
    def build(cls, settings: Settings, replay: ReplayOverrides | None = None) -> Services:
        """Open the database and build all objects; the caller closes them.

        If the database is not usable yet, it retries in the background; this raises no error.
        """
        metrics = MetricsObserver(settings) if settings.metrics else RequestObserver()
        guard = AddressGuard(settings.remote_allow)
        connector = UpstreamConnector(settings, guard, replay.transport if replay else None)
        upstreams = PerUpstream(connector.connect, settings.upstreams)
        connect_replicas(settings.upstreams, upstreams)
        uploads = PerUpstream(
            lambda each: UploadCache(upstreams.get_or_create(each).files, settings.upload_max_age),
            settings.upstreams,
        )
        resilience = Resilience(settings, metrics)
        shared_state = build_shared_state(settings)
        if shared_state is not None:
            resilience.share_states(shared_state)

        database = open_database(settings.database_url)
        new_secret = token_urlsafe(32)
        secrets = settings.secret_keys or load_secrets(database, new_secret)
        cipher = TokenCipher(secrets or (new_secret,))
        # A capture does not contain its client's key.
        cipher.accepts_all_owners = replay is not None
        owners = OwnerResolver(database, (), settings.client_names)
        owners.add_secrets(secrets)
        registry = build_registry(
            database, secrets, partial(drop_upstream, upstreams, uploads, resilience)
        )
        if database is not None and database.kind == "sqlite" and not secrets:
            adopt = partial(adopt_secret, database, new_secret, cipher, owners, registry)
            database.recovery_callbacks.append(adopt)
        client_keys = build_client_keys(settings, database, is_replay=replay is not None)
        cache_backend = build_cache_backend(settings, database, cipher)
        running = InFlightRequests()
        store = build_store(settings, None if replay else database, running, owners)

        router = Router(settings, registry.find, registry.list_models)
        digest = digest_settings(settings)
        catalog = Catalog(
            router, upstreams, settings.ready_ttl, lambda: f"{digest} {registry.get_version()}"
        )
        router.check_codex_helper = catalog.has_codex_helper
        registration = ModelRegistration(
            registry, catalog, guard, connector.connect, connector.configured_names
        )
        health_targets = HealthTargets(
            settings.upstreams, upstreams, registry, registration.probe_registered
        )
        health = HealthMonitor(health_targets.list_targets, metrics, settings.health_ask_interval)
        registration.on_verified = partial(record_verification, health_targets, health)
        hosted_tools = HostedToolServices(
            settings, is_offline=replay is not None, needs_keys=client_keys.are_required
        )
        capture = make_capture_observer(
            settings, partial(list_registered_upstreams, registry), hosted_tools.secrets
        )
        usage_store = build_usage_store(settings, database)
        usage = UsageCounter(usage_store, settings.usage_interval)
        prices = PriceTable(settings)
        budgets = BudgetObserver(usage_store, prices, usage.flush, metrics)
        if replay is None:  # a replay's own settings are not the operator's configuration
            log_configuration(settings)
        return cls(
            settings=settings,
            client_keys=client_keys,
            client_names=ClientNames(settings, client_keys.find_name),
            observers=[
                *([metrics] if settings.metrics else []),
                *([] if replay else [usage, budgets]),
                *([capture] if capture else []),
            ],
            usage=usage,
            usage_reports=UsageReporter(usage_store, prices, usage.flush),
            budgets=budgets,
            metrics=metrics,
            capture=capture,
            header_selection=HeaderSelection(settings.client_headers),
            running=running,
            body_memory=build_body_memory(settings),
            form_disk=build_form_disk(settings),
            database=database,
            pruner=build_pruner(settings, database),
            cipher=cipher,
            owners=owners,
            store=store,
            reasoning_cache=ReasoningCache(cache_backend),
            signature_cache=SignatureCache(cache_backend),
            upstreams=upstreams,
            uploads=uploads,
            files=build_file_store(settings, database),
            resilience=resilience,
            hosted_tools=hosted_tools,
            make_fetch=build_fetch_factory(
                settings, client_keys.are_required, replay.fetch if replay else None
            ),
            registry=registry,
            router=router,
            catalog=catalog,
            registration=registration,
            health_targets=health_targets,
            health=health,
            process_sampler=build_process_sampler(
                metrics, running, database, store, resilience.list_endpoint_states
            ),
            shared_state=None if replay else shared_state,
        )

    # -- life -----------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the background loops; repeated calls have no effect."""
        if self._is_closed:
            raise RuntimeError("closed services cannot be started")
        if self._is_started:
            return
        self._is_started = True
        if self.settings.tracing:  # only here, because the exporter starts a thread
            self.observers.extend(build_tracing())
        self.usage.start()
        self.client_keys.start()
        if self.capture is not None:
            self.capture.start()
        if self.pruner is not None:
            self.pruner.start()
        if self.settings.health_interval:
            self.health.start(self.settings.health_interval)
        if self.process_sampler is not None:
            self.process_sampler.start()
        if self.shared_state is not None:
            self.shared_state.start()

    def close(self) -> None:
        """End the background loops, and close connections and the database.

        Requests in flight are not ended: see `InFlightRequests.stop`. Repeated calls have no
        effect.
        """
        if self._is_closed:
            return
        self._is_closed = True
        cleanup = CleanupStack()  # the last one is closed first
        if self.database is not None:
            cleanup.add(self.database.close)
        for upstream in self.upstreams.values():
            cleanup.add(upstream.close)
        for uploads in self.uploads.values():
            cleanup.add(uploads.close)
        for observer in self.observers:
            cleanup.add(observer.close)
        cleanup.add(self.usage_reports.close)
        cleanup.add(self.client_keys.close)
        cleanup.add(self.hosted_tools.close)
        cleanup.add(self.health.stop)
        if self.process_sampler is not None:
            cleanup.add(self.process_sampler.stop)
        if self.shared_state is not None:
            cleanup.add(self.shared_state.stop)
        cleanup.close()

    def __enter__(self) -> Services:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- lookups --------------------------------------------------------------------------------

    def require_store(self) -> DatabaseConversationStore:
        """Return the conversation store; raises Unsupported if nothing is stored."""
        if not isinstance(self.store, DatabaseConversationStore):
            raise make_store_disabled_error()
        return self.store

    @property
    def stores_files(self) -> bool:
        """Whether the files of clients are in the database, and not at an upstream."""
        if self.settings.files != "auto":
            return self.settings.files == "store"
        has_upstream = self.router.default_file_upstream is not None and not self.settings.demo
        return not has_upstream and self.files is not None

    def require_files(self) -> FileStore:
        """Return the files of clients; raises Unsupported if nothing is stored."""
        if self.files is None:
            raise make_store_disabled_error()
        return self.files

    def find_upstream(self, name: str) -> Upstream | None:
        """Return the configured or registered upstream of this name, or None.

        An endpoint's origin selects that endpoint, an upstream's name its first endpoint.
        Raises UpstreamKeyRefused if the key of a registered upstream cannot be decrypted.
        """
        upstream_name, is_origin, _ = name.partition(ORIGIN_SIGN)
        for each in self.settings.upstreams:
            endpoint = each.find_endpoint(name) if each.name == upstream_name else None
            if endpoint is not None:
                return self.upstreams.get_or_create(endpoint)
        if is_origin and any(each.name == upstream_name for each in self.settings.upstreams):
            return None
        remote = self.registry.find(name)
        if remote is None or not remote.host:
            return None
        return self.upstreams.get_or_create(remote.require_key().upstream)

    def rotate_keys(self) -> ReencryptionReport:
        """Encrypt everything that is stored with the first secret."""
        self.owners.rotate_keys()
        return self.registry.rotate_secrets(self.cipher)


# -- upstreams ------------------------------------------------------------------------------------


class UpstreamConnector:
    """Creates upstreams from their settings; ``transport`` replaces the transport of each."""

    def __init__(
        self, settings: Settings, guard: AddressGuard, transport: httpx2.BaseTransport | None
    ) -> None:
        self.configured_names = frozenset(each.name for each in settings.upstreams)
        self._settings = settings
        self._guard = guard
        self._transport = transport
        self._learned_quirks: dict[str, LearnedQuirks] = {}

    def connect(self, upstream: UpstreamSettings) -> Upstream:
        """Create an upstream. Its first request opens a connection."""
        heartbeat = min(self._settings.keepalive, upstream.idle_timeout)
        transport = self._transport
        if transport is None and upstream.name in self.configured_names:
            transport = select_transport(upstream, heartbeat)
        elif transport is None:  # a registered host must not resolve to a private address
            transport = select_transport(upstream, heartbeat, self._guard.look_up)
        client = Upstream(upstream, transport, heartbeat, self._settings.max_answer)
        if upstream.endpoint is not None:  # all endpoints refuse the same requests
            client.learned_quirks = self._learned_quirks.setdefault(
                upstream.name, client.learned_quirks
            )
        return client


def connect_replicas(
    settings: Sequence[UpstreamSettings], upstreams: PerUpstream[Upstream]
) -> None:
    """Set `Upstream.list_replicas` of each first endpoint."""

    def list_upstreams(replicas: Sequence[UpstreamSettings]) -> list[Upstream]:
        return [upstreams.get_or_create(replica) for replica in replicas]

    for each in settings:
        if each.replicas:
            upstreams[each.name].list_replicas = partial(list_upstreams, each.replicas)


def build_shared_state(settings: Settings) -> SharedState | None:
    """Return the object that shares cooldowns and breakers through Redis; None without Redis."""
    if settings.rate_storage.startswith("memory"):
        return None
    return SharedState(RedisStorage(settings.rate_storage))


def drop_upstream(
    upstreams: PerUpstream[Upstream],
    uploads: PerUpstream[UploadCache],
    resilience: Resilience,
    settings: UpstreamSettings,
) -> None:
    """Forget and close a registered upstream; running answers continue."""
    resilience.upstream_states.drop(settings)
    uploads.drop(settings)
    upstream = upstreams.drop(settings)
    if upstream is not None:
        upstream.close()


def list_registered_upstreams(registry: ModelRegistry) -> Iterator[UpstreamSettings]:
    """Yield the upstreams of registered models."""
    return (remote.upstream for remote in registry.list_models() if remote.host)


def build_fetch_factory(
    settings: Settings, needs_keys: Callable[[], bool], fetch: Fetch | None
) -> MakeFetch:
    """Return the factory of media fetchers, which returns ``fetch`` if that is given.

    The factory returns None if fetching is off or while clients need no keys.
    """
    if fetch is not None:
        return lambda context: fetch
    if not settings.fetch:
        return lambda context: None
    guard = AddressGuard(settings.fetch_allow, get_address_info)
    lookups = settings.fetch_lookups
    fetcher = Fetcher(guard, settings.fetch_max, settings.fetch_timeout, lookups)

    def make_fetch(context: RequestContext) -> Fetch | None:
        if not needs_keys():
            return None
        return partial(fetcher.fetch_all, client=context.account_id or "")

    return make_fetch


def build_body_memory(settings: Settings) -> BodyMemory:
    # One body of the maximum size always has room.
    return BodyMemory(max(settings.max_body_memory, settings.max_body * PEAK_COPIES))


# -- metrics --------------------------------------------------------------------------------------


def build_process_sampler(
    metrics: RequestObserver,
    running: InFlightRequests,
    database: Database | None,
    store: ConversationStore,
    list_endpoint_states: Callable[[], Sequence[UpstreamState]] = tuple,
) -> PeriodicTask | None:
    """Return the task that updates the metrics of this worker; None if metrics are off."""
    if not isinstance(metrics, MetricsObserver):
        return None

    def record_state() -> None:
        state = ProcessState(
            memory_bytes=read_resident_memory(),
            running_requests=len(running),
            background_jobs=(
                store.background.job_count if isinstance(store, DatabaseConversationStore) else 0
            ),
            store_kind=None if database is None else database.kind,
            is_store_up=database is not None and database.get_error() is None,
        )
        metrics.record_process(state)
        for endpoint in list_endpoint_states():
            metrics.record_endpoint(endpoint.settings, endpoint.condition)

    return PeriodicTask(record_state, lambda: PROCESS_SAMPLE_SECONDS, runs_at_once=True)


# -- storage --------------------------------------------------------------------------------------


def build_registry(
    database: Database | None,
    secrets: Sequence[str],
    on_drop: Callable[[UpstreamSettings], object],
) -> ModelRegistry:
    if database is None:
        return NullModelRegistry()
    registry = DatabaseModelRegistry(database, secrets, on_drop)
    registry.preload_models()
    return registry


def adopt_secret(
    database: Database,
    new_secret: str,
    cipher: TokenCipher,
    owners: OwnerResolver,
    registry: ModelRegistry,
) -> None:
    """Use the secret file beside the database once the database can be read.

    If there is no such file, the secret that this process made up is saved as one.
    """
    secrets = load_secrets(database, new_secret)
    if secrets:
        cipher.add_secrets(secrets)
        owners.add_secrets(secrets)
        registry.adopt_secrets(secrets)


def build_store(
    settings: Settings,
    database: Database | None,
    running: InFlightRequests,
    owners: OwnerResolver,
) -> ConversationStore:
    request_limits = RequestLimits(settings.max_body, settings.max_json_values)
    if database is None:
        return NullConversationStore(request_limits)
    limits = BackgroundLimits(
        settings.background_attempts,
        settings.background_grace,
        settings.background_unsaved_age,
        settings.background_unsaved_max,
    )
    return DatabaseConversationStore(database, running, limits, request_limits, owners)


def build_file_store(settings: Settings, database: Database | None) -> FileStore | None:
    if database is None:
        return None
    return FileStore(FileRepository(database), settings.file_max, settings.files_max)


def make_store_disabled_error() -> Unsupported:
    return Unsupported("Nothing is stored here.", code="store_disabled")


def build_pruner(settings: Settings, database: Database | None) -> Pruner | None:
    if database is None:
        return None
    max_age, usage_max_age = convert_days(settings.store_days), convert_days(settings.usage_days)
    return Pruner(database, max_age, settings.store_max_size, settings.reasoning_ttl, usage_max_age)


def build_usage_store(settings: Settings, database: Database | None) -> UsageStore:
    if database is None:
        return MemoryUsageStore(convert_days(settings.usage_days))
    return UsageRepository(database)


def convert_days(days: float) -> float | None:
    """Return seconds; None (no limit) for 0 days."""
    return days * 86400 or None


def build_cache_backend(
    settings: Settings, database: Database | None, cipher: TokenCipher
) -> CacheBackend:
    if database is None or not settings.reasoning_ttl:
        return MemoryBackend(settings.reasoning_ttl)
    return DatabaseBackend(database, cipher, settings.reasoning_ttl)


def build_tracing() -> Iterator[RequestObserver]:
    """Yield the observer of traces, if its library is installed."""
    # Imported here: without traces, the process does not load the library.
    try:
        from forwarder.observability.tracing import make_tracing_observer
    except ImportError as error:
        log.error(
            "Tracing is off although an OpenTelemetry endpoint is set: '%s' is not installed "
            "(pip install -r requirements-otel.txt).",
            error.name,
            extra={"event": "tracing_unavailable"},
        )
    else:
        yield make_tracing_observer()


def build_form_disk(settings: Settings) -> FormDiskLimit:
    # One form of the maximum size always has room.
    return FormDiskLimit(max(settings.max_form_files, settings.max_body, settings.file_max))
