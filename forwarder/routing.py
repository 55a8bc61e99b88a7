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

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from forwarder.config import Settings, UpstreamSettings
from forwarder.config.parsers import Fallback, is_pattern
from forwarder.errors import InvalidRequest, NotFound, shorten
from forwarder.registry.defaults import NOTHING, Defaults
from forwarder.registry.names import LATEST, short
from forwarder.registry.remote import Remote

PROTOCOLS = ("chat", "responses")
"""What upstreams speak."""

CODEX_HELPERS = ("codex-auto-review", "gpt-5.6-luna", "gpt-5.6-terra")
"""Models that Codex asks for by itself, whatever model its user has chosen."""

REGISTERED = "registered"
"""Who owns a model that is registered, in lists."""


@dataclass(frozen=True)
class Route:
    """Where a request goes, in which protocol, and the upstream's own name for the model.

    ``defaults`` go into the request where the client gave nothing.
    """

    upstream: UpstreamSettings
    protocol: str
    model: str
    defaults: Defaults = NOTHING


class Router:
    """Resolves model names against the configured upstreams, and those that are registered.

    ``find`` gives a registered model by its name, ``listed`` all of them.  ``replace_helper`` gives
    the model that serves one of the `CODEX_HELPERS` which nothing in the configuration claims.
    """

    def __init__(
        self,
        settings: Settings,
        find: Callable[[str], Remote | None] = lambda name: None,
        listed: Callable[[], Iterable[Remote]] = tuple,
    ) -> None:
        self._find = find
        self._listed = listed
        self.replace_helper: Callable[[str], str] = str
        self.default_model = settings.default_model
        self._upstreams = settings.upstreams
        self.keeper = next((u.name for u in settings.upstreams if "responses" in u.apis), None)
        """The upstream that has clients' files, where none is named."""
        self._by_name = {upstream.name: upstream for upstream in settings.upstreams}

    def resolve(self, model: str | None, client: str) -> Route:
        """The route for ``model`` (or the default one) asked for in the ``client`` protocol.

        Raises InvalidRequest when there is no model, NotFound when only an upstream is named,
        UpstreamKeyRefused for a registered one whose key is lost.
        """
        name = self._asked(model)
        remote = self.registered(name)
        if remote is None:
            return _route(*self._chosen(name, client), client)
        if not remote.host:
            return replace(
                _route(*self._chosen(remote.model, client), client), defaults=remote.defaults
            )
        return _remote_route(remote)

    def routes(self, model: str | None, client: str) -> list[Route]:
        """That route, and then those of its upstream's fallbacks, in their order.

        A fallback without a model of its own is asked for what it itself calls by the name that
        the client has for the model, else for the very model of the first.
        """
        name = self._asked(model)
        remote = self.registered(name)
        if remote is None:
            return self._configured(name, client)
        if remote.host:
            return [_remote_route(remote)]
        routes = self._configured(remote.model, client)
        return [replace(route, defaults=remote.defaults) for route in routes]

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
        if name in CODEX_HELPERS and self.owner(name) is None:
            return self.replace_helper(name)
        return name

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

    def models(self) -> list[tuple[str, str]]:
        """``(id, owner)`` of each registered model, alias, and glob that is a plain name."""
        usable = (remote for remote in self._listed() if not remote.locked)
        registered = [(short(remote.name), REGISTERED) for remote in usable]
        return registered + [
            (self._id(upstream, name, target), upstream.name)
            for upstream in self._upstreams
            for name, target in _configured(upstream).items()
        ]

    def owner(self, name: str) -> str | None:
        """Who owns a model: whom the configuration or the name itself gives it to."""
        head, _, rest = name.partition("/")
        if rest and head in self._by_name:
            return head
        if self.registered(name) is not None:
            return REGISTERED
        chosen = self._configured_for(_known(name, self._upstreams))
        return _preferred(chosen, "chat").name if chosen else None

    def default_upstream(self, client: str) -> UpstreamSettings:
        """The upstream of a name that nothing in the configuration claims."""
        return _preferred(self._upstreams, client)

    def default_protocol(self, client: str) -> str:
        """What that upstream is asked in."""
        return _route(self.default_upstream(client), "", client).protocol

    def public_id(self, upstream: str, model: str) -> str:
        """The id under which clients of both protocols reach what ``upstream`` calls ``model``."""
        return self._id(self._by_name[upstream], model, model)

    def lead_to_same_model(self, name: str, other: str, clients: Iterable[str]) -> bool:
        """Do two names that are not registered lead some of ``clients`` to one model?"""
        if self.registered(name) is not None:
            return False
        return any(
            _read_target(self.resolve(name, client)) == _read_target(self.resolve(other, client))
            for client in clients
        )

    def _id(self, upstream: UpstreamSettings, name: str, target: str) -> str:
        if self.registered(name) is not None:
            return f"{upstream.name}/{name}"
        routes = [self.resolve(name, client) for client in PROTOCOLS]
        same = short(target)
        plain = all(r.upstream.name == upstream.name and short(r.model) == same for r in routes)
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
