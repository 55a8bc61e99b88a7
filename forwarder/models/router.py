"""From the model a client asks for to the upstream that serves it.

In this order: ``upstream/model``, a registered model, an alias, a glob, a stand-in for a model that
Codex asks for by itself, and else the default rule.
A name with Ollama's tag ``:latest`` and without is one; where neither is configured it goes
upstream without.  (An upstream for which they are two has an alias: ``fast=fast:latest``.)

Where several upstreams would do, the default rule chooses among them: a client goes to the first
upstream that does not speak its protocol, since that is what a forwarder is for, else to the first.
A client of an API that no upstream speaks, as Ollama's, goes to the first that speaks Chat, which
is nearer.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase

from forwarder.config.parsers import Fallback, is_pattern
from forwarder.config.settings import Settings, UpstreamSettings
from forwarder.context.route import Route
from forwarder.core.errors import ForwarderError, InvalidRequest, NotFound, shorten
from forwarder.models.names import LATEST, short
from forwarder.models.registered_model import Remote

log = logging.getLogger("forwarder.routing")

PROTOCOLS = ("chat", "responses")
"""What upstreams speak."""

CODEX_REVIEWER = "codex-auto-review"
"""The model that judges for Codex whether a command may run."""

CODEX_HELPERS = (CODEX_REVIEWER, "gpt-5.6-luna", "gpt-5.6-terra")
"""Models that Codex asks for by itself, whatever model its user has chosen."""

REGISTERED = "registered"
"""Who owns a model that is registered, in lists."""


class Router:
    """Resolves model names against the configured upstreams, and those that are registered.

    ``find`` gives a registered model by its name, ``listed`` all of them.  ``has_helper`` says
    whether an upstream itself has one of the `CODEX_HELPERS`, as far as the key of a client shows.

    A ``key`` is everywhere that of the client, whose lists may differ from those of others.
    """

    def __init__(
        self,
        settings: Settings,
        find: Callable[[str], Remote | None] = lambda name: None,
        listed: Callable[[], Iterable[Remote]] = tuple,
    ) -> None:
        self._find = find
        self._listed = listed
        self.has_helper: Callable[[str, str, str | None], bool] = lambda upstream, name, key: False
        self.helper_model = settings.codex_helper_model
        self.default_model = settings.default_model
        self._logged: set[str] = set()
        self._upstreams = settings.upstreams
        self.keeper = next((u.name for u in settings.upstreams if "responses" in u.apis), None)
        """The upstream that has clients' files, where none is named."""
        self._by_name = {upstream.name: upstream for upstream in settings.upstreams}

    def resolve(self, model: str | None, client: str, key: str | None = None) -> Route:
        """The route for ``model`` (or the default one) asked for in the ``client`` protocol.

        Raises InvalidRequest when there is no model, NotFound when only an upstream is named,
        UpstreamKeyRefused for a registered one whose key is lost.
        """
        return self.routes(model, client, key)[0]

    def routes(self, model: str | None, client: str, key: str | None = None) -> list[Route]:
        """That route, and then those of its upstream's fallbacks, in their order.

        A fallback without a model of its own is asked for what it itself calls by the name that
        the client has for the model, else for the very model of the first.
        """
        name = self._asked(model)
        remote = self.registered(name)
        if remote is not None and remote.host:
            return [_remote_route(remote)]
        wanted = name if remote is None else remote.model
        routes = self._configured(self._stand_in(wanted, client, key) or wanted, client)
        return routes if remote is None else [replace(r, defaults=remote.defaults) for r in routes]

    def find_route(self, name: str, client: str, key: str | None = None) -> Route | None:
        """The route; None where the name leads nowhere, which is logged once."""
        try:
            return self.resolve(name, client, key)
        except ForwarderError as error:
            if name not in self._logged:
                self._logged.add(name)
                fields = {"event": "model_unresolvable", "model": shorten(name)}
                log.warning({**fields, "detail": error.message})
            return None

    def registered(self, name: str) -> Remote | None:
        """The registered model of a name, unless the name says which upstream it is for."""
        return None if self._names_upstream(name) else self._find(name)

    def _configured(self, model: str, client: str) -> list[Route]:
        upstream, name = self._chosen(model, client)
        first = _route(upstream, name, client)
        return [first, *(self._fallback(to, name, first, client) for to in upstream.fallback)]

    def _fallback(self, to: Fallback, name: str, first: Route, client: str) -> Route:
        upstream = self._by_name[to.upstream]
        same = name if name in upstream.aliases else first.model
        return _route(upstream, to.model or same, client)

    def _asked(self, model: str | None) -> str:
        name = model or self.default_model
        if not name:
            raise InvalidRequest(
                "You must provide a model parameter.",
                param="model",
                code="missing_required_parameter",
            )
        return name

    def _stand_in(self, name: str, client: str, key: str | None) -> str | None:
        """The model that serves a name which Codex asks for by itself; None if it needs none.

        Registered models never do: whoever may register one would have it review commands.
        """
        if not self._is_unclaimed_helper(name):
            return None
        named = (self.helper_model, self.default_model)
        usable = [model for model in named if model and self.registered(model) is None]
        if not usable:
            return None
        if usable[0] != self.helper_model and self._has_helper(name, client, key):
            return None
        return usable[0]

    def _is_unclaimed_helper(self, name: str) -> bool:
        if short(name) not in CODEX_HELPERS:
            return False
        return not self._configured_for(_known(name, self._upstreams))

    def _has_helper(self, name: str, client: str, key: str | None) -> bool:
        return self.has_helper(self.default_upstream(client).name, short(name), key)

    def _names_upstream(self, name: str) -> bool:
        return "/" in name and name.partition("/")[0] in self._by_name

    def _chosen(self, name: str, client: str) -> tuple[UpstreamSettings, str]:
        """The upstream, and the client's name for the model without the upstream's."""
        head, slash, rest = name.partition("/")
        if slash and head in self._by_name:
            upstream = self._by_name[head]
            return upstream, _known(_named(rest, name), [upstream])
        name = _known(name, self._upstreams)
        return _preferred(self._candidates(name), client), name

    def models(self, key: str | None = None) -> list[tuple[str, str]]:
        """``(id, owner)`` of each registered model, alias, and glob that is a plain name."""
        usable = (remote for remote in self._listed() if not remote.locked)
        registered = [(short(remote.name), REGISTERED) for remote in usable]
        return registered + [
            (self._id(upstream, name, target, key), upstream.name)
            for upstream in self._upstreams
            for name, target in _configured(upstream).items()
        ]

    def owner(
        self, name: str, clients: Iterable[str] = PROTOCOLS, key: str | None = None
    ) -> str | None:
        """Who owns a model: whom the configuration or the name itself gives it to.

        A name which Codex asks for by itself belongs to the upstream that serves it to one of
        ``clients``, which are protocols.
        """
        head, _, rest = name.partition("/")
        if rest and head in self._by_name:
            return head
        if self.registered(name) is not None:
            return REGISTERED
        chosen = self._configured_for(_known(name, self._upstreams))
        if chosen:
            return _preferred(chosen, "chat").name
        if self._is_unclaimed_helper(name):
            for client in clients:
                is_served = self._stand_in(name, client, key) or self._has_helper(name, client, key)
                route = self.find_route(name, client, key) if is_served else None
                if route is not None:
                    return route.upstream.name
        return None

    def default_upstream(self, client: str) -> UpstreamSettings:
        """The upstream of a name that nothing in the configuration claims."""
        return _preferred(self._upstreams, client)

    def default_route(self, client: str) -> Route:
        """The route to that upstream, without a model."""
        return _route(self.default_upstream(client), "", client)

    def public_id(self, upstream: str, model: str, key: str | None = None) -> str:
        """The id under which clients of both protocols reach what ``upstream`` calls ``model``."""
        return self._id(self._by_name[upstream], model, model, key)

    def lead_to_same_model(
        self, name: str, other: str, clients: Iterable[str], key: str | None = None
    ) -> bool:
        """Do two names that are not registered lead some of ``clients`` to one model?"""
        if self.registered(name) is not None:
            return False
        for client in clients:
            first, second = (self.find_route(each, client, key) for each in (name, other))
            if first and second and _read_target(first) == _read_target(second):
                return True
        return False

    def _id(self, upstream: UpstreamSettings, name: str, target: str, key: str | None) -> str:
        if self.registered(name) is not None:
            return f"{upstream.name}/{name}"
        same = (upstream.name, short(target))
        routes = [self.find_route(name, client, key) for client in PROTOCOLS]
        plain = all(r and (r.upstream.name, short(r.model)) == same for r in routes)
        return name if plain else f"{upstream.name}/{name}"

    def _candidates(self, name: str) -> Sequence[UpstreamSettings]:
        """Those with such an alias, else those with a glob for it, else all."""
        return self._configured_for(name) or self._upstreams

    def _configured_for(self, name: str) -> list[UpstreamSettings]:
        return [upstream for upstream in self._upstreams if name in upstream.aliases] or [
            u for u in self._upstreams if _matches(name, u)
        ]


def _known(name: str, upstreams: Sequence[UpstreamSettings]) -> str:
    """The name, with the tag ``latest`` or without, as it is configured; else without."""
    bare = short(name)
    for form in (name, bare, bare + LATEST):
        if any(form in u.aliases or form in u.globs for u in upstreams):
            return form
    if bare == name or any(_matches(bare, u) for u in upstreams):
        return bare
    return name if any(_matches(name, u) for u in upstreams) else bare


def _matches(name: str, upstream: UpstreamSettings) -> bool:
    return any(fnmatchcase(name, glob) for glob in upstream.globs)


def _remote_route(remote: Remote) -> Route:
    remote.unlocked()
    return Route(remote.upstream, remote.protocol, remote.model, remote.defaults)


def _preferred(candidates: Sequence[UpstreamSettings], client: str) -> UpstreamSettings:
    """The default rule."""
    if client not in PROTOCOLS:
        return next((u for u in candidates if "chat" in u.apis), candidates[0])
    return next((u for u in candidates if client not in u.apis), candidates[0])


def _named(model: str, asked: str) -> str:
    if not model:
        raise NotFound(
            f"The model '{shorten(asked)}' does not exist.", param="model", code="model_not_found"
        )
    return model


def _route(upstream: UpstreamSettings, name: str, client: str) -> Route:
    near = client if client in PROTOCOLS else "chat"
    protocol = near if near in upstream.apis else next(iter(upstream.apis))
    return Route(upstream, protocol, upstream.aliases.get(name, name))


def _read_target(route: Route) -> tuple[str, str]:
    return route.upstream.name, route.model


def _configured(upstream: UpstreamSettings) -> dict[str, str]:
    """Name -> the upstream's name, for every model that the configuration spells out."""
    literal = {glob: glob for glob in upstream.globs if not is_pattern(glob)}
    return {**upstream.aliases, **literal}
