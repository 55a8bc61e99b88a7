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
from forwarder.core.errors import ForwarderError, InvalidRequest, NotFound, shorten_value
from forwarder.models.names import LATEST_TAG, strip_tag
from forwarder.models.registered_model import RegisteredModel

log = logging.getLogger("forwarder.routing")

UPSTREAM_PROTOCOLS = ("chat", "responses")
"""What upstreams speak."""

CODEX_REVIEWER = "codex-auto-review"
"""The model that judges for Codex whether a command may run."""

CODEX_HELPER_MODELS = (CODEX_REVIEWER, "gpt-5.6-luna", "gpt-5.6-terra")
"""Models that Codex asks for by itself, whatever model its user has chosen."""

REGISTERED_OWNER = "registered"
"""Who owns a model that is registered, in lists."""


class Router:
    """Resolves model names against the configured upstreams, and those that are registered.

    ``find`` gives a registered model by its name, ``listed`` all of them.  ``check_codex_helper`` says
    whether an upstream itself has one of the `CODEX_HELPER_MODELS`, as far as the key of a client shows.

    A ``key`` is everywhere that of the client, whose lists may differ from those of others.
    """

    def __init__(
        self,
        settings: Settings,
        find: Callable[[str], RegisteredModel | None] = lambda name: None,
        listed: Callable[[], Iterable[RegisteredModel]] = tuple,
    ) -> None:
        self._lookup_registered = find
        self._list_registered = listed
        self.check_codex_helper: Callable[[str, str, str | None], bool] = (
            lambda upstream, name, key: False
        )
        self.codex_helper_model = settings.codex_helper_model
        self.default_model = settings.default_model
        self._logged_names: set[str] = set()
        self._upstreams = settings.upstreams
        self.default_file_upstream = next(
            (u.name for u in settings.upstreams if "responses" in u.apis), None
        )
        """The upstream that has clients' files, where none is named."""
        self._by_name = {upstream.name: upstream for upstream in settings.upstreams}

    def resolve(self, model: str | None, client: str, key: str | None = None) -> Route:
        """The route for ``model`` (or the default one) asked for in the ``client`` protocol.

        Raises InvalidRequest when there is no model, NotFound when only an upstream is named,
        UpstreamKeyRefused for a registered one whose key is lost.
        """
        return self.list_routes(model, client, key)[0]

    def list_routes(self, model: str | None, client: str, key: str | None = None) -> list[Route]:
        """That route, and then those of its upstream's fallbacks, in their order.

        A fallback without a model of its own is asked for what it itself calls by the name that
        the client has for the model, else for the very model of the first.
        """
        name = self._resolve_name(model)
        remote = self.find_registered(name)
        if remote is not None and remote.host:
            return [make_remote_route(remote)]
        wanted = name if remote is None else remote.model
        routes = self._list_configured_routes(
            self._find_stand_in(wanted, client, key) or wanted, client
        )
        return routes if remote is None else [replace(r, defaults=remote.defaults) for r in routes]

    def find_route(self, name: str, client: str, key: str | None = None) -> Route | None:
        """The route; None where the name leads nowhere, which is logged once."""
        try:
            return self.resolve(name, client, key)
        except ForwarderError as error:
            if name not in self._logged_names:
                self._logged_names.add(name)
                fields = {"event": "model_unresolvable", "model": shorten_value(name)}
                log.warning({**fields, "detail": error.message})
            return None

    def find_registered(self, name: str) -> RegisteredModel | None:
        """The registered model of a name, unless the name says which upstream it is for."""
        return None if self._has_upstream_prefix(name) else self._lookup_registered(name)

    def _list_configured_routes(self, model: str, client: str) -> list[Route]:
        upstream, name = self._choose_upstream(model, client)
        first = make_route(upstream, name, client)
        return [
            first,
            *(self._make_fallback_route(to, name, first, client) for to in upstream.fallback),
        ]

    def _make_fallback_route(self, to: Fallback, name: str, first: Route, client: str) -> Route:
        upstream = self._by_name[to.upstream]
        same = name if name in upstream.aliases else first.model
        return make_route(upstream, to.model or same, client)

    def _resolve_name(self, model: str | None) -> str:
        name = model or self.default_model
        if not name:
            raise InvalidRequest(
                "You must provide a model parameter.",
                param="model",
                code="missing_required_parameter",
            )
        return name

    def _find_stand_in(self, name: str, client: str, key: str | None) -> str | None:
        """The model that serves a name which Codex asks for by itself; None if it needs none.

        Registered models never do: whoever may register one would have it review commands.
        """
        if not self._is_unclaimed_helper(name):
            return None
        named = (self.codex_helper_model, self.default_model)
        usable = [model for model in named if model and self.find_registered(model) is None]
        if not usable:
            return None
        if usable[0] != self.codex_helper_model and self._has_codex_helper(name, client, key):
            return None
        return usable[0]

    def _is_unclaimed_helper(self, name: str) -> bool:
        if strip_tag(name) not in CODEX_HELPER_MODELS:
            return False
        return not self._find_configured(normalize_name(name, self._upstreams))

    def _has_codex_helper(self, name: str, client: str, key: str | None) -> bool:
        return self.check_codex_helper(self.get_default_upstream(client).name, strip_tag(name), key)

    def _has_upstream_prefix(self, name: str) -> bool:
        return "/" in name and name.partition("/")[0] in self._by_name

    def _choose_upstream(self, name: str, client: str) -> tuple[UpstreamSettings, str]:
        """The upstream, and the client's name for the model without the upstream's."""
        head, slash, rest = name.partition("/")
        if slash and head in self._by_name:
            upstream = self._by_name[head]
            return upstream, normalize_name(require_model_name(rest, name), [upstream])
        name = normalize_name(name, self._upstreams)
        return choose_preferred(self._candidates(name), client), name

    def list_models(self, key: str | None = None) -> list[tuple[str, str]]:
        """``(id, owner)`` of each registered model, alias, and glob that is a plain name."""
        usable = (remote for remote in self._list_registered() if not remote.locked)
        registered = [(strip_tag(remote.name), REGISTERED_OWNER) for remote in usable]
        return registered + [
            (self._qualify_name(upstream, name, target, key), upstream.name)
            for upstream in self._upstreams
            for name, target in list_literal_models(upstream).items()
        ]

    def find_owner(
        self, name: str, clients: Iterable[str] = UPSTREAM_PROTOCOLS, key: str | None = None
    ) -> str | None:
        """Who owns a model: whom the configuration or the name itself gives it to.

        A name which Codex asks for by itself belongs to the upstream that serves it to one of
        ``clients``, which are protocols.
        """
        head, _, rest = name.partition("/")
        if rest and head in self._by_name:
            return head
        if self.find_registered(name) is not None:
            return REGISTERED_OWNER
        chosen = self._find_configured(normalize_name(name, self._upstreams))
        if chosen:
            return choose_preferred(chosen, "chat").name
        if self._is_unclaimed_helper(name):
            for client in clients:
                is_served = self._find_stand_in(name, client, key) or self._has_codex_helper(
                    name, client, key
                )
                route = self.find_route(name, client, key) if is_served else None
                if route is not None:
                    return route.upstream.name
        return None

    def get_default_upstream(self, client: str) -> UpstreamSettings:
        """The upstream of a name that nothing in the configuration claims."""
        return choose_preferred(self._upstreams, client)

    def get_default_route(self, client: str) -> Route:
        """The route to that upstream, without a model."""
        return make_route(self.get_default_upstream(client), "", client)

    def make_public_id(self, upstream: str, model: str, key: str | None = None) -> str:
        """The id under which clients of both protocols reach what ``upstream`` calls ``model``."""
        return self._qualify_name(self._by_name[upstream], model, model, key)

    def is_same_model(
        self, name: str, other: str, clients: Iterable[str], key: str | None = None
    ) -> bool:
        """Do two names that are not registered lead some of ``clients`` to one model?"""
        if self.find_registered(name) is not None:
            return False
        for client in clients:
            first, second = (self.find_route(each, client, key) for each in (name, other))
            if first and second and get_target(first) == get_target(second):
                return True
        return False

    def _qualify_name(
        self, upstream: UpstreamSettings, name: str, target: str, key: str | None
    ) -> str:
        if self.find_registered(name) is not None:
            return f"{upstream.name}/{name}"
        same = (upstream.name, strip_tag(target))
        routes = [self.find_route(name, client, key) for client in UPSTREAM_PROTOCOLS]
        plain = all(r and (r.upstream.name, strip_tag(r.model)) == same for r in routes)
        return name if plain else f"{upstream.name}/{name}"

    def _candidates(self, name: str) -> Sequence[UpstreamSettings]:
        """Those with such an alias, else those with a glob for it, else all."""
        return self._find_configured(name) or self._upstreams

    def _find_configured(self, name: str) -> list[UpstreamSettings]:
        return [upstream for upstream in self._upstreams if name in upstream.aliases] or [
            u for u in self._upstreams if has_matching_glob(name, u)
        ]


def normalize_name(name: str, upstreams: Sequence[UpstreamSettings]) -> str:
    """The name, with the tag ``latest`` or without, as it is configured; else without."""
    bare = strip_tag(name)
    for form in (name, bare, bare + LATEST_TAG):
        if any(form in u.aliases or form in u.globs for u in upstreams):
            return form
    if bare == name or any(has_matching_glob(bare, u) for u in upstreams):
        return bare
    return name if any(has_matching_glob(name, u) for u in upstreams) else bare


def has_matching_glob(name: str, upstream: UpstreamSettings) -> bool:
    return any(fnmatchcase(name, glob) for glob in upstream.globs)


def make_remote_route(remote: RegisteredModel) -> Route:
    remote.require_key()
    return Route(remote.upstream, remote.protocol, remote.model, remote.defaults)


def choose_preferred(candidates: Sequence[UpstreamSettings], client: str) -> UpstreamSettings:
    """The default rule."""
    if client not in UPSTREAM_PROTOCOLS:
        return next((u for u in candidates if "chat" in u.apis), candidates[0])
    return next((u for u in candidates if client not in u.apis), candidates[0])


def require_model_name(model: str, asked: str) -> str:
    if not model:
        raise NotFound(
            f"The model '{shorten_value(asked)}' does not exist.",
            param="model",
            code="model_not_found",
        )
    return model


def make_route(upstream: UpstreamSettings, name: str, client: str) -> Route:
    near = client if client in UPSTREAM_PROTOCOLS else "chat"
    protocol = near if near in upstream.apis else next(iter(upstream.apis))
    return Route(upstream, protocol, upstream.aliases.get(name, name))


def get_target(route: Route) -> tuple[str, str]:
    return route.upstream.name, route.model


def list_literal_models(upstream: UpstreamSettings) -> dict[str, str]:
    """Name -> the upstream's name, for every model that the configuration spells out."""
    literal = {glob: glob for glob in upstream.globs if not is_pattern(glob)}
    return {**upstream.aliases, **literal}
