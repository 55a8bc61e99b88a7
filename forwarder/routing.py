"""From the model a client asks for to the upstream that serves it.

In this order: ``upstream/model``, an alias, a glob, and else the default rule. Where several
upstreams would do, the default rule chooses among them: a client goes to the first upstream that
does not speak its protocol, since that is what a forwarder is for, else to the first.  A client
of an API that no upstream speaks, as Ollama's, goes to the first that speaks Chat, which is nearer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from forwarder.config import Settings, UpstreamSettings
from forwarder.config.parsers import Fallback, is_pattern
from forwarder.errors import InvalidRequest, NotFound

PROTOCOLS = ("chat", "responses")
"""What upstreams speak."""


@dataclass(frozen=True)
class Route:
    """Where a request goes, in which protocol, and the upstream's own name for the model."""

    upstream: UpstreamSettings
    protocol: str
    model: str


class Router:
    """Resolves model names against the configured upstreams."""

    def __init__(self, settings: Settings) -> None:
        self.default_model = settings.default_model
        self._upstreams = settings.upstreams
        self.keeper = next((u.name for u in settings.upstreams if "responses" in u.apis), None)
        """The upstream that has clients' files, where none is named."""
        self._by_name = {upstream.name: upstream for upstream in settings.upstreams}

    def resolve(self, model: str | None, client: str) -> Route:
        """The route for ``model`` (or the default one) asked for in the ``client`` protocol.

        Raises InvalidRequest when there is no model, NotFound when only an upstream is named.
        """
        return _route(*self._chosen(model, client), client)

    def routes(self, model: str | None, client: str) -> list[Route]:
        """That route, and then those of its upstream's fallbacks, in their order.

        A fallback without a model of its own is asked for what it itself calls by the name that
        the client has for the model, else for the very model of the first.
        """
        upstream, name = self._chosen(model, client)
        first = _route(upstream, name, client)
        return [first, *(self._fallback(to, name, first, client) for to in upstream.fallback)]

    def _fallback(self, to: Fallback, name: str, first: Route, client: str) -> Route:
        upstream = self._by_name[to.upstream]
        same = name if name in upstream.aliases else first.model
        return _route(upstream, to.model or same, client)

    def _chosen(self, model: str | None, client: str) -> tuple[UpstreamSettings, str]:
        """The upstream, and the client's name for the model without the upstream's."""
        name = model or self.default_model
        if not name:
            raise InvalidRequest(
                "You must provide a model parameter.",
                param="model",
                code="missing_required_parameter",
            )
        head, slash, rest = name.partition("/")
        if slash and head in self._by_name:
            return self._by_name[head], _named(rest, name)
        return _preferred(self._candidates(name), client), name

    def models(self) -> list[tuple[str, str]]:
        """``(id, upstream name)`` of each alias and each glob that is a plain name."""
        return [
            (self._id(upstream, name, target), upstream.name)
            for upstream in self._upstreams
            for name, target in _configured(upstream).items()
        ]

    def owner(self, name: str) -> str | None:
        """The upstream that the configuration or the name itself gives a model to."""
        head, _, rest = name.partition("/")
        if rest and head in self._by_name:
            return head
        chosen = self._configured_for(name)
        return _preferred(chosen, "chat").name if chosen else None

    def public_id(self, upstream: str, model: str) -> str:
        """The id under which clients of both protocols reach what ``upstream`` calls ``model``."""
        return self._id(self._by_name[upstream], model, model)

    def _id(self, upstream: UpstreamSettings, name: str, target: str) -> str:
        routes = [self.resolve(name, client) for client in PROTOCOLS]
        plain = all(r.upstream.name == upstream.name and r.model == target for r in routes)
        return name if plain else f"{upstream.name}/{name}"

    def _candidates(self, name: str) -> Sequence[UpstreamSettings]:
        """Those with such an alias, else those with a glob for it, else all."""
        return self._configured_for(name) or self._upstreams

    def _configured_for(self, name: str) -> list[UpstreamSettings]:
        return [upstream for upstream in self._upstreams if name in upstream.aliases] or [
            u for u in self._upstreams if any(fnmatchcase(name, glob) for glob in u.globs)
        ]


def _preferred(candidates: Sequence[UpstreamSettings], client: str) -> UpstreamSettings:
    """The default rule."""
    if client not in PROTOCOLS:
        return next((u for u in candidates if "chat" in u.apis), candidates[0])
    return next((u for u in candidates if client not in u.apis), candidates[0])


def _named(model: str, asked: str) -> str:
    if not model:
        raise NotFound(
            f"The model '{asked}' does not exist.", param="model", code="model_not_found"
        )
    return model


def _route(upstream: UpstreamSettings, name: str, client: str) -> Route:
    near = client if client in PROTOCOLS else "chat"
    protocol = near if near in upstream.apis else next(iter(upstream.apis))
    return Route(upstream, protocol, upstream.aliases.get(name, name))


def _configured(upstream: UpstreamSettings) -> dict[str, str]:
    """Name -> the upstream's name, for every model that the configuration spells out."""
    literal = {glob: glob for glob in upstream.globs if not is_pattern(glob)}
    return {**upstream.aliases, **literal}
