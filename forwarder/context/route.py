"""Where a request goes: the upstream, its protocol and its name for the model."""

from __future__ import annotations

from dataclasses import dataclass

from forwarder.config.settings import UpstreamSettings
from forwarder.protocols.model_defaults import NO_DEFAULTS, ModelDefaults


@dataclass(frozen=True)
class Route:
    """Where a request goes, in which protocol, and the upstream's own name for the model.

    ``defaults`` go into the request where the client gave nothing.
    """

    upstream: UpstreamSettings
    protocol: str
    model: str
    defaults: ModelDefaults = NO_DEFAULTS
