"""Modules that depend on no wire API: types, errors, ids, encryption, limits of the process.

Each package may import this one; it imports none of them, and neither Flask nor the SDK. Some
modules still hold facts about APIs: `error_kinds.py` and `error_classification.py` have the codes
and wordings by which providers report errors, because `UpstreamRefused` in `errors.py` needs them;
`client_headers.py` names headers of OpenAI and Codex; `translation_context.py` has the settings of
the translators. Not here: the breakers of upstreams (`upstream/resilience/breaker.py`), redaction
(`context/redaction.py`), the conversion of the SDK's errors (`upstream/errors.py`), framing
(`protocols/framing.py`).

**Errors.** Code raises a `ForwarderError`, which has the status, the OpenAI-shaped body and the
headers for the client; `ClientApi.encode_error` (`protocols/protocol.py`) puts it into the form of
the client's API. For an upstream's error, `read_error` finds the error object in a body of any
shape, and `UpstreamRefused` calls `classify`. The resulting `ErrorKind` decides the status and code
for the client, and is read by retries, cooldowns and the checks of keys and models.

**Large requests.** Several modules keep one request from harming the others:

1. `body_memory.py`: each piece of a body is reserved in the `BodyMemory` of the process as it
   arrives. Data that the forwarder adds (`stored_data_limit.py` counts it) and data that
   connections keep take memory of the same limit. `form_disk_limit.py` limits the disk space of
   form files in the same way.
2. `json_lenient.py`: counts the values and measures the texts of a body before it is parsed, parses
   it, and checks that it can be serialized again (called by `server/json_body.py`).
3. `large_bodies.py`: `take_turn` lets one step on `LARGE_BYTES` or more run at a time in the event
   loop, with a pause for other requests before it.
4. `paced_iteration.py`: loops over many items call `iter_paced`, steps on long texts `give_way`.
   `make_app` sets the pause that they make, so that the translators, which use them, stay pure.

**The end of a request.** `CleanupStack` holds its resources. If the client disconnects,
`RequestContext.cancel` (`context`) calls the callbacks that `cancellation.py` has registered for
sockets on which the transport waits, and closes the stack. If the process stops,
`in_flight_requests.py` throws `ShutdownInterrupt` into greenlets that wait for an upstream.

**Blocking work.** `blocking_work.py` runs it in native threads (`BlockingPool`) or starts it in the
background (`spawn`); `periodic_task.py` repeats it; `storage_breaker.py` bounds the wait for the
forwarder's own stores.

**Rules:**

- The code runs under gevent (workers) and under threads (``flask run``, commands), and asks
  ``monkey.is_module_patched("threading")`` which it is. Under gevent, ``threading`` and
  ``time.sleep`` are gevent's. A native thread has no event loop, so its work uses the originals
  (``monkey.get_original``) and does not wait for greenlets. Therefore `BodyMemory` has a native
  lock, and `KeptData.drop` must not wait.
- Of this package, translators may import only the modules in `PURE_PACKAGES` of
  `tests/test_imports.py`. Ids and times reach them as an `IdSource`.
- The message of a `ForwarderError` goes to the client. `log_detail` has it only for errors that
  cannot quote a request. Values of clients are cut by `shorten_value`.
- `ShutdownInterrupt` is no Exception, so that neither the SDK nor retries handle it. Code that
  serves a request converts it to `ShuttingDown`.
- `AddressGuard` resolves a name once. The caller connects to the returned addresses; a second
  look-up would open the way for DNS rebinding.
- A seal of `TokenCipher` is bound to a purpose and an owner. `decrypt` returns None for foreign
  text, but its ``spend`` may raise.
- `PeriodicTask` ends if its work raises. `CleanupStack` logs the exception of a callback and
  continues.

**To add an error:** a class in `errors.py` with a docstring, of which the first line is its text in
the OpenAPI document; a line in the tree at the top of the module (`tests/core/test_errors.py`
compares them); a row in `docs/reference/errors.md` (`tests/test_docs.py`); an entry in those tuples
of `openapi/operation.py` whose routes raise it. A failure of upstreams also needs the answers of
`upstream/resilience` (its guide has the steps) and a row in `ERROR_KINDS` of
`observability/metrics.py`, or metrics count it as ``other``. **To add a provider's code or
wording:** a row in the tables of `error_kinds.py` and a case in
`tests/core/test_error_classification.py`.
"""
