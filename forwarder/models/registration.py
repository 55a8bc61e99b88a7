"""Registration of models: validate a model's host, probe its remote, then store it.

A model that fails a step is not stored. Errors name the request parameter to change. Ollama's API,
the console and the commands use this.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from forwarder.config.settings import UpstreamSettings
from forwarder.context.request_context import Route
from forwarder.core.errors import InvalidRequest, NotFound, Unsupported, shorten_value
from forwarder.core.ssrf import AddressGuard
from forwarder.core.types import Json
from forwarder.models.catalog import Catalog
from forwarder.models.health_probe import (
    CHECK_TIMEOUT_SECONDS,
    ProbeResult,
    probe_model,
    probe_model_list,
)
from forwarder.models.registered_model import (
    RegisteredModel,
    copy_model,
    read_create_request,
    read_flag,
    validate_name,
)
from forwarder.models.registry import ModelRegistry, make_not_found
from forwarder.upstream.client import Upstream

_DEFAULT_PORTS = {"http": 80, "https": 443}


class RegistrationResult(NamedTuple):
    """A registered model, the name of its provider profile, and its probe result if verified."""

    remote: RegisteredModel
    provider: str
    check: ProbeResult | None

    @property
    def report(self) -> Json:
        """The provider and the probe result as JSON."""
        check = {} if self.check is None else self.check.to_json()
        return {"provider": self.provider, "verified": self.check is not None, **check}


class ModelRegistration:
    """Registers models.

    ``connect`` creates an upstream from its settings. ``configured`` are the names of the
    configured upstreams. ``on_verified`` receives each stored model and the result of the probe of
    its remote.
    """

    def __init__(
        self,
        registry: ModelRegistry,
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
        self.on_verified: Callable[[RegisteredModel, ProbeResult], object] = lambda model, check: (
            None
        )

    def create(
        self, body: Json, client_key: str | None = None, keep: Collection[str] = ()
    ) -> RegistrationResult:
        """Register the model that an ``/api/create`` request body describes.

        ``keep`` names parameters of `SECRET_FIELDS` that the model takes over from the registered
        model that it replaces. Raises a ClientError that names the wrong parameter, or
        StoreUnavailable.
        """
        model = self._keep_secrets(read_create_request(body), keep)
        self._check_name(model.name)
        if not model.host:
            return RegistrationResult(self._store_copy(model, client_key, "from"), "", None)
        self._check_host(model.host)
        upstream = self.connect_for_probe(model.upstream)
        try:
            profile = upstream.get_profile(model.model).name
            check = (
                self._verify_remote(model, upstream) if read_flag(body, "verify", True) else None
            )
        finally:
            upstream.close()
        stored = self._registry.put(model)
        if check is not None:
            self.on_verified(stored, check)
        return RegistrationResult(stored, profile, check)

    def add_quirks(self, name: str, quirks: Mapping[str, Any]) -> RegisteredModel:
        """Add quirks to a registered model's remote; they override its quirks of the same name.

        Raises NotFound, UpstreamKeyRefused for a model with locked secrets, or StoreUnavailable.
        """
        model = self._registry.find(name)
        if model is None:
            raise make_not_found(name)
        changed = replace(model.require_key(), quirks={**model.quirks, **quirks})
        return self._registry.put(changed)

    def delete(self, name: str, client_key: str | None = None) -> RegisteredModel:
        """Delete and return a registered model.

        Raises Unsupported for a model of the configuration, NotFound or StoreUnavailable.
        """
        is_registered = self._registry.find(name) is not None
        if not is_registered and self._catalog.find_model(name, client_key) is not None:
            raise Unsupported(
                f"model '{shorten_value(name)}' is defined in the forwarder's environment and "
                "cannot be deleted here.",
                param="model",
            )
        return self._registry.remove(name)

    def copy(self, source: str, destination: str, client_key: str | None = None) -> RegisteredModel:
        """Register an additional name for a model.

        Raises NotFound if ``source`` does not exist, InvalidRequest, or StoreUnavailable.
        """
        name = validate_name(destination, "destination")
        self._check_name(name)
        return self._store_copy(RegisteredModel(name, source), client_key, "source")

    def probe_registered(self, remote: RegisteredModel) -> ProbeResult:
        """Probe the remote of a registered model over a new connection."""
        upstream = self.connect_for_probe(remote.upstream)
        try:
            return probe_remote(remote, upstream)
        finally:
            upstream.close()

    def connect_for_probe(self, settings: UpstreamSettings) -> Upstream:
        """Return an upstream with connections of its own and short timeouts; the caller closes it.

        ``settings`` are those of a configured upstream or of a registered model.
        """
        upstream = self._connect(shorten_timeouts(settings))
        upstream.errors.logs_key_refusal = False  # the caller reports the result
        return upstream

    def _keep_secrets(self, model: RegisteredModel, keep: Collection[str]) -> RegisteredModel:
        """Return the model with the secrets of the registered one that it replaces.

        Secrets are only sent to the host for which they were entered.
        """
        stored = self._registry.find(model.name)
        if stored is None or not model.host or not keep:
            return model
        if stored.locked:
            raise make_secret_error(min(keep), "the forwarder cannot decrypt the stored value")
        kept = {param: value for param in keep if (value := getattr(stored, SECRET_FIELDS[param]))}
        if kept and read_origin(stored.host) != read_origin(model.host):
            reason = "the stored value is only sent to the host for which it was entered"
            raise make_secret_error(next(iter(kept)), reason)
        return replace(model, **{SECRET_FIELDS[param]: value for param, value in kept.items()})

    def _store_copy(
        self, model: RegisteredModel, client_key: str | None, param: str
    ) -> RegisteredModel:
        source = self._registry.find(model.model)
        if source is not None:
            return self._registry.put(copy_model(source.require_key(), model))
        if self._catalog.find_model(model.model, client_key) is None:
            error = make_not_found(model.model)
            raise NotFound(error.message, param=param, code=error.code)
        return self._registry.put(model)

    def _check_name(self, name: str) -> None:
        head, slash, _ = name.partition("/")
        if slash and head in self._configured:
            raise InvalidRequest(
                f"Invalid value for 'model': the prefix '{head}/' is reserved for the upstream "
                f"'{head}'. Use another name.",
                param="model",
                code="invalid_value",
            )

    def _check_host(self, host: str) -> None:
        scheme, name, port = read_origin(host)
        try:
            addresses = self._guard.look_up(name, port) if name.isascii() else []
        except (OSError, UnicodeError):
            raise make_host_error(
                f"the host name '{shorten_value(name)}' cannot be resolved"
            ) from None
        if not addresses:
            raise make_host_error(
                "it has no public address (the operator can allow private addresses in "
                "FORWARDER_REMOTE_ALLOW)"
            )
        if scheme == "http" and not self._guard.needs_allow_list(name, port):
            raise make_host_error("it must use https://, because the API key is sent to it")

    def _verify_remote(self, remote: RegisteredModel, upstream: Upstream) -> ProbeResult:
        check = probe_remote(remote, upstream)
        if not check.is_healthy:
            param, reason = _FAULT_MESSAGES[check.fault or "host"]
            message = (
                f"{reason}: {check.error} The model was not saved. "
                "Set 'verify' to false to skip this check."
            )
            raise InvalidRequest(message, param=param, code="verification_failed")
        return check


_FAULT_MESSAGES = {
    "host": ("remote_host", "'remote_host' is wrong or the host is down"),
    "key": ("remote_api_key", "The remote does not accept 'remote_api_key'"),
    "model": ("from", "The remote does not have the model in 'from'"),
    "request": ("from", "The remote rejected a test request"),
}


SECRET_FIELDS = {"remote_api_key": "key", "remote_headers": "headers", "remote_query": "query"}
"""Parameter -> the field of `RegisteredModel` that is stored encrypted."""


def make_secret_error(param: str, reason: str) -> InvalidRequest:
    message = f"Enter '{param}' again, or remove it: {reason}."
    return InvalidRequest(message, param=param, code="invalid_value")


def read_origin(host: str) -> tuple[str, str, int]:
    """Return scheme, host name and port of a base URL."""
    url = urlsplit(host)
    return url.scheme, url.hostname or "", url.port or _DEFAULT_PORTS[url.scheme]


def make_host_error(reason: str) -> InvalidRequest:
    message = f"Invalid value for 'remote_host': {reason}."
    return InvalidRequest(message, param="remote_host", code="invalid_value")


def shorten_timeouts(settings: UpstreamSettings) -> UpstreamSettings:
    """Return the settings with timeouts short enough for an interactive check."""
    return replace(
        settings,
        connect_timeout=CHECK_TIMEOUT_SECONDS / 2,
        first_byte_timeout=CHECK_TIMEOUT_SECONDS,
        total_timeout=3 * CHECK_TIMEOUT_SECONDS,
    )


def probe_remote(remote: RegisteredModel, upstream: Upstream) -> ProbeResult:
    """Probe a remote with a model request, or with its model list if the model only embeds."""
    if remote.can_answer:
        return probe_model(upstream, Route(upstream.settings, remote.protocol, remote.model))
    return probe_model_list(upstream, remote.model)
