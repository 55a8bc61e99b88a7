"""The network below the SDK: bytes, connections and time-outs, without knowledge of the APIs.

`select_transport` chooses the transport for an upstream.
"""

import httpx2
from gevent import monkey

from forwarder.config.settings import UpstreamSettings
from forwarder.upstream.transport.pinned_transport import AddressLookup, PinnedTransport


def select_transport(
    settings: UpstreamSettings, heartbeat: float, lookup: AddressLookup | None = None
) -> httpx2.BaseTransport | None:
    """Return the demo's transport, the gevent transport, or ``None`` for the SDK's stock one.

    With ``lookup``, the transport connects only to the addresses that ``lookup`` returns, and uses
    no proxy, because a proxy would resolve names itself.
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
