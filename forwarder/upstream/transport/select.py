"""Which transport carries an upstream's requests."""

from __future__ import annotations

import httpx2
from gevent import monkey

from forwarder.config.settings import UpstreamSettings
from forwarder.upstream.transport.pinned_transport import AddressLookup, PinnedTransport


def select_transport(
    settings: UpstreamSettings, heartbeat: float, lookup: AddressLookup | None = None
) -> httpx2.BaseTransport | None:
    """The demo's own, the fast one under gevent, or ``None``: the SDK's stock transport.

    With ``lookup`` it connects only where that says, and without a proxy, which would look names up
    itself.
    """
    if settings.provider == "demo":
        from forwarder.demo import DemoTransport  # only the demo needs it

        return DemoTransport()
    if monkey.is_module_patched("socket"):
        from forwarder.upstream.transport.gevent_transport import (
            GeventTransport,  # threads cannot use its sockets
        )

        return GeventTransport(
            heartbeat=heartbeat,
            proxies=None if lookup is None else {},
            lookup=lookup,
            resend_posts=settings.max_retries > 0,
        )
    return PinnedTransport(lookup) if lookup is not None else None
