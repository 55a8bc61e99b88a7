"""The HTTP layer: Flask blueprints per API family, request hooks, WSGI middleware, gunicorn.

This package knows connections, headers, paths and status codes. The gateway (`pipeline`) makes the
answers, `protocols` has framings and the formats of errors, and `console` has the operator's pages.
`make_app` (`forwarder/app.py`) registers the blueprints, wraps the WSGI application and installs
the hooks. gunicorn's settings are in `config/gunicorn_conf.py`.

**Before the view**, a request passes

1. `gunicorn_worker.py`: it refuses a connection whose first request waited too long for the worker,
   and wraps the socket in a `ClientSocket` (`client_socket.py`), which limits the times for the
   first head, for each body and for sending each response;
2. the WSGI middleware, which `make_app` installs from the inside out. The outermost is `cors.py` if
   it is configured; it answers preflights. `base_paths.py` reads a reasoning style at the start of
   the path and then normalizes the path. Werkzeug's ``ProxyFix`` is the innermost, if configured;
3. Flask's routing. Its 404 or 405 is raised only after the hooks, so it has a context too;
4. the ``before_request`` hooks: `request_hooks.py` opens the `RequestContext` (``g.context``), so
   each refusal from here on has an id and a log record. `browser_guard.py` checks ``Host`` and
   ``Origin`` while clients need no keys. `json_body.py` replaces the stream of a body that is
   compressed or of unknown length by a decoder with a limit (`content_encoding.py`). Hooks of
   blueprints follow.

**An answer** (`serving.py`): a view calls `serve` with the name of its protocol. `serve` calls
`request_hooks.authenticate`, which identifies the client (`auth.py`), lets the observers refuse it
(`rate_limit.py` and `client_keys/budgets.py`), receives the body, takes a slot of
FORWARDER_MAX_CONCURRENT, and adds the request to those in flight. Then `serve` parses the body,
corrects mixed shapes (`mixed_request_shapes.py`), starts the watch for a disconnect
(`client_disconnect.py`), and calls `Gateway.stream`. It folds the stream into one JSON object, or
writes it in the protocol's framing. For a Responses request with ``background`` it starts
background work instead.

**The end**: `finish_response` adds the headers of the context and closes it: at once, or when the
WSGI server closes a stream. The context's cleanup closes the upstream's response and frees slots
and memory. `handle_error` formats every exception for the API of the request (`find_api`); the
console and the landing page have an error handler of their own. After the first batch, an error
becomes the last event of the stream (`append_error` of the protocol).

**Other routes**: those for stored objects begin with `open_store`, `open_files` or
`open_vector_stores`, which authenticate and return the store and the owner of the client's data.
`files.py` and `images.py` pass requests on with `send_to_upstream`. Lists of models and the dry run
only identify the client: they take no slot and count for no limit. Routes of the administrator call
`require_administrator`. `operator_call.py` marks requests that the console sends.

**The WebSocket** is a second entry to the gateway. `websocket.py` checks the handshake. A reader
thread fills a queue; `websocket_turns.py` answers one message after the other, each with a context
and an authentication of its own, like a POST. `websocket_history.py` keeps the connection's turns.

Rules:

- The body is received before the slot is taken, so that slow clients occupy no slot.
- Views read JSON by `read_json_body`, and files only after `authenticate`, which reads the form
  (`form_body.py`); never by Flask's ``request.json``. This limits memory, size, depth and number of
  values, and captures get the JSON. The model routes of `ollama.py` call `read_body` themselves,
  because their bodies may contain a provider's key and are never logged.
- `watch_disconnect` comes after the whole body: the watch ends with the next received byte.
- A view that waits for an upstream passes its stream to `set_response_stream`, because a shutdown
  must not interrupt the request while the server writes. Such a view turns ShutdownInterrupt into
  ShuttingDown, because Flask's error handlers do not get a BaseException.
- `gunicorn_worker.py` and `client_socket.py` import no other modules of the forwarder, because
  gunicorn's master keeps them after a SIGHUP (`tests/config/test_gunicorn_conf.py`). For the same
  reason `forwarder/__init__.py` and this module import nothing; no test checks that. The worker
  finds the members of `ForwarderExtension` (`extension.py`) by name.
- Code that runs for each request uses `get_request` and `get_services`: Flask's proxies look their
  object up at each access. Under ``flask run`` requests run in threads, without the limits of the
  worker and without the watch for a disconnect.

To add a route:

1. Write the view in the blueprint of its API. List a new module in `V1_MODULES` of `app.py`, which
   adds ``/v1`` to its routes, or in `OTHER_MODULES`. If observers (metrics, usage, traces) must not
   see it, add the blueprint to ``_UNOBSERVED_ROUTES`` of `request_hooks.py`.
2. Describe it in an ``…_operations.py`` of `openapi` (its guide has the steps), or
   `tests/openapi/test_document.py` fails.
3. Add its path to `tests/test_app.py`, and its tests to `tests/server`. `tests/test_imports.py`
   fails for a module without tests, `tests/test_docs.py` for an undocumented error code.
"""
