"""What the upstreams list, and whether they answer; asked at most once every few seconds.

An upstream that is used with its clients' keys may list other models to each of them.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from forwarder.config.parsers import is_pattern
from forwarder.context.client_identity import hash_client_key
from forwarder.context.route import Route
from forwarder.core.errors import ForwarderError, UpstreamKeyRefused, UpstreamRefused
from forwarder.core.types import Json
from forwarder.models import codex
from forwarder.models.names import add_tag, strip_tag
from forwarder.models.router import CODEX_HELPER_MODELS, CODEX_REVIEWER, UPSTREAM_PROTOCOLS, Router
from forwarder.upstream.client import Upstream
from forwarder.upstream.pool import UpstreamPool

_LIST_TIMEOUT_SECONDS = 5.0
"""Seconds that an upstream has for its list."""

_NO_LIST_STATUSES = (404, 405, 501)
"""What a provider answers that has no list."""

_MAX_CACHED_CLIENTS = 256
"""Clients whose lists are kept; the one that asked first goes first."""

ModelLists = dict[str, list[Json] | ForwarderError]


class ModelListCache:
    """The lists of some upstreams, kept for ``ttl`` seconds."""

    def __init__(self, upstreams: dict[str, Upstream], ttl: float) -> None:
        self._upstreams = upstreams
        self._ttl = ttl
        self._lists: ModelLists = {}
        self._fetched_at = float("-inf")
        self._fetch_lock = threading.Lock()

    def get_fresh(self, client_key: str | None) -> ModelLists:
        """Lists that are not too old; one caller asks for new ones, and others wait for them."""
        if self._is_stale():
            with self._fetch_lock:
                if self._is_stale():
                    self._lists = fetch_lists(self._upstreams, client_key)
                    self._fetched_at = time.monotonic()
        return self._lists

    def get_last(self, client_key: str | None) -> ModelLists:
        """The last lists, however old; waits only for the first.  Old ones are then renewed."""
        if not self._lists:
            return self.get_fresh(client_key)
        if self._is_stale() and not self._fetch_lock.locked():
            threading.Thread(target=self.get_fresh, args=(client_key,), daemon=True).start()
        return self._lists

    def _is_stale(self) -> bool:
        return time.monotonic() - self._fetched_at > self._ttl


class Catalog:
    """The lists of all upstreams, kept for ``ttl`` seconds.

    ``edition`` gives another string when the settings or the registered models have changed.
    """

    def __init__(
        self,
        router: Router,
        upstreams: UpstreamPool[Upstream],
        ttl: float,
        edition: Callable[[], str] = str,
    ) -> None:
        self._router = router
        self._get_version = edition
        self._all_upstreams = upstreams
        self._upstreams = dict(upstreams)  # those of the configuration; others list nothing here
        self._ttl = ttl
        self._lock = threading.Lock()
        self._lists = ModelListCache(self._upstreams, ttl)
        self._client_lists: OrderedDict[str, ModelListCache] = OrderedDict()
        self._passthrough_upstreams = {
            n: u for n, u in upstreams.items() if u.settings.passthrough_key
        }

    def find_model(
        self, name: str, client_key: str | None = None, clients: Iterable[str] = UPSTREAM_PROTOCOLS
    ) -> Json | None:
        """One of the models, or one that is not listed, but whose name leads to an upstream."""
        found = find_by_name(name, self.list_models(client_key, clients))
        owner = None if found else self._router.find_owner(name, clients, client_key)
        return make_model_object(name, owner) if owner else found

    def find_served_model(
        self, name: str, client: str, client_key: str | None = None
    ) -> Json | None:
        """The same, or what the default rule has for a ``client`` under a name that nobody claims.

        Its upstream lists it, or has no list that could lack it.
        """
        found = self.find_model(name, client_key, (client,))
        if found is not None:
            return {**found, "id": name}
        route = self._router.resolve(name, client, client_key)
        model = make_model_object(name, route.upstream.name)
        listed = self._get_all_lists(client_key).get(route.upstream.name)
        if isinstance(listed, list):
            own = find_by_name(route.model, listed)
            return {**model, **own, "id": name} if own else None
        return (
            model
            if isinstance(listed, UpstreamRefused) and listed.status in _NO_LIST_STATUSES
            else None
        )

    def list_models(
        self, client_key: str | None = None, clients: Iterable[str] = UPSTREAM_PROTOCOLS
    ) -> list[Json]:
        """Model objects under the names that requests can use, configured ones first.

        A model that has its upstream's name before its own is listed by its plain name too, where
        that leads to it for one of ``clients``, which are protocols.
        """
        found: dict[str, Json] = {}
        lead_to_same_model = self._router.is_same_model

        def add_model(public: str, upstream: str, more: Json) -> None:
            names = [public]
            plain = public.removeprefix(f"{upstream}/")
            if plain != public and lead_to_same_model(plain, public, clients, client_key):
                names.append(plain)
            for name in names:
                found.setdefault(name, {**make_model_object(name, upstream), **more, "id": name})

        for model_id, upstream in self._router.list_models(client_key):
            add_model(model_id, upstream, {})
        for upstream, listed in self._get_all_lists(client_key).items():
            for model in listed if isinstance(listed, list) else ():
                add_model(
                    self._router.make_public_id(upstream, model["id"], client_key), upstream, model
                )
        return list(found.values())

    def list_codex_entries(self, client_key: str | None = None) -> list[Json]:
        """Codex's entries for the same models, and for those that the settings only name.

        The models that Codex asks for by itself come last; its users do not see them in its menu.
        A name that leads nowhere is left out.
        """
        models = {model["id"]: model for model in self.list_models(client_key, ("responses",))}
        for name in self._iter_configured_names(client_key):
            models.setdefault(name, make_model_object(name, ""))
        entries: list[Json] = []
        for name in dict.fromkeys((*models, *CODEX_HELPER_MODELS)):
            route = self._router.find_route(name, "responses", client_key)
            if route is not None:
                model = models.get(name) or make_model_object(name, "")
                entry = self._make_codex_entry(model, route, len(entries), client_key)
                entries.append(entry if name in models else {**entry, "visibility": "hide"})
        return entries

    def compute_etag(self) -> str:
        """Another string when the settings or the registered models change.

        The upstreams' own lists have no part in it: workers learn of their changes at different
        times, and Codex would fetch the catalog again with each worker that answers it.
        """
        return f'W/"{hashlib.sha256(self._get_version().encode()).hexdigest()[:32]}"'

    def has_codex_helper(self, upstream: str, name: str, client_key: str | None) -> bool:
        """Does an upstream itself have this model that Codex asks for by itself?

        Requests depend on it, so the last list that it gave is good enough.
        """
        if self._upstreams[upstream].profile.codex_models:
            return True
        theirs = (
            self._get_client_cache(client_key) if upstream in self._passthrough_upstreams else None
        )
        listed = (theirs or self._lists).get_last(client_key if theirs else None).get(upstream)
        return isinstance(listed, list) and find_by_name(name, listed) is not None

    def _iter_configured_names(self, client_key: str | None) -> Iterator[str]:
        usual = self._router.default_model
        remote = self._router.find_registered(usual) if usual else None
        if usual and not (remote and remote.locked):
            yield usual
        for name, upstream in self._upstreams.items():
            for model in upstream.settings.model_info:
                if not is_pattern(model):
                    yield self._router.make_public_id(name, model, client_key)

    def _make_codex_entry(
        self, model: Json, route: Route, rank: int, client_key: str | None
    ) -> Json:
        """The entry of a model to which ``route`` leads; ``rank`` is its place, from 0."""
        profile = self._all_upstreams.get_or_create(route.upstream).get_profile(route.model)
        reviewer = f"{route.upstream.name}/{CODEX_REVIEWER}"
        leads_there = self._router.codex_helper_model or self._router.is_same_model(
            CODEX_REVIEWER, reviewer, ("responses",), client_key
        )
        return codex.make_entry(model, route, profile, rank, None if leads_there else reviewer)

    def describe_states(self, verbose: bool = False) -> dict[str, Any]:
        """Upstream name -> ``{reachable, models}`` or ``{reachable, error}``.

        A key that was refused to the last request is an ``error`` beside a list of models: some
        providers show theirs to everybody.
        With ``verbose`` also ``{provider, learned}``: whose profile it has, and by model what its
        refusals have taught.
        """
        states = {name: describe_list_state(listed) for name, listed in self._get_lists().items()}
        for name, state in states.items():
            refusal = self._upstreams[name].key_refusal
            if refusal:
                state.setdefault("error", refusal)
                state["key_accepted"] = False
        return (
            {n: {**s, **self._describe_profile(n)} for n, s in states.items()}
            if verbose
            else states
        )

    def _describe_profile(self, name: str) -> Json:
        upstream = self._upstreams[name]
        return {"provider": upstream.profile.name, "learned": upstream.learned_quirks.describe()}

    def _get_lists(self) -> ModelLists:
        return self._lists.get_fresh(None)

    def _get_all_lists(self, client_key: str | None) -> ModelLists:
        """The lists of all upstreams, as a client is told them."""
        theirs = self._get_client_cache(client_key)
        return {**self._get_lists(), **(theirs.get_fresh(client_key) if theirs else {})}

    def _get_client_cache(self, client_key: str | None) -> ModelListCache | None:
        """What those upstreams list to a client that are used with its key."""
        if client_key is None or not self._passthrough_upstreams:
            return None
        owner = hash_client_key(client_key)
        with self._lock:
            cache = self._client_lists.setdefault(
                owner, ModelListCache(self._passthrough_upstreams, self._ttl)
            )
            self._client_lists.move_to_end(owner)
            while len(self._client_lists) > _MAX_CACHED_CLIENTS:
                self._client_lists.popitem(last=False)
        return cache


def find_by_name(name: str, models: list[Json]) -> Json | None:
    """The model of a name, with its tag ``latest`` or without."""
    by_id = {model["id"]: model for model in models}
    found = (by_id[form] for form in (name, strip_tag(name), add_tag(name)) if form in by_id)
    return next(found, None)


def fetch_lists(upstreams: dict[str, Upstream], client_key: str | None) -> ModelLists:
    """The lists of these upstreams, asked at once."""
    with ThreadPoolExecutor(max(1, len(upstreams))) as at_once:
        asked = at_once.map(lambda upstream: fetch_list(upstream, client_key), upstreams.values())
        return dict(zip(upstreams, asked, strict=True))


def fetch_list(upstream: Upstream, client_key: str | None) -> list[Json] | ForwarderError:
    try:
        return upstream.list_models(_LIST_TIMEOUT_SECONDS, client_key)
    except ForwarderError as error:
        return error


def describe_list_state(listed: list[Json] | ForwarderError) -> Json:
    if isinstance(listed, list):
        return {"reachable": True, "models": len(listed)}
    # Not every provider lists its models; an answer, whatever it says, shows that it is there.
    if isinstance(listed, UpstreamRefused) and listed.status < 500:
        return {"reachable": True, "models": None}
    told = {"key_accepted": False} if isinstance(listed, UpstreamKeyRefused) else {}
    return {"reachable": False, "error": listed.message, **told}


def make_model_object(model_id: str, owner: str) -> Json:
    return {"id": model_id, "object": "model", "created": 0, "owned_by": owner}
