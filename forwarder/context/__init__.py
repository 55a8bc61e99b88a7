"""The state of one request while it is served: context, identity, recorder and redaction.

The package knows neither Flask nor storage. Not here: the creation of contexts for HTTP requests
and the checks of keys (`server/request_hooks.py`, `server/auth.py`), the observers themselves
(`observability`, `usage`, `client_keys/budgets.py`, `server/rate_limit.py`), and the stored owners
of data (`storage/owners.py`).

**The life of a context** (`request_context.py`). HTTP requests, turns of a WebSocket, background
work and requests that the forwarder makes itself each have a `RequestContext`:

1. The creator of a client's context calls `notify_request`, so that all observers see its start.
2. Authentication sets ``client_key``, ``grants``, ``sent_key``, ``account_id`` and ``client_name``,
   and, for a captured request, ``recorder``. Then `authorize` asks the observers: rate limits and
   budgets refuse here. A request that the forwarder makes itself skips these two steps
   (`make_internal_context` in `pipeline/own_upstream_requests.py`).
3. `Resilience` calls `start_attempt` before each attempt. It replaces the fields of the previous
   attempt: upstream, model, endpoint, losses, headers for the client, whether the answer is
   composed, and the memory of data that was added to the request.
4. `instrument` wraps the upstream's handler in the observers, and `upstream/connection.py` takes
   headers (`collect_upstream_headers`) and a recorder (`record_attempt`) for each call.
5. `with_metering`, a stage of the pipeline, notes the first event, the number of events and the
   usage. `convert_errors` around the whole stream turns each exception into a `ForwarderError`.
6. `record_failure` turns an exception into the error that the client gets, and the fields of the
   log. `close` releases all resources, calls ``on_complete`` and writes the record
   ``request_done``.

`cancel` may come at any time, because the client has disconnected or the work was cancelled. It
ends waits, calls the callbacks that shut down sockets (`core/cancellation.py`) and closes the
resources. It does not close the context.

`capture_recorder.py` has a `Recorder` per captured request: the client's body, the body with stored
history, one `AttemptCapture` per call of an upstream, and the client's answer. All share one budget
of bytes. `observability/capture` makes the record from it.

`client_identity.py` derives one identifier for each use of a client's key; its docstring lists
them. A key made at run time stands in ``client_key`` as an identity that survives its rotation; the
key itself is in ``sent_key``.

`redaction.py` has two ways. `redact_secrets` and `redact_headers` remove the secrets of an
upstream's settings from its errors and headers before a client gets them. A `Redactor` removes keys
from captures, logged bodies and pages of the console, and from captures also the fields of
``FORWARDER_CAPTURE_REDACT``. In the log, `record_failure` removes the client's key from messages.

**Rules:**

- The first call of `close` counts the request, so it comes after the last byte of a stream; for
  HTTP, `finish_response` arranges that. If background work does not start, only its ``cleanup`` is
  closed, so that it is not counted.
- Exceptions of ``on_request``, ``on_stream_start``, ``on_tool_call`` and ``on_complete`` are logged
  only. ``authorize``, ``instrument`` and ``trace_headers`` may fail the request.
- `cancel` may come from another greenlet. ``cleanup`` and the reservations of memory may be used in
  several threads. `Recorder.copy_partial` must run in the thread that runs the request.
- After `cancel`, each `ForwarderError` is recorded as `ClientDisconnected`; an unexpected exception
  still is an `InternalError` with a traceback.
- An error's message may quote the request, so the JSON log has only ``detail``, the part that
  cannot; with ``FORWARDER_LOG_BODIES`` that is the whole message.
- The recorder keeps references to the byte strings. A client's body may take half of the budget.
  From a larger body, long strings are dropped as a whole, because redaction would not find half a
  secret.

**To add a field** to `RequestContext`: describe it in the docstring of the class. Reset it in
`start_attempt` if it belongs to an attempt. Copy it in `create_background_context`
(`server/request_hooks.py`) if background work needs it, and store it for other workers in
`StoredRequest` (`storage/background/stored_request.py`), which `BackgroundWork.start` fills and
``_restore_task`` applies (`pipeline/background_work.py`). If the log should show it, add it to
`_make_log_fields` and to `docs/reference/logs.md`; `tests/test_docs.py` compares them for two
requests. **To add a notification**, add a method that does nothing to `RequestObserver`, call it,
and override it in the observers.
"""
