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
from contextlib import suppress
from typing import Any

from forwarder import codex
from forwarder.config.parsers import is_pattern
from forwarder.errors import ForwarderError, UpstreamKeyRefused, UpstreamRefused
from forwarder.per_upstream import PerUpstream
from forwarder.registry.names import full, short
from forwarder.routing import CODEX_HELPERS, PROTOCOLS, Router
from forwarder.translate.call import Json
from forwarder.upstream import Upstream

_TIMEOUT = 5.0
"""Seconds that an upstream has for its list."""

_NO_LIST = (404, 405, 501)
"""What a provider answers that has no list."""

_MOST_KEYS = 256
"""Clients whose lists are kept; the one that asked first goes first."""

_Lists = dict[str, list[Json] | ForwarderError]


class Catalog:
    """The lists of all upstreams, kept for ``ttl`` seconds.

    ``helper_model`` serves the names that Codex asks for by itself, if the operator has named one.
    ``edition`` gives another string when the settings or the registered models have changed.
    """

    def __init__(
        self,
        router: Router,
        upstreams: PerUpstream[Upstream],
        ttl: float,
        helper_model: str | None = None,
        edition: Callable[[], str] = str,
    ) -> None:
        self._router = router
        self._helper_model = helper_model
        self._edition = edition
        self._all = upstreams
        self._upstreams = dict(upstreams)  # those of the configuration; others list nothing here
        self._ttl = ttl
        self._lock = threading.Lock()
        self._asked = float("-inf")
        self._lists: _Lists = {}
        self._theirs: OrderedDict[bytes, tuple[float, _Lists]] = OrderedDict()
        self._shared = {n: u for n, u in upstreams.items() if u.settings.passthrough_key}

    def model(
        self, name: str, client_key: str | None = None, clients: Iterable[str] = PROTOCOLS
    ) -> Json | None:
        """One of the models, or one that is not listed, but whose name leads to an upstream."""
        found = _named(name, self.models(client_key, clients))
        owner = None if found else self._router.owner(name)
        return _model(name, owner) if owner else found

    def served(self, name: str, client: str, client_key: str | None = None) -> Json | None:
        """The same, or what the default rule has for a ``client`` under a name that nobody claims.

        Its upstream lists it, or has no list that could lack it.
        """
        found = self.model(name, client_key, (client,))
        if found is not None:
            return {**found, "id": name}
        route = self._router.resolve(name, client)
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

        def add(public: str, upstream: str, more: Json) -> None:
            names = [public]
            plain = public.removeprefix(f"{upstream}/")
            if plain != public and self._router.lead_to_same_model(plain, public, clients):
                names.append(plain)
            for name in names:
                found.setdefault(name, {**_model(name, upstream), **more, "id": name})

        for model_id, upstream in self._router.models():
            add(model_id, upstream, {})
        for upstream, listed in self._lists_for(client_key).items():
            for model in listed if isinstance(listed, list) else ():
                add(self._router.public_id(upstream, model["id"]), upstream, model)
        return list(found.values())

    def codex(self, client_key: str | None = None) -> list[Json]:
        """Codex's entries for the same models, and for those that the settings only name.

        The models that Codex asks for by itself come last; its users do not see them in its menu.
        """
        models = {model["id"]: model for model in self.models(client_key, ("responses",))}
        for name in self._spelled_out():
            models.setdefault(name, _model(name, ""))
        entries = [self._entry(model, rank) for rank, model in enumerate(models.values())]
        for name in CODEX_HELPERS:
            if name not in models:
                with suppress(ForwarderError):  # the key of the model that stands in is lost
                    hidden = self._entry(_model(name, ""), len(entries))
                    entries.append({**hidden, "visibility": "hide"})
        return entries

    def etag(self) -> str:
        """Another string when the settings or the registered models change.

        The upstreams' own lists have no part in it: workers learn of their changes at different
        times, and Codex would fetch the catalog again with each worker that answers it.
        """
        return f'W/"{hashlib.sha256(self._edition().encode()).hexdigest()[:32]}"'

    def replace_codex_helper(self, name: str) -> str:
        """The model that serves a name which Codex asks for by itself."""
        if self._helper_model:
            return self._helper_model
        settings = self._router.default_upstream("responses")
        upstream = self._upstreams[settings.name]
        listed = self._fresh().get(settings.name)
        ids = [model["id"] for model in listed] if isinstance(listed, list) else []
        if upstream.profile.codex_models or name in ids:
            return name
        if self._router.default_model:
            return self._router.default_model
        configured = [model for model, _ in self._router.models()]
        found = [*configured, *(f"{settings.name}/{model}" for model in ids)]
        return next((model for model in found if "embed" not in model), name)

    def _spelled_out(self) -> Iterator[str]:
        usual = self._router.default_model
        remote = self._router.registered(usual) if usual else None
        if usual and not (remote and remote.locked):
            yield usual
        for name, upstream in self._upstreams.items():
            for model in upstream.settings.model_info:
                if not is_pattern(model):
                    yield self._router.public_id(name, model)

    def _entry(self, model: Json, rank: int) -> Json:
        route = self._router.resolve(model["id"], "responses")
        profile = self._all.of(route.upstream).profile_of(route.model)
        return codex.entry(model, route, profile, rank)

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
        with self._lock:
            if time.monotonic() - self._asked > self._ttl:
                self._lists = _ask(self._upstreams, None)
                self._asked = time.monotonic()
            return self._lists

    def _lists_for(self, client_key: str | None) -> _Lists:
        """The lists of all upstreams, as a client is told them."""
        return {**self._fresh(), **self._listed_to(client_key)}

    def _listed_to(self, client_key: str | None) -> _Lists:
        """What those upstreams list to a client that are used with its key."""
        if client_key is None or not self._shared:
            return {}
        owner = hashlib.sha256(client_key.encode()).digest()
        asked, lists = self._theirs.get(owner, (float("-inf"), {}))
        if time.monotonic() - asked > self._ttl:
            lists = _ask(self._shared, client_key)  # a slow one keeps no other client waiting
            self._keep(owner, lists)
        return lists

    def _keep(self, owner: bytes, lists: _Lists) -> None:
        with self._lock:
            self._theirs[owner] = time.monotonic(), lists
            self._theirs.move_to_end(owner)
            while len(self._theirs) > _MOST_KEYS:
                self._theirs.popitem(last=False)


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
