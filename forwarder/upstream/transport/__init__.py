"""The network below the SDK: bytes, connections and time-outs, without knowledge of the APIs.

`select_transport` chooses the transport for an upstream:

    demo       `DemoTransport` (`demo`), which needs no network
    gevent     `GeventTransport`, in gunicorn's worker
    threads    httpx2's own (None); `PinnedTransport` if only looked-up addresses are allowed

Not here: the meaning of the bytes and the time-outs of an answer (`upstream/response.py`), messages
for clients (`upstream/errors.py`), connections of clients (`server/client_socket.py`), and other
outgoing connections: `middleware/media/fetch.py` and `hosted_tools/mcp_http.py` have their own.

**A request under gevent**:

1. The SDK calls `SdkHttpClient` (`sdk_http_client.py`), which builds the request without httpx2's
   parsing and merging, and calls the transport. With httpx2's own transport,
   `upstream/connection.py` makes a `StockHttpClient` instead.
2. `GeventTransport` (`gevent_transport.py`) takes a socket from the pool of the origin
   (`connection_pool.py`), sends head and body, and feeds received data to an `HttpResponseParser`
   (`http_response.py`) until the head is complete.
3. It returns a response with an unread body, and the `GeventChunkReader` of this body in
   ``extensions["chunk_reader"]``. The HTTP client calls `limit_answer` (`answer_limits.py`), which
   refuses compressed answers and cuts error bodies.
4. `open_chunk_reader` (`chunk_reader.py`) gives this reader to `upstream/response.py`. For other
   transports it makes a `ThreadedReader`, because a blocking read cannot be interrupted. Error
   bodies, lists of models and passed-through answers are read from the response itself, without
   heartbeats.

A reader yields data as it arrives, and ``b""`` after each ``heartbeat`` seconds of silence. Once
its caller sets ``silence_limit``, that many seconds of silence end it.

Rules:

- Exceptions are those of httpx2, which the SDK expects. `connection_errors.py` finds the reason in
  their causes. It names hosts and ports, never the user and password of a proxy.
- `GeventChunkReader.close` returns the socket to the pool if the body is complete and the server
  keeps the connection, else it closes it. An idle socket is closed after `MAX_IDLE_SECONDS`.
- The time-out ``connect`` covers name look-up, connecting and TLS together; ``read`` covers the
  whole head. Then the reader's heartbeats replace the time-out.
- A request is sent again only if a reused connection fails within `_STALE_SECONDS`, before any byte
  of the response; then once, over a new connection. A POST is sent again only if the upstream has
  retries switched on (``MAX_RETRIES``), because it could be billed twice.
- While a request is sent and waits for the head, `register_socket` (`core/cancellation.py`) lets a
  disconnect of the client shut the socket down. Connecting is not interrupted.
- A stream that never waits yields to the others after `_MAX_TURN_SECONDS`, with a pause that is not
  0: a pause of 0 ends before the loop polls its sockets. Bursts are split into chunks of
  `_CHUNK_BYTES`. A response has one `DeadlineTimer` (`deadline_timer.py`) instead of a timer for
  each read.
- `GeventTransport` belongs to the thread of the event loop and has no locks. `ThreadedReader` reads
  at most `MAX_BUFFERED_BYTES` ahead of a slow client.
- Upstreams may be hostile: heads, interim answers, whole bodies, error bodies, lists of models and
  the number of JSON values are limited, and nothing is decompressed.
- With ``lookup``, which registered models have, each connection resolves the name once, and no
  proxy is used. Other upstreams use the proxies of the environment.

To add a limit, raise UnreadableAnswer with a predicate ("answered with …") in `answer_limits.py`;
`upstream/errors.py` adds the name of the upstream. To describe another failure, extend
`connection_errors.py` and its tests, which provoke failures with both kinds of transports. To add a
transport, subclass ``httpx2.BaseTransport``, raise httpx2's exceptions, provide a ``chunk_reader``
if it can, choose it in `select_transport`, and test that in
`tests/upstream/transport/test_transport.py`.
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
