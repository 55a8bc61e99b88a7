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
   stream, a JSON object or a web page by the first bytes (HTML also by its content type);
   `protocols/unfold.py` turns a JSON object into events. An empty batch is a heartbeat.
4. `adapt_response` (`providers`) repairs the events, and `require_complete` (`protocols`) raises an
   error if the stream ends before the answer.
5. `client.py` reads the first batch, so that it also raises a refusal in a 200, and returns the
   stream.

If the upstream refuses the request for a reason that `infer_quirk` knows, `client.py` sends it once
more with this quirk. `LearnedQuirks` (`providers`) keeps a quirk that helped, if it ``is_lasting``.
After one of the `ABSENT_STATUSES`, an answer that violates the protocol or an empty list of models,
`base_url_check.py` probes whether a base URL without a version lacks it.

Compaction and embeddings are sent in the same way, but they never stream, their answers are not
adapted, and no quirk is learned from them. A background response that runs at the upstream is
followed by `UpstreamConnection.reopen` instead. `files.py` uploads files and passes requests
through; `quirk_probe.py` runs ``forwarder probe``. `upstream_map.py` holds one object for each
upstream or endpoint.

**Time-outs**: `transport` limits connecting, and the wait for the head of the response
(``FIRST_BYTE_TIMEOUT``, ``WHOLE_TIMEOUT`` without ``stream``). `response.py` limits silence
(``IDLE_TIMEOUT``; before the first byte of an answer without ``stream`` again ``WHOLE_TIMEOUT``)
and the total time of an answer (``TOTAL_TIMEOUT``). After the end marker it waits `_DRAIN_SECONDS`
for the end of the body, so that the connection can be reused; after the finish reason of a single
choice `_USAGE_WAIT_SECONDS` for usage and ``[DONE]``.

Rules:

- Only `connection.py`, `errors.py` and `sdk_client.py` import the SDK; `tests/test_imports.py`
  checks it. Calls, except the probes of a base URL, are made inside ``with connection.errors``. It
  turns exceptions into an UpstreamError without secrets. A refusal keeps the upstream's message.
- Calls for answers, uploads and passed-through requests are made inside a `CancellationScope`, so
  that a disconnect of the client ends the wait for the head. ``context.cleanup`` closes the
  response.
- Errors can quote keys. Error bodies, events with an error, and headers for the client are redacted
  here. Other events are not searched for secrets.
- A refusal of the forwarder's own key becomes an UpstreamKeyRefused (`key_refusal.py`). Until a
  request succeeds, the log has it once, without the upstream's message, which may quote the
  request.
- The client gets only the headers that `select_client_headers` (`response.py`) selects. In the
  upstream's request, the operator's headers replace the client's. An ``Idempotency-Key`` goes only
  with the first body of a request and its repetitions.
- `take_turn` comes before each step on a large body (encode, send, check, parse), so that other
  requests run in between.

To call another endpoint of the API: its URL in `UpstreamConnection`, a ``make_…_handler`` in
`client.py`, the form of its answer in ``_UNFOLDERS`` of `protocols/unfold.py`, a limit in
``_MAX_VALUES`` (`response.py`) if its answers have many values, and a method of `UpstreamCalls`
(`pipeline/upstream_calls.py`) that makes the attempts. `sdk_client.py` overrides private methods of
the SDK; after an update `tests/upstream/test_sdk_client.py` shows whether they still fit.
"""
