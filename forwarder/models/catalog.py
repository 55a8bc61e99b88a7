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
from forwarder.context.client_identity import digest_key
from forwarder.context.route import Route
from forwarder.core.errors import ForwarderError, UpstreamKeyRefused, UpstreamRefused
from forwarder.core.types import Json
from forwarder.models import codex
from forwarder.models.names import full, short
from forwarder.models.router import CODEX_HELPERS, CODEX_REVIEWER, PROTOCOLS, Router
from forwarder.upstream.client import Upstream
from forwarder.upstream.pool import PerUpstream

_TIMEOUT = 5.0
"""Seconds that an upstream has for its list."""

_NO_LIST = (404, 405, 501)
"""What a provider answers that has no list."""

_MOST_KEYS = 256
"""Clients whose lists are kept; the one that asked first goes first."""

_Lists = dict[str, list[Json] | ForwarderError]


class ListCache:
    """The lists of some upstreams, kept for ``ttl`` seconds."""

    def __init__(self, upstreams: dict[str, Upstream], ttl: float) -> None:
        self._upstreams = upstreams
        self._ttl = ttl
        self._lists: _Lists = {}
        self._asked = float("-inf")
        self._asking = threading.Lock()

    def ask(self, client_key: str | None) -> _Lists:
        """Lists that are not too old; one caller asks for new ones, and others wait for them."""
        if self._is_old():
            with self._asking:
                if self._is_old():
                    self._lists = _ask(self._upstreams, client_key)
                    self._asked = time.monotonic()
        return self._lists

    def get_last(self, client_key: str | None) -> _Lists:
        """The last lists, however old; waits only for the first.  Old ones are then renewed."""
        if not self._lists:
            return self.ask(client_key)
        if self._is_old() and not self._asking.locked():
            threading.Thread(target=self.ask, args=(client_key,), daemon=True).start()
        return self._lists

    def _is_old(self) -> bool:
        return time.monotonic() - self._asked > self._ttl


class Catalog:
    """The lists of all upstreams, kept for ``ttl`` seconds.

    ``edition`` gives another string when the settings or the registered models have changed.
    """

    def __init__(
        self,
        router: Router,
        upstreams: PerUpstream[Upstream],
        ttl: float,
        edition: Callable[[], str] = str,
    ) -> None:
        self._router = router
        self._edition = edition
        self._all = upstreams
        self._upstreams = dict(upstreams)  # those of the configuration; others list nothing here
        self._ttl = ttl
        self._lock = threading.Lock()
        self._lists = ListCache(self._upstreams, ttl)
        self._theirs: OrderedDict[str, ListCache] = OrderedDict()
        self._shared = {n: u for n, u in upstreams.items() if u.settings.passthrough_key}

    def model(
        self, name: str, client_key: str | None = None, clients: Iterable[str] = PROTOCOLS
    ) -> Json | None:
        """One of the models, or one that is not listed, but whose name leads to an upstream."""
        found = _named(name, self.models(client_key, clients))
        owner = None if found else self._router.owner(name, clients, client_key)
        return _model(name, owner) if owner else found

    def served(self, name: str, client: str, client_key: str | None = None) -> Json | None:
        """The same, or what the default rule has for a ``client`` under a name that nobody claims.

        Its upstream lists it, or has no list that could lack it.
        """
        found = self.model(name, client_key, (client,))
        if found is not None:
            return {**found, "id": name}
        route = self._router.resolve(name, client, client_key)
        model = _model(name, route.upstream.name)
        listed = self._lists_for(client_key).get(route.upstream.name)
        if isinstance(listed, list):
            own = _named(route.model, listed)
            return {**model, **own, "id": name} if own else None
        return model if isinstance(listed, UpstreamRefused) and listed.status in _NO_LIST else None

    def models(
        self, client_key: str | None = None, clients: Iterable[str] = PROTOCOLS
    ) -> list[Json]:
        """Model objects under the names that requests can use, configured ones first.

        A model that has its upstream's name before its own is listed by its plain name too, where
        that leads to it for one of ``clients``, which are protocols.
        """
        found: dict[str, Json] = {}
        lead_to_same_model = self._router.lead_to_same_model

        def add(public: str, upstream: str, more: Json) -> None:
            names = [public]
            plain = public.removeprefix(f"{upstream}/")
            if plain != public and lead_to_same_model(plain, public, clients, client_key):
                names.append(plain)
            for name in names:
                found.setdefault(name, {**_model(name, upstream), **more, "id": name})

        for model_id, upstream in self._router.models(client_key):
            add(model_id, upstream, {})
        for upstream, listed in self._lists_for(client_key).items():
            for model in listed if isinstance(listed, list) else ():
                add(self._router.public_id(upstream, model["id"], client_key), upstream, model)
        return list(found.values())

    def codex(self, client_key: str | None = None) -> list[Json]:
        """Codex's entries for the same models, and for those that the settings only name.

        The models that Codex asks for by itself come last; its users do not see them in its menu.
        A name that leads nowhere is left out.
        """
        models = {model["id"]: model for model in self.models(client_key, ("responses",))}
        for name in self._spelled_out(client_key):
            models.setdefault(name, _model(name, ""))
        entries: list[Json] = []
        for name in dict.fromkeys((*models, *CODEX_HELPERS)):
            route = self._router.find_route(name, "responses", client_key)
            if route is not None:
                model = models.get(name) or _model(name, "")
                entry = self._entry(model, route, len(entries), client_key)
                entries.append(entry if name in models else {**entry, "visibility": "hide"})
        return entries

    def etag(self) -> str:
        """Another string when the settings or the registered models change.

        The upstreams' own lists have no part in it: workers learn of their changes at different
        times, and Codex would fetch the catalog again with each worker that answers it.
        """
        return f'W/"{hashlib.sha256(self._edition().encode()).hexdigest()[:32]}"'

    def has_codex_helper(self, upstream: str, name: str, client_key: str | None) -> bool:
        """Does an upstream itself have this model that Codex asks for by itself?

        Requests depend on it, so the last list that it gave is good enough.
        """
        if self._upstreams[upstream].profile.codex_models:
            return True
        theirs = self._cache_for(client_key) if upstream in self._shared else None
        listed = (theirs or self._lists).get_last(client_key if theirs else None).get(upstream)
        return isinstance(listed, list) and _named(name, listed) is not None

    def _spelled_out(self, client_key: str | None) -> Iterator[str]:
        usual = self._router.default_model
        remote = self._router.registered(usual) if usual else None
        if usual and not (remote and remote.locked):
            yield usual
        for name, upstream in self._upstreams.items():
            for model in upstream.settings.model_info:
                if not is_pattern(model):
                    yield self._router.public_id(name, model, client_key)

    def _entry(self, model: Json, route: Route, rank: int, client_key: str | None) -> Json:
        """The entry of a model to which ``route`` leads; ``rank`` is its place, from 0."""
        profile = self._all.of(route.upstream).profile_of(route.model)
        reviewer = f"{route.upstream.name}/{CODEX_REVIEWER}"
        leads_there = self._router.helper_model or self._router.lead_to_same_model(
            CODEX_REVIEWER, reviewer, ("responses",), client_key
        )
        return codex.entry(model, route, profile, rank, None if leads_there else reviewer)

    def states(self, verbose: bool = False) -> dict[str, Any]:
        """Upstream name -> ``{reachable, models}`` or ``{reachable, error}``.

        A key that was refused to the last request is an ``error`` beside a list of models: some
        providers show theirs to everybody.
        With ``verbose`` also ``{provider, learned}``: whose profile it has, and by model what its
        refusals have taught.
        """
        states = {name: _state(listed) for name, listed in self._fresh().items()}
        for name, state in states.items():
            refusal = self._upstreams[name].key_refusal
            if refusal:
                state.setdefault("error", refusal)
                state["key_accepted"] = False
        return {n: {**s, **self._told(n)} for n, s in states.items()} if verbose else states

    def _told(self, name: str) -> Json:
        upstream = self._upstreams[name]
        return {"provider": upstream.profile.name, "learned": upstream.lessons.shown()}

    def _fresh(self) -> _Lists:
        return self._lists.ask(None)

    def _lists_for(self, client_key: str | None) -> _Lists:
        """The lists of all upstreams, as a client is told them."""
        theirs = self._cache_for(client_key)
        return {**self._fresh(), **(theirs.ask(client_key) if theirs else {})}

    def _cache_for(self, client_key: str | None) -> ListCache | None:
        """What those upstreams list to a client that are used with its key."""
        if client_key is None or not self._shared:
            return None
        owner = digest_key(client_key)
        with self._lock:
            cache = self._theirs.setdefault(owner, ListCache(self._shared, self._ttl))
            self._theirs.move_to_end(owner)
            while len(self._theirs) > _MOST_KEYS:
                self._theirs.popitem(last=False)
        return cache


def _named(name: str, models: list[Json]) -> Json | None:
    """The model of a name, with its tag ``latest`` or without."""
    by_id = {model["id"]: model for model in models}
    found = (by_id[form] for form in (name, short(name), full(name)) if form in by_id)
    return next(found, None)


def _ask(upstreams: dict[str, Upstream], client_key: str | None) -> _Lists:
    """The lists of these upstreams, asked at once."""
    with ThreadPoolExecutor(max(1, len(upstreams))) as at_once:
        asked = at_once.map(lambda upstream: _answer(upstream, client_key), upstreams.values())
        return dict(zip(upstreams, asked, strict=True))


def _answer(upstream: Upstream, client_key: str | None) -> list[Json] | ForwarderError:
    try:
        return upstream.models(_TIMEOUT, client_key)
    except ForwarderError as error:
        return error


def _state(listed: list[Json] | ForwarderError) -> Json:
    if isinstance(listed, list):
        return {"reachable": True, "models": len(listed)}
    # Not every provider lists its models; an answer, whatever it says, shows that it is there.
    if isinstance(listed, UpstreamRefused) and listed.status < 500:
        return {"reachable": True, "models": None}
    told = {"key_accepted": False} if isinstance(listed, UpstreamKeyRefused) else {}
    return {"reachable": False, "error": listed.message, **told}


def _model(model_id: str, owner: str) -> Json:
    return {"id": model_id, "object": "model", "created": 0, "owned_by": owner}
