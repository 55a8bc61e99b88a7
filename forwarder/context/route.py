"""The target of a request: upstream, protocol and model."""

from __future__ import annotations

from dataclasses import dataclass

from forwarder.config.settings import UpstreamSettings
from forwarder.protocols.model_defaults import NO_DEFAULTS, ModelDefaults


@dataclass(frozen=True)
class Route:
    """The upstream that serves a request, its protocol, and the upstream's own model name.

    ``defaults`` fill parameters that the client did not set.
    """

    upstream: UpstreamSettings
    protocol: str
    model: str
    defaults: ModelDefaults = NO_DEFAULTS
