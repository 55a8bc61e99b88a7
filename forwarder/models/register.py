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
from forwarder.core.errors import InvalidRequest, NotFound, shorten_value
from forwarder.core.ssrf import AddressGuard
from forwarder.core.types import Json
from forwarder.models.catalog import Catalog
from forwarder.models.probe import CHECK_TIMEOUT_SECONDS, ProbeResult, probe_model, probe_model_list
from forwarder.models.registered_model import (
    RegisteredModel,
    copy_model,
    read_create_request,
    read_flag,
    validate_name,
)
from forwarder.models.registry import NullModelRegistry, make_not_found
from forwarder.upstream.client import Upstream

_DEFAULT_PORTS = {"http": 80, "https": 443}


class RegistrationResult(NamedTuple):
    """A registered model, the name of its profile, and what its remote said, if it was asked."""

    remote: RegisteredModel
    provider: str
    check: ProbeResult | None

    @property
    def report(self) -> Json:
        """What was found, as JSON."""
        check = {} if self.check is None else self.check.to_json()
        return {"provider": self.provider, "verified": self.check is not None, **check}


class ModelRegistration:
    """Registers models; ``connect`` makes the upstream of settings, ``configured`` are those that
    the environment has.
    """

    def __init__(
        self,
        registry: NullModelRegistry,
        catalog: Catalog,
        guard: AddressGuard,
        connect: Callable[[UpstreamSettings], Upstream],
        configured: Collection[str],
    ) -> None:
        self._registry = registry
        self._catalog = catalog
        self._guard = guard
        self._connect = connect
        self._configured = configured

    def create(self, body: Json, client_key: str | None = None) -> RegistrationResult:
        """What a request to create a model describes, stored when it is well.

        Raises a ClientError that says what is not, StoreUnavailable.
        """
        wanted = read_create_request(body)
        self._check_name(wanted.name)
        if not wanted.host:
            return RegistrationResult(self._store_copy(wanted, client_key, "from"), "", None)
        self._check_host(wanted.host)
        upstream = self._connect_for_probe(wanted)
        try:
            profile = upstream.get_profile(wanted.model).name
            check = (
                self._verify_remote(wanted, upstream) if read_flag(body, "verify", True) else None
            )
        finally:
            upstream.close()
        return RegistrationResult(self._registry.put(wanted), profile, check)

    def copy(self, source: str, destination: str, client_key: str | None = None) -> RegisteredModel:
        """Give a model another name as well."""
        name = validate_name(destination, "destination")
        self._check_name(name)
        return self._store_copy(RegisteredModel(name, source), client_key, "source")

    def probe_registered(self, remote: RegisteredModel) -> ProbeResult:
        """What a small request to a registered model's remote finds out now, or else its list."""
        upstream = self._connect_for_probe(remote)
        try:
            return probe_remote(remote, upstream)
        finally:
            upstream.close()

    def _connect_for_probe(self, remote: RegisteredModel) -> Upstream:
        """An upstream for one check, whose result the caller reports."""
        upstream = self._connect(shorten_timeouts(remote.upstream))
        upstream.logs_key_refusal = False
        return upstream

    def _store_copy(
        self, wanted: RegisteredModel, client_key: str | None, param: str
    ) -> RegisteredModel:
        source = self._registry.find(wanted.model)
        if source is not None:
            return self._registry.put(copy_model(source.require_key(), wanted))
        if self._catalog.find_model(wanted.model, client_key) is None:
            raise _as(make_not_found(wanted.model), param)
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
        name, port = url.hostname or "", url.port or _DEFAULT_PORTS[url.scheme]
        try:
            found = self._guard.look_up(name, port) if name.isascii() else []
        except (OSError, UnicodeError):
            raise make_host_error(
                f"the host name '{shorten_value(name)}' cannot be resolved"
            ) from None
        if not found:
            raise make_host_error(
                "it has no public address (the operator's FORWARDER_REMOTE_ALLOW names the "
                "private ones that may be used)"
            )
        if url.scheme == "http" and not self._guard.is_exception(name, port):
            raise make_host_error("it must be https://, since a key would be sent there")

    def _verify_remote(self, remote: RegisteredModel, upstream: Upstream) -> ProbeResult:
        check = probe_remote(remote, upstream)
        if not check.is_healthy:
            param, what = _FAULT_MESSAGES[check.fault or "host"]
            message = f"{what}: {check.error} Nothing was stored; 'verify': false would not ask."
            raise InvalidRequest(message, param=param, code="verification_failed")
        return check


_FAULT_MESSAGES = {
    "host": ("remote_host", "The remote_host is wrong, or down"),
    "key": ("remote_api_key", "The remote does not accept the remote_api_key"),
    "model": ("from", "The remote does not know the model named by from"),
    "request": ("from", "The remote refused a small request"),
}


def make_host_error(why: str) -> InvalidRequest:
    message = f"Invalid value for 'remote_host': {why}."
    return InvalidRequest(message, param="remote_host", code="invalid_value")


def _as(error: NotFound, param: str) -> NotFound:
    return NotFound(error.message, param=param, code=error.code)


def shorten_timeouts(settings: UpstreamSettings) -> UpstreamSettings:
    """Settings with which nobody waits for long, whatever comes instead of an answer."""
    return replace(
        settings,
        connect_timeout=CHECK_TIMEOUT_SECONDS / 2,
        first_byte_timeout=CHECK_TIMEOUT_SECONDS,
        total_timeout=3 * CHECK_TIMEOUT_SECONDS,
    )


def probe_remote(remote: RegisteredModel, upstream: Upstream) -> ProbeResult:
    """What a small request finds out; one that only embeds is looked for in the list."""
    if remote.can_answer:
        return probe_model(upstream, _route(remote, upstream))
    return probe_model_list(upstream, remote.model)


def _route(remote: RegisteredModel, upstream: Upstream) -> Route:
    return Route(upstream.settings, remote.protocol, remote.model)
