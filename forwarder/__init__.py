"""A forwarder that translates between OpenAI's two APIs and serves Ollama's API.

It serves Anthropic's Messages API too. `docs/architecture.md` has the packages, their order and the
decisions behind them, `docs/reference/modules.md` lists all modules, and the ``__init__.py`` of a
package is its guide. This text says where to start reading.

**A request from top to bottom:**

1. The hooks of `server/request_hooks.py` create a `RequestContext` (`context/request_context.py`),
   which stays with the request until it is closed and logged. A view, for example in
   `server/openai.py`, calls `serve` of `server/serving.py`: it authenticates, reads the body and
   calls the gateway.
2. `Gateway.stream` (`pipeline/gateway.py`) wraps the stream in the recorder of stored answers.
   `UpstreamCalls` (`pipeline/upstream_calls.py`) gets the routes of the model from
   `models/router.py`, and `Resilience` (`upstream/resilience/failover.py`) tries one after the
   other until an upstream begins to answer.
3. For each attempt, `build_handler` (`pipeline/pipeline.py`) puts the stages of `PIPELINE` around
   the upstream's handler. One of them is the translation (`translation/__init__.py`). Observers and
   retries (`upstream/resilience/upstream_state.py`) are between the stages and the upstream.
4. The innermost handler (`upstream/client.py`) adapts the request to its provider
   (`providers/adapt.py`). `upstream/connection.py` sends it through the SDK, and
   `upstream/response.py` reads the answer as batches of events.
5. The batches pass the same stages in reverse. `encode_stream` of `server/serving.py` writes them,
   or the protocol's ``fold`` makes one JSON object of them.

**Where to start, by task:**

- A parameter is lost, refused or wrong: its row in `protocols/parameters.py` (for other APIs in
  `protocols/messages_dispositions.py` and `protocols/ollama.py`), then `request.py` of the
  translation. ``forwarder translate FILE`` prints the upstream request and the disposition of each
  parameter, and sends nothing.
- An event or a field of the answer is wrong: `stream.py` of the translation; for the end of a
  stream `protocols/stream_end.py`; for features that are emulated, the stage in `middleware`.
- A provider differs from OpenAI's documents: `providers/profile.py` and `providers/builtin.py`.
  ``forwarder probe NAME`` finds the fields.
- A status or an error code is wrong: the tree in `core/errors.py`, the codes and wordings of
  providers in `core/error_kinds.py`, the conversion of the SDK's errors in `upstream/errors.py`.
- The wrong upstream is called, or too often: `models/router.py` and `upstream/resilience`.
- A time-out or a broken connection: the guides of `upstream` and `upstream/transport`; on the side
  of the client `server/client_socket.py` and `server/client_disconnect.py`.
- History, stored responses, background work: `storage`, and `pipeline/background_work.py`.
- Access, keys and limits: `server/auth.py`, `client_keys`, `server/rate_limit.py` and, for requests
  of web pages, `server/browser_guard.py`.
- Start and stop: `wsgi.py`, `create_app` in `app.py`, `services.py`; for workers
  `config/gunicorn_conf.py` and `server/gunicorn_worker.py`; for requests in flight
  `core/in_flight_requests.py`.
- A failure of one client's request: capture it with ``FORWARDER_CAPTURE``, then repeat it with
  ``forwarder replay`` (`observability/capture`, `server/replay_application.py`).

**Modules of this folder.** `create_app` (`app.py`) loads the settings, configures the log, builds
`Services`, makes the application and, except for a command, starts the loops. `make_app` connects
an application with given services: blueprints, commands, WSGI middleware, hooks, and the rate
limiter among the observers. It starts nothing, so replays and ``forwarder openapi`` call it. The
guide of `server` has the order of the WSGI middleware and of the hooks. `wsgi.py` is the
application of gunicorn and ``flask run``, `__main__.py` the command.

**Rules for all packages**, each with its test:

- `tests/test_imports.py`: imports go to lower packages only, without cycles. Libraries are imported
  only by their owners. `protocols` (except `framing.py`) and `translation` are pure. Only `config`
  reads the environment, only `storage/db` and `storage/repositories` query the database, and only
  `app.py`, `services.py` and `cli` build `Services`. Class names are unique. A module with
  functions has a test module under the same path in ``tests``, or a row in `ELSEWHERE`.
- Only `pipeline` and `upstream` may compare with the name of a protocol, and only with a constant
  such as ``CHAT.name``. Other packages ask the `Protocol` object for facts
  (`tests/protocols/test_registry.py`).
- Error codes, headers and log events are in ``docs/reference`` (`tests/test_docs.py`), and the
  generated parts of ``docs`` equal the code (`tests/docgen/test_blocks.py`).
"""

__version__ = "0.2.0"
