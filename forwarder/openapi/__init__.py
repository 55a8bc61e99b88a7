"""The OpenAPI document of all routes.

The document has the routes of the API, but not the pages of the console, WebSockets and ``HEAD`` of
``GET`` routes. Not here: the routes ``/openapi.json`` and ``/docs/api`` and the cache of the
document (`server/openapi.py`), and the command that prints it (`cli/openapi.py`). ``viewer`` has
the files of ``/docs/api``: a page of this project and a vendored Swagger UI.

**How the document is made:**

1. At the first request, `read_document` (`server/openapi.py`) reads the routes of Flask's URL map
   as `DocumentRoute`: path, method, endpoint and docstring of the view. It passes them to the
   function that `app.py` has installed. Only that function imports `document.py`.
2. `build_document` looks up each route, as ``METHOD /path``, in `TAGS`: the tables of the
   ``*_operations.py`` modules, one per tag of the document.
3. `describe_operation` joins both. The docstring of the view, or the `Operation`'s ``summary``,
   gives the summary (its first paragraph) and the description; the path gives its parameters. The
   `Operation` (`operation.py`) gives the rest: answers, body, query and headers, the keys that are
   needed (`Access`), and the error classes that the view may raise.
4. `errors.py` makes one response per status and form of errors (OpenAI, Ollama, Messages) from the
   classes of `core/errors.py` and their docstrings. `Forbidden` and `InternalError` belong to each
   operation. ``is_relayed`` adds ``4XX`` and ``5XX`` for statuses that an upstream chooses.
5. The ``*_schemas.py`` modules, `messages_operations.py` and `errors.py` have the forwarder's own
   schemas, which replace those of the SDK with the same name. `add_used_schemas` adds to the
   document only those that it refers to.

**Sources of schemas** (`schemas.py`):

- `make_request` reads a table of dispositions (`protocols/parameters.py` and others), which also
  validates requests. A parameter accepts the SDK's schema or any value of the JSON types in its
  row, and its description has the disposition and the reason.
- `accept_null` takes a request of the SDK for which there is no table. Optional fields may be null.
- ``sdk_schemas.json`` has the types of OpenAI's APIs. `tools/docgen/sdk_schemas.py` generates it
  from the SDK, because that takes a second and imports types that a server does not need.
- Limits such as `MAX_RESULTS` are imported from the modules that enforce them.

**Rules:**

- The schemas must accept each request that the forwarder accepts. `tests/openapi/test_traffic.py`
  compares them with recorded conversations, captured requests of clients and the answers of the
  demo; the exhaustive `tests/openapi/test_generated_requests.py` sends requests that are generated
  from the document.
- The document needs no key, so it contains nothing of the installation but its public address.
- Callers must not change the dicts of `load_sdk_schemas`, which are cached while the document is
  built.
- OpenAPI 3.1 has no schema for the items of a stream. `describe_stream` writes ``x-itemSchema``.
- The Messages API reports 503 as 529 (`map_status`).

**To add a route:**

1. the view in `server`, with a docstring of which the first paragraph is a sentence, and its
   blueprint in `app.py`;
2. its path in `tests/test_app.py`;
3. an `Operation` in a table of ``*_operations.py``; a new table needs a row in `TAGS`. Without the
   operation, `build_document` raises KeyError and `tests/openapi/test_document.py` fails, which
   also checks the summary and the parameters;
4. schemas of its own in a ``make_…_schemas`` function, and a new such function in
   `build_document`; a type of the SDK in `ROOTS` of `tools/docgen/sdk_schemas.py`, then
   ``python -m tools.docgen --write`` (`tests/docgen/test_sdk_schemas.py`);
5. a request in `EXCHANGES` of `tests/openapi/test_traffic.py`. Tests of access and of unreadable
   bodies find the operation in `TAGS`.
"""
