"""The model lists of the upstreams, cached for a few seconds, and the states derived from them.

An upstream in key passthrough mode may return a different list for each client key. Those lists
are cached per client.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any

from cachetools import LRUCache

from forwarder.config.parsers import is_pattern
from forwarder.context.client_identity import hash_client_key
from forwarder.context.request_context import Route
from forwarder.core.errors import ForwarderError, UpstreamKeyRefused, UpstreamRefused
from forwarder.core.types import Json
from forwarder.models import codex
from forwarder.models.registered_model import add_tag, strip_tag
from forwarder.models.router import CODEX_HELPER_MODELS, CODEX_REVIEWER, Router
from forwarder.protocols.registry import UPSTREAM_PROTOCOLS
from forwarder.upstream.client import Upstream
from forwarder.upstream.upstream_map import PerUpstream

_LIST_TIMEOUT_SECONDS = 5.0
"""Timeout of a model list request to an upstream."""

_NO_LIST_STATUSES = (404, 405, 501)
"""Statuses of providers that do not implement the model list."""

_MAX_CACHED_CLIENTS = 256
"""Maximum number of clients with cached lists. The least recently used one is evicted."""

ModelLists = dict[str, list[Json] | ForwarderError]


class ModelListCache:
    """Caches the model lists of ``upstreams`` for ``ttl`` seconds. Thread-safe."""

    def __init__(self, upstreams: dict[str, Upstream], ttl: float) -> None:
        self._upstreams = upstreams
        self._ttl = ttl
        self._lists: ModelLists = {}
        self._fetched_at = float("-inf")
        self._fetch_lock = threading.Lock()

    def get_fresh(self, client_key: str | None) -> ModelLists:
        """Return lists not older than the TTL.

        If they are stale, one caller fetches new lists and concurrent callers wait for it.
        """
        if self._is_stale():
            with self._fetch_lock:
                if self._is_stale():
                    self._lists = fetch_lists(self._upstreams, client_key)
                    self._fetched_at = time.monotonic()
        return self._lists

    def get_last(self, client_key: str | None) -> ModelLists:
        """Return the last lists, even stale ones. Only the first call waits for a fetch.

        If the lists are stale, a background thread fetches new ones.
        """
        if not self._lists:
            return self.get_fresh(client_key)
        if self._is_stale() and not self._fetch_lock.locked():
            threading.Thread(target=self.get_fresh, args=(client_key,), daemon=True).start()
        return self._lists

    def _is_stale(self) -> bool:
        return time.monotonic() - self._fetched_at > self._ttl


class Catalog:
    """Lists and finds the models of all upstreams; upstream lists are cached for ``ttl`` seconds.

    ``get_version`` returns a string that changes with the settings and the registered models.
    """

    def __init__(
        self,
        router: Router,
        upstreams: PerUpstream[Upstream],
        ttl: float,
        get_version: Callable[[], str] = str,
    ) -> None:
        self._router = router
        self._get_version = get_version
        self._all_upstreams = upstreams
        # Only configured upstreams are listed, so upstreams that are added later are ignored.
        self._upstreams = dict(upstreams)
        self._ttl = ttl
        self._lock = threading.Lock()
        self._lists = ModelListCache(self._upstreams, ttl)
        self._client_lists: LRUCache[str, ModelListCache] = LRUCache(_MAX_CACHED_CLIENTS)
        self._passthrough_upstreams = {
            n: u for n, u in upstreams.items() if u.settings.passthrough_key
        }

    def find_model(
        self, name: str, client_key: str | None = None, clients: Iterable[str] = UPSTREAM_PROTOCOLS
    ) -> Json | None:
        """Return the model object for ``name``.

        A name that is not listed but that the router assigns to an owner gets a minimal object.
        Returns ``None`` if there is no such model.
        """
        model = find_by_name(name, self.list_models(client_key, clients))
        owner = None if model else self._router.find_owner(name, clients, client_key)
        return make_model_object(name, owner) if owner else model

    def find_served_model(
        self, name: str, client: str, client_key: str | None = None
    ) -> Json | None:
        """Like `find_model`, but also accept a name that only the default rule can route.

        ``client`` is the client protocol. The upstream chosen by the default rule must list the
        model, or must not support model lists at all.
        """
        known = self.find_model(name, client_key, (client,))
        if known is not None:
            return {**known, "id": name}
        route = self._router.resolve(name, client, client_key)
        model = make_model_object(name, route.upstream.name)
        listed = self._get_all_lists(client_key).get(route.upstream.name)
        if isinstance(listed, list):
            upstream_model = find_by_name(route.model, listed)
            return {**model, **upstream_model, "id": name} if upstream_model else None
        has_no_list = isinstance(listed, UpstreamRefused) and listed.status in _NO_LIST_STATUSES
        return model if has_no_list else None

    def list_models(
        self, client_key: str | None = None, clients: Iterable[str] = UPSTREAM_PROTOCOLS
    ) -> list[Json]:
        """Return model objects under all names that requests can use, configured models first.

        A model listed as ``upstream/model`` is also listed as plain ``model`` if the plain name
        resolves to the same model for at least one of the protocols in ``clients``.
        """
        models: dict[str, Json] = {}

        def add_model(public: str, upstream: str, more: Json) -> None:
            names = [public]
            plain = public.removeprefix(f"{upstream}/")
            if plain != public and self._router.is_same_model(plain, public, clients, client_key):
                names.append(plain)
            for name in names:
                models.setdefault(name, {**make_model_object(name, upstream), **more, "id": name})

        for model_id, upstream in self._router.list_models(client_key):
            add_model(model_id, upstream, {})
        for upstream, listed in self._get_all_lists(client_key).items():
            for model in listed if isinstance(listed, list) else ():
                add_model(
                    self._router.make_public_id(upstream, model["id"], client_key), upstream, model
                )
        return list(models.values())

    def list_codex_entries(self, client_key: str | None = None) -> list[Json]:
        """Return Codex catalog entries for all listed models and for models named in the settings.

        The helper models that Codex requests by itself come last, with visibility "hide". Names
        that do not resolve to an upstream are skipped.
        """
        listed = self.list_models(client_key, (codex.CODEX_PROTOCOL,))
        models = {model["id"]: model for model in listed}
        for name in self._iter_configured_names(client_key):
            models.setdefault(name, make_model_object(name, ""))
        entries: list[Json] = []
        for name in dict.fromkeys((*models, *CODEX_HELPER_MODELS)):
            route = self._router.find_route(name, codex.CODEX_PROTOCOL, client_key)
            if route is not None:
                model = models.get(name) or make_model_object(name, "")
                entry = self._make_codex_entry(model, route, len(entries), client_key)
                entries.append(entry if name in models else {**entry, "visibility": "hide"})
        return entries

    def compute_etag(self) -> str:
        """Return an ETag that changes with the settings and the registered models.

        The ETag ignores upstream lists. Workers refresh those at different times, so Codex would
        fetch the catalog again whenever another worker answers.
        """
        return make_etag(self._get_version())

    def has_codex_helper(self, upstream: str, name: str, client_key: str | None) -> bool:
        """Check whether an upstream itself has the Codex helper model ``name``.

        This runs during request routing, so a stale model list is accepted.
        """
        if self._upstreams[upstream].profile.codex_models:
            return True
        cache = (
            self._get_client_cache(client_key) if upstream in self._passthrough_upstreams else None
        )
        listed = (cache or self._lists).get_last(client_key if cache else None).get(upstream)
        return isinstance(listed, list) and find_by_name(name, listed) is not None

    def _iter_configured_names(self, client_key: str | None) -> Iterator[str]:
        default = self._router.default_model
        remote = self._router.find_registered(default) if default else None
        if default and not (remote and remote.locked):
            yield default
        for name, upstream in self._upstreams.items():
            for model in upstream.settings.model_info:
                if not is_pattern(model):
                    yield self._router.make_public_id(name, model, client_key)

    def _make_codex_entry(
        self, model: Json, route: Route, rank: int, client_key: str | None
    ) -> Json:
        profile = self._all_upstreams.get_or_create(route.upstream).get_profile(route.model)
        reviewer = f"{route.upstream.name}/{CODEX_REVIEWER}"
        is_default_reviewer = self._router.codex_helper_model or self._router.is_same_model(
            CODEX_REVIEWER, reviewer, (codex.CODEX_PROTOCOL,), client_key
        )
        override = None if is_default_reviewer else reviewer
        return codex.make_entry(model, route, profile, rank, override)

    def describe_states(self, verbose: bool = False) -> dict[str, Any]:
        """Return upstream name -> ``{reachable, models}`` or ``{reachable, error}``.

        If the upstream refused its key on the last request, the state has ``error`` and
        ``key_accepted: false`` even beside a model list, since some providers publish their list.
        ``verbose`` adds ``{provider, learned}``: the profile name and the learned quirks by model.
        """
        lists = self._lists.get_fresh(None)
        states = {name: describe_list_state(listed) for name, listed in lists.items()}
        for name, state in states.items():
            refusal = self._upstreams[name].key_refusal
            if refusal:
                state.setdefault("error", refusal)
                state["key_accepted"] = False
            if verbose:
                upstream = self._upstreams[name]
                state["provider"] = upstream.profile.name
                state["learned"] = upstream.learned_quirks.describe()
        return states

    def _get_all_lists(self, client_key: str | None) -> ModelLists:
        cache = self._get_client_cache(client_key)
        return {**self._lists.get_fresh(None), **(cache.get_fresh(client_key) if cache else {})}

    def _get_client_cache(self, client_key: str | None) -> ModelListCache | None:
        """Return the client's cache for the upstreams in key passthrough mode, if any."""
        if client_key is None or not self._passthrough_upstreams:
            return None
        owner = hash_client_key(client_key)
        with self._lock:
            return self._client_lists.setdefault(
                owner, ModelListCache(self._passthrough_upstreams, self._ttl)
            )


def find_by_name(name: str, models: list[Json]) -> Json | None:
    """Return the model with this id; ids with and without the tag ``:latest`` are equivalent."""
    by_id = {model["id"]: model for model in models}
    matches = (by_id[form] for form in (name, strip_tag(name), add_tag(name)) if form in by_id)
    return next(matches, None)


def fetch_lists(upstreams: dict[str, Upstream], client_key: str | None) -> ModelLists:
    """Fetch the lists of all upstreams in parallel; the result of a failed fetch is its error."""
    with ThreadPoolExecutor(max(1, len(upstreams))) as pool:
        lists = pool.map(lambda upstream: fetch_list(upstream, client_key), upstreams.values())
        return dict(zip(upstreams, lists, strict=True))


def fetch_list(upstream: Upstream, client_key: str | None) -> list[Json] | ForwarderError:
    try:
        return upstream.list_models(_LIST_TIMEOUT_SECONDS, client_key)
    except ForwarderError as error:
        return error


def describe_list_state(listed: list[Json] | ForwarderError) -> Json:
    if isinstance(listed, list):
        return {"reachable": True, "models": len(listed)}
    # Not every provider lists its models, but any answer below 500 proves that it is reachable.
    if isinstance(listed, UpstreamRefused) and listed.status < 500:
        return {"reachable": True, "models": None}
    key_state = {"key_accepted": False} if isinstance(listed, UpstreamKeyRefused) else {}
    return {"reachable": False, "error": listed.message, **key_state}


def make_model_object(model_id: str, owner: str) -> Json:
    return {"id": model_id, "object": "model", "created": 0, "owned_by": owner}


@lru_cache(maxsize=8)
def make_etag(version: str) -> str:
    """Return the ETag of a version of the catalog; each Responses answer has one."""
    return f'W/"{hashlib.sha256(version.encode()).hexdigest()[:32]}"'
