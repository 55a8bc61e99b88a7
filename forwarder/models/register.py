"""Registering a model: its host is judged, its remote is asked, and then it is stored, or nothing.

What is wrong is told by the name of the parameter that has to be another one.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace
from typing import NamedTuple
from urllib.parse import urlsplit

from forwarder.config.settings import UpstreamSettings
from forwarder.context.route import Route
from forwarder.core.errors import InvalidRequest, NotFound, shorten
from forwarder.core.ssrf import Guard
from forwarder.core.types import Json
from forwarder.models.catalog import Catalog
from forwarder.models.probe import PATIENCE, Check, asked, listed
from forwarder.models.registered_model import Remote, copied, flag, new_name, requested
from forwarder.models.registry import NoRegistry, not_found
from forwarder.upstream.client import Upstream

_PORTS = {"http": 80, "https": 443}


class Created(NamedTuple):
    """A registered model, the name of its profile, and what its remote said, if it was asked."""

    remote: Remote
    provider: str
    check: Check | None

    @property
    def found(self) -> Json:
        """What was found, as JSON."""
        check = {} if self.check is None else self.check.shown()
        return {"provider": self.provider, "verified": self.check is not None, **check}


class Creating:
    """Registers models; ``connect`` makes the upstream of settings, ``configured`` are those that
    the environment has.
    """

    def __init__(
        self,
        registry: NoRegistry,
        catalog: Catalog,
        guard: Guard,
        connect: Callable[[UpstreamSettings], Upstream],
        configured: Collection[str],
    ) -> None:
        self._registry = registry
        self._catalog = catalog
        self._guard = guard
        self._connect = connect
        self._configured = configured

    def create(self, body: Json, client_key: str | None = None) -> Created:
        """What a request to create a model describes, stored when it is well.

        Raises a ClientError that says what is not, StoreUnavailable.
        """
        wanted = requested(body)
        self._check_name(wanted.name)
        if not wanted.host:
            return Created(self._copy(wanted, client_key, "from"), "", None)
        self._check_host(wanted.host)
        upstream = self._connect_for_check(wanted)
        try:
            profile = upstream.profile_of(wanted.model).name
            check = self._verified(wanted, upstream) if flag(body, "verify", True) else None
        finally:
            upstream.close()
        return Created(self._registry.put(wanted), profile, check)

    def copy(self, source: str, destination: str, client_key: str | None = None) -> Remote:
        """Give a model another name as well."""
        name = new_name(destination, "destination")
        self._check_name(name)
        return self._copy(Remote(name, source), client_key, "source")

    def check(self, remote: Remote) -> Check:
        """What a small request to a registered model's remote finds out now, or else its list."""
        upstream = self._connect_for_check(remote)
        try:
            return _check(remote, upstream)
        finally:
            upstream.close()

    def _connect_for_check(self, remote: Remote) -> Upstream:
        """An upstream for one check, whose result the caller reports."""
        upstream = self._connect(_impatient(remote.upstream))
        upstream.logs_key_refusal = False
        return upstream

    def _copy(self, wanted: Remote, client_key: str | None, param: str) -> Remote:
        source = self._registry.find(wanted.model)
        if source is not None:
            return self._registry.put(copied(source.unlocked(), wanted))
        if self._catalog.model(wanted.model, client_key) is None:
            raise _as(not_found(wanted.model), param)
        return self._registry.put(wanted)

    def _check_name(self, name: str) -> None:
        head, slash, _ = name.partition("/")
        if slash and head in self._configured:
            raise InvalidRequest(
                f"'{head}/' is where the models of the upstream '{head}' are; take another name.",
                param="model",
                code="invalid_value",
            )

    def _check_host(self, host: str) -> None:
        url = urlsplit(host)
        name, port = url.hostname or "", url.port or _PORTS[url.scheme]
        try:
            found = self._guard.look_up(name, port) if name.isascii() else []
        except (OSError, UnicodeError):
            raise _host(f"the host name '{shorten(name)}' cannot be resolved") from None
        if not found:
            raise _host(
                "it has no public address (the operator's FORWARDER_REMOTE_ALLOW names the "
                "private ones that may be used)"
            )
        if url.scheme == "http" and not self._guard.is_excepted(name, port):
            raise _host("it must be https://, since a key would be sent there")

    def _verified(self, remote: Remote, upstream: Upstream) -> Check:
        check = _check(remote, upstream)
        if not check.is_well:
            param, what = _WRONG[check.wrong or "host"]
            message = f"{what}: {check.error} Nothing was stored; 'verify': false would not ask."
            raise InvalidRequest(message, param=param, code="verification_failed")
        return check


_WRONG = {
    "host": ("remote_host", "The remote_host is wrong, or down"),
    "key": ("remote_api_key", "The remote does not accept the remote_api_key"),
    "model": ("from", "The remote does not know the model named by from"),
    "request": ("from", "The remote refused a small request"),
}


def _host(why: str) -> InvalidRequest:
    message = f"Invalid value for 'remote_host': {why}."
    return InvalidRequest(message, param="remote_host", code="invalid_value")


def _as(error: NotFound, param: str) -> NotFound:
    return NotFound(error.message, param=param, code=error.code)


def _impatient(settings: UpstreamSettings) -> UpstreamSettings:
    """Settings with which nobody waits for long, whatever comes instead of an answer."""
    return replace(
        settings,
        connect_timeout=PATIENCE / 2,
        first_byte_timeout=PATIENCE,
        total_timeout=3 * PATIENCE,
    )


def _check(remote: Remote, upstream: Upstream) -> Check:
    """What a small request finds out; one that only embeds is looked for in the list."""
    if remote.answers:
        return asked(upstream, _route(remote, upstream))
    return listed(upstream, remote.model)


def _route(remote: Remote, upstream: Upstream) -> Route:
    return Route(upstream.settings, remote.protocol, remote.model)
