"""Which transport carries an upstream's requests."""

from __future__ import annotations

import httpx2
from gevent import monkey

from forwarder.config import UpstreamSettings


def transport_for(settings: UpstreamSettings, heartbeat: float) -> httpx2.BaseTransport | None:
    """The demo's own, the fast one under gevent, or ``None``: the SDK's stock transport."""
    if settings.provider == "demo":
        from forwarder.demo import DemoTransport  # only the demo needs it

        return DemoTransport()
    if monkey.is_module_patched("socket"):
        from forwarder.network.transport import GeventTransport  # threads cannot use its sockets

        return GeventTransport(heartbeat=heartbeat)
    return None
