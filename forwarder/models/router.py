"""Routing: resolves the model name of a request to an upstream and the upstream's model name.

Order of precedence: ``upstream/model``, a registered model, a group, an alias, a glob, an alias
that is a pattern (``claude-*=qwen-plus``), a stand-in for a Codex helper model, the default rule.

Names with and without Ollama's tag ``:latest`` are equivalent. If neither form is configured, the
name goes upstream without the tag. (For an upstream that needs the tag, configure the alias
``fast=fast:latest``.)

The default rule chooses the first candidate upstream that does not speak the client's protocol,
because a client of such an upstream needs translation; if all speak it, the first one. A client of
Ollama's API, which no upstream speaks, gets the first Chat upstream, because Chat is closer to it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from functools import lru_cache

from forwarder.config.parsers import is_pattern
from forwarder.config.settings import Settings, UpstreamSettings
from forwarder.context.request_context import Route
from forwarder.core.errors import ForwarderError, InvalidRequest, NotFound, shorten_value
from forwarder.models.registered_model import LATEST_TAG, RegisteredModel, strip_tag
from forwarder.protocols.chat import CHAT
from forwarder.protocols.registry import PROTOCOLS, UPSTREAM_PROTOCOLS
from forwarder.protocols.responses import RESPONSES

log = logging.getLogger("forwarder.routing")

CODEX_REVIEWER = "codex-auto-review"
"""The model that decides for Codex whether a command may run."""

CODEX_HELPER_MODELS = (CODEX_REVIEWER, "gpt-5.6-luna", "gpt-5.6-terra")
"""Models that Codex requests by itself, independently of the model that its user selected."""

MAX_NAME_LENGTH = 2048
"""Maximum length of a model's name. Bedrock allows as many characters."""

_MAX_CACHED_NAMES = 256
"""For how many names of models the configured routes are cached."""

REGISTERED_OWNER = "registered"
"""The owner of registered models in model lists."""

GROUP_OWNER = "group"
"""The owner of groups of models in model lists."""


class Router:
    """Resolves model names against the configured upstreams and the registered models.

    ``find`` returns a registered model by name, ``list_registered`` returns all of them.
    ``check_codex_helper(upstream, name, key)`` checks whether an upstream itself has one of the
    `CODEX_HELPER_MODELS`.

    In all methods ``client`` is the client's protocol and ``key`` the client's API key. Upstreams
    in key passthrough mode may list different models for different keys.
    """

    def __init__(
        self,
        settings: Settings,
        find: Callable[[str], RegisteredModel | None] = lambda name: None,
        list_registered: Callable[[], Iterable[RegisteredModel]] = tuple,
    ) -> None:
        self._lookup_registered = find
        self._list_registered = list_registered
        self.check_codex_helper: Callable[[str, str, str | None], bool] = (
            lambda upstream, name, key: False
        )
        self.codex_helper_model = settings.codex_helper_model
        self.default_model = settings.default_model
        self._logged_names: set[str] = set()
        self._upstreams = settings.upstreams
        self._groups = settings.groups
        self.default_file_upstream = next(
            (u.name for u in settings.upstreams if RESPONSES.name in u.apis), None
        )
        """The upstream for client files if the request does not name one."""
        self._by_name = {upstream.name: upstream for upstream in settings.upstreams}
        self._list_configured_routes = lru_cache(_MAX_CACHED_NAMES)(self._find_configured_routes)

    def resolve(self, model: str | None, client: str, key: str | None = None) -> Route:
        """Return the route for ``model``, or for the default model if ``model`` is empty.

        Raises InvalidRequest if there is no model or its name is too long, NotFound if the name has
        an upstream prefix but no model, UpstreamKeyRefused for a registered model with a locked
        key.
        """
        return self.list_routes(model, client, key)[0]

    def list_routes(self, model: str | None, client: str, key: str | None = None) -> list[Route]:
        """Return the route of `resolve`, followed by the routes of its upstream's fallbacks.

        A fallback with its own model uses that one. Otherwise it uses its alias for the client's
        model name, or else the same upstream model name as the first route. For a group, returns
        the routes of its members, in their order.
        """
        name = self._resolve_name(model)
        remote = self.find_registered(name)
        if remote is not None and remote.host:
            remote.require_key()
            return [Route(remote.upstream, remote.protocol, remote.model, remote.defaults)]
        target = name if remote is None else remote.model
        routes = self._list_configured_routes(
            self._find_stand_in(target, client, key) or target, client
        )
        if remote is None:
            return list(routes)
        return [replace(route, defaults=remote.defaults) for route in routes]

    def find_route(self, name: str, client: str, key: str | None = None) -> Route | None:
        """Like `resolve`, but return ``None`` and log once per name if it cannot be resolved."""
        try:
            return self.resolve(name, client, key)
        except ForwarderError as error:  # the router's own: the message quotes names only
            if name not in self._logged_names:
                self._logged_names.add(name)
                log.warning(
                    {
                        "event": "model_unresolvable",
                        "model": shorten_value(name),
                        "detail": error.message,
                    }
                )
            return None

    def find_registered(self, name: str) -> RegisteredModel | None:
        """Return the registered model of a name; ``None`` for a name with an upstream prefix."""
        head, slash, _ = name.partition("/")
        return None if slash and head in self._by_name else self._lookup_registered(name)

    def _find_configured_routes(self, model: str, client: str) -> tuple[Route, ...]:
        """Return the routes that the settings give a name; cached as `_list_configured_routes`."""
        group = self._find_group(model)
        if group is not None:
            return tuple(
                replace(make_route(self._by_name[each.upstream], each.model, client), member=each)
                for each in self._groups[group]
            )
        upstream, name = self._choose_upstream(model, client)
        routes = [make_route(upstream, name, client)]
        for fallback in upstream.fallback:
            other = self._by_name[fallback.upstream]
            has_alias = any(fnmatchcase(name, alias) for alias in other.aliases)
            same_model = name if has_alias else routes[0].model
            routes.append(make_route(other, fallback.model or same_model, client))
        return tuple(routes)

    def _find_group(self, name: str) -> str | None:
        """Return the name of a group with or without the tag ``:latest``; ``None`` if not one."""
        bare = strip_tag(name)
        return next((form for form in (name, bare) if form in self._groups), None)

    def _resolve_name(self, model: str | None) -> str:
        name = model or self.default_model
        if not name:
            raise InvalidRequest(
                "You must provide a model parameter.",
                param="model",
                code="missing_required_parameter",
            )
        if len(name) > MAX_NAME_LENGTH:
            raise InvalidRequest(
                f"'model' must have at most {MAX_NAME_LENGTH} characters.",
                param="model",
                code="string_above_max_length",
            )
        return name

    def _find_stand_in(self, name: str, client: str, key: str | None) -> str | None:
        """Return the model that replaces a Codex helper model, or ``None`` if none is needed.

        A registered model is never a stand-in: its owner could approve commands of other users.
        """
        if not self._is_unclaimed_helper(name):
            return None
        configured = (self.codex_helper_model, self.default_model)
        usable = [model for model in configured if model and self.find_registered(model) is None]
        if not usable:
            return None
        if usable[0] != self.codex_helper_model and self._has_codex_helper(name, client, key):
            return None
        return usable[0]

    def _is_unclaimed_helper(self, name: str) -> bool:
        """Return whether a name is a Codex helper model that no upstream or group configures."""
        if strip_tag(name) not in CODEX_HELPER_MODELS:
            return False
        if self._find_group(name) is not None:
            return False
        return not self._find_configured(normalize_name(name, self._upstreams))

    def _has_codex_helper(self, name: str, client: str, key: str | None) -> bool:
        return self.check_codex_helper(self.get_default_upstream(client).name, strip_tag(name), key)

    def _choose_upstream(self, name: str, client: str) -> tuple[UpstreamSettings, str]:
        """Return the upstream, and the client's model name without the upstream prefix."""
        head, slash, rest = name.partition("/")
        if slash and head in self._by_name:
            upstream = self._by_name[head]
            return upstream, normalize_name(require_model_name(rest, name), [upstream])
        name = normalize_name(name, self._upstreams)
        candidates = self._find_configured(name) or self._upstreams
        return choose_preferred(candidates, client), name

    def list_models(self, key: str | None = None) -> list[tuple[str, str]]:
        """Return ``(id, owner)`` of each registered model, group, alias and literal glob."""
        usable = (remote for remote in self._list_registered() if not remote.locked)
        registered = [(strip_tag(remote.name), REGISTERED_OWNER) for remote in usable]
        groups = [(name, GROUP_OWNER) for name in self._groups if not self.find_registered(name)]
        return (
            registered
            + groups
            + [
                (self._qualify_name(upstream, name, target, key), upstream.name)
                for upstream in self._upstreams
                for name, target in list_literal_models(upstream).items()
            ]
        )

    def find_owner(
        self, name: str, clients: Iterable[str] = UPSTREAM_PROTOCOLS, key: str | None = None
    ) -> str | None:
        """Return the owner of a model, or ``None`` if only the default rule can route it.

        The owner is an upstream name, `REGISTERED_OWNER` or `GROUP_OWNER`. A Codex helper model
        belongs to the upstream that serves it to one of the protocols in ``clients``.
        """
        head, _, rest = name.partition("/")
        if rest and head in self._by_name:
            return head
        if self.find_registered(name) is not None:
            return REGISTERED_OWNER
        if self._find_group(name) is not None:
            return GROUP_OWNER
        chosen = self._find_configured(normalize_name(name, self._upstreams))
        if chosen:
            return choose_preferred(chosen, CHAT.name).name
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
        """Return the upstream that the default rule chooses for an unknown model."""
        return choose_preferred(self._upstreams, client)

    def get_default_route(self, client: str) -> Route:
        """Return the route to the default upstream, without a model."""
        return make_route(self.get_default_upstream(client), "", client)

    def make_public_id(self, upstream: str, model: str, key: str | None = None) -> str:
        """Return the id under which clients of both protocols reach ``model`` of ``upstream``."""
        return self._qualify_name(self._by_name[upstream], model, model, key)

    def is_same_model(
        self, name: str, other: str, clients: Iterable[str], key: str | None = None
    ) -> bool:
        """Check whether two names route at least one of ``clients`` to the same upstream model.

        Always false if ``name`` is registered or a group.
        """
        if self.find_registered(name) is not None or self._find_group(name) is not None:
            return False
        for client in clients:
            first, second = (self.find_route(each, client, key) for each in (name, other))
            if first is None or second is None:
                continue
            if (first.upstream.name, first.model) == (second.upstream.name, second.model):
                return True
        return False

    def _qualify_name(
        self, upstream: UpstreamSettings, name: str, target: str, key: str | None
    ) -> str:
        if self.find_registered(name) is not None or self._find_group(name) is not None:
            return f"{upstream.name}/{name}"
        wanted = (upstream.name, strip_tag(target))
        routes = [self.find_route(name, client, key) for client in UPSTREAM_PROTOCOLS]
        leads_here = all(r and (r.upstream.name, strip_tag(r.model)) == wanted for r in routes)
        return name if leads_here else f"{upstream.name}/{name}"

    def _find_configured(self, name: str) -> list[UpstreamSettings]:
        """Return the upstreams with this alias, otherwise those with a matching glob."""
        return [upstream for upstream in self._upstreams if name in upstream.aliases] or [
            u for u in self._upstreams if has_matching_glob(name, u)
        ]


def normalize_name(name: str, upstreams: Sequence[UpstreamSettings]) -> str:
    """Return the configured form of a name (with or without ``:latest``), by default without."""
    bare = strip_tag(name)
    for form in (name, bare, bare + LATEST_TAG):
        if any(form in u.aliases or form in u.globs for u in upstreams):
            return form
    if bare == name or any(has_matching_glob(bare, u) for u in upstreams):
        return bare
    return name if any(has_matching_glob(name, u) for u in upstreams) else bare


def has_matching_glob(name: str, upstream: UpstreamSettings) -> bool:
    """Return whether a glob or an alias of the upstream matches a name."""
    return any(fnmatchcase(name, glob) for glob in (*upstream.globs, *upstream.aliases))


def find_target(name: str, upstream: UpstreamSettings) -> str:
    """Return the upstream's model for a name: by an exact alias, a glob, or a pattern alias."""
    exact = upstream.aliases.get(name)
    if exact is not None or any(fnmatchcase(name, glob) for glob in upstream.globs):
        return exact or name
    matching = (target for glob, target in upstream.aliases.items() if fnmatchcase(name, glob))
    return next(matching, name)


def choose_preferred(candidates: Sequence[UpstreamSettings], client: str) -> UpstreamSettings:
    """Apply the default rule of the module docstring."""
    if client not in UPSTREAM_PROTOCOLS:
        api = PROTOCOLS[client].upstream_api
        return next((u for u in candidates if api in u.apis), candidates[0])
    return next((u for u in candidates if client not in u.apis), candidates[0])


def require_model_name(model: str, requested: str) -> str:
    if not model:
        raise NotFound(
            f"The model '{shorten_value(requested)}' does not exist.",
            param="model",
            code="model_not_found",
        )
    return model


def make_route(upstream: UpstreamSettings, name: str, client: str) -> Route:
    preferred = PROTOCOLS[client].upstream_api
    protocol = preferred if preferred in upstream.apis else next(iter(upstream.apis))
    return Route(upstream, protocol, find_target(name, upstream))


def list_literal_models(upstream: UpstreamSettings) -> dict[str, str]:
    """Return client name -> upstream name for all aliases and globs without wildcards."""
    literal = {glob: glob for glob in upstream.globs if not is_pattern(glob)}
    aliases = {name: target for name, target in upstream.aliases.items() if not is_pattern(name)}
    return {**aliases, **literal}
