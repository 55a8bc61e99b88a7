"""Calls to upstreams through the official SDK.

An `Upstream` (`client.py`) is the client of one endpoint: one base URL with one key. It makes the
handlers that `pipeline` calls, and lists models for `models`. `services.py` builds it. Not here:
adaptations to providers (`providers`), the meaning of events (`protocols`), the choice of upstreams
and retries (`resilience`), and sockets (`transport`). `docs/architecture.md` says why the SDK's
typed layer is not used.

**A call** of the handler that `Upstream.make_handler` returns:

1. `client.py` sets the upstream's name of the model, takes the profile of the model with its
   learned quirks, and adapts the body. A Chat client's own body for an unknown provider is not
   adapted (`PASSTHROUGH_PROFILE`), except by learned quirks.
2. `connection.py` encodes the body, builds the headers, and sends an `EncodedRequest` (URL, bytes,
   id) with the SDK's client (`sdk_client.py`). It gets the HTTP response with an unread body.
3. `response.py` wraps it in an `UpstreamResponse`: bytes become batches of events. It detects a
   stream, a JSON object or a web page by the first bytes; `protocols/unfold.py` turns a JSON object
   into events. An empty batch is a heartbeat.
4. `adapt_response` (`providers`) repairs the events, and `require_complete` (`protocols`) raises an
   error if the stream ends before the answer.
5. `client.py` reads the first batch, so that it also raises a refusal in a 200, and returns the
   stream.

If the upstream refuses the request for a reason that `infer_quirk` knows, `client.py` sends it once
more with this quirk, and remembers the quirk if it helped. After a 404, 405, 501 or an answer that
violates the protocol, `base_url_check.py` probes whether a base URL without a version lacks it.

Compaction and embeddings are sent in the same way, but they never stream, their answers are not
adapted, and no quirk is learned from them. `files.py` uploads files and passes requests through;
`quirk_probe.py` runs ``forwarder probe``. `upstream_map.py` holds one object for each upstream or
endpoint. Entries of registered models come and go at run time; a running request keeps the object
that it has.

**Time-outs**: `transport` limits connecting, and the wait for the head of the response
(``FIRST_BYTE_TIMEOUT``, ``WHOLE_TIMEOUT`` without ``stream``). `response.py` limits silence and the
total time of an answer. After the end marker it waits 0.25 seconds for the end of the body, so that
the connection can be reused; after the finish reason of a single choice 2 seconds for usage and
``[DONE]``.

Rules:

- Only `connection.py`, `errors.py` and `sdk_client.py` import the SDK; `tests/test_imports.py`
  checks it. Calls, except the probes of a base URL, are made inside ``with connection.errors``. It
  turns exceptions into an UpstreamError without secrets. A refusal keeps the upstream's message;
  other messages name the upstream.
- Calls for answers and passed-through requests are made inside a `CancellationScope`, so that a
  disconnect of the client ends the wait for the head. ``context.cleanup`` closes the response.
- Errors can quote keys. Error bodies, events with an error, and headers for the client are redacted
  here. Other events are not searched for secrets.
- If the upstream refuses the forwarder's own key, the client gets a 403 (`key_refusal.py`), because
  it would take a 401 for a refusal of its own key. The log has the refusal once, without the
  upstream's message, which may quote the request.
- The client gets only the headers in ``_CLIENT_HEADERS`` and ``_CLIENT_HEADER_PREFIXES``
  (`response.py`). The operator's headers replace the client's. An ``Idempotency-Key`` goes only
  with the first body of a request and its repetitions.
- `take_turn` comes before each step on a large body (encode, send, check, parse), so that other
  requests run in between.

To call another endpoint of the API: its URL in `UpstreamConnection`, a ``make_…_handler`` in
`client.py`, the form of its answer in `protocols/unfold.py`, and a limit in ``_MAX_VALUES``
(`response.py`) if its answers have many values. `sdk_client.py` overrides private methods of the
SDK; after an update `tests/upstream/test_sdk_client.py` shows whether they still fit.
"""
