"""The wire protocols: parameters, events, usage, errors and stream endings.

The package describes the APIs and works on their JSON. It reads no provider profile. Variants of an
answer that are recognized by their form are read here (fields for reasoning, calls without an
index, usage inside a choice); all other differences between providers are in `providers`.
Translations are in `translation`; mappings of single values that `providers` and the stages need
too are in `chat_responses_mappings.py`. Error classes and the classification of providers' errors
are in `core` (`errors.py`, `error_classification.py`), routes in `server`.

Objects:

- **Three classes** (`protocol.py`), each with the fields of the one before it. A `Protocol` has a
  table of parameters and an API, which is enough for embeddings. A `ClientProtocol` answers clients
  (``framing``, ``fold``, ``append_error``, carriers). An `UpstreamProtocol` is spoken by upstreams
  too (``conversation``, ``item_tables``, ``require_complete``). `chat.py`, `responses.py`,
  `messages.py` and `ollama.py` make the objects; `registry.py` has one table of them per role.
- **`ClientApi`** is an API as HTTP clients see it; Ollama's four protocols share one. `find_api`
  selects it by path and headers, because the error for an unknown path needs a format too.
- **Tables of parameters decide.** `validate_parameters` (`parameters.py`) checks types, refuses or
  reports, skips emulated and local parameters, and yields the rest to the translator. Only
  translators call it: the parameters of a passed-through request are left to the upstream. The
  OpenAPI document, the reference and the dry run read the same tables.
- **Tables of items describe** (`item_dispositions.py`): translators and stages decide, and a test
  compares each row with the behaviour. `storage` takes the known types of items from
  ``INPUT_ITEMS``. The tables of blocks and tools in `messages_dispositions.py` differ: translators
  take the reasons of losses from some rows, and tests check only that each type has a row.

A request and its answer:

1. `server/serving.py` looks the protocol up by the name that the route passes.
2. The translator calls `validate_parameters` and converts. Between Chat and Responses,
   `unread_fields.py` then reports nested fields that no converter reads; the translations of
   Messages and Ollama report theirs themselves.
3. `upstream/response.py` decodes the bytes with `SseDecoder` (`framing.py`). A JSON body goes to
   `unfold.py`, which returns it as one event or, if a stream was requested, as a stream's events.
4. ``require_complete`` (`stream_end.py`) watches the end, after the repairs of `providers`. It
   raises an error that comes before any output, so that the client can get an HTTP status. A later
   error stays an event, with the code of its kind; a refused key is always raised. A stream without
   its end raises UpstreamProtocolError. An empty output at the end gets the finished items.
5. Translators and stages read chat chunks with `answer_choice.py`, `chat_reasoning.py`,
   `tool_call_index.py` and `signatures.py`.
6. For a stream, ``append_error`` converts a ForwarderError to the last events of the client's
   protocol, and ``framing.encode`` makes the bytes. Otherwise ``fold`` builds the whole answer or
   raises. Over WebSocket, `server/websocket_turns.py` sends each event as a message of its own.

Rules:

- The package is pure: `tests/test_imports.py` checks its imports. Only `framing.py` is excepted. It
  encodes and decodes the streams.
- Objects that outlive a request hold a protocol's name. Only `pipeline` and `upstream` test names
  for equality, by ``CHAT.name`` and never by a literal; other code asks the protocol for a fact
  (`tests/protocols/test_registry.py`).
- `registry.py` imports the protocols, so no module that they import may import it. Here only
  `client_reasoning_style.py` and `model_defaults.py` do.
- Values of clients are checked with `core/validate.py`, and errors name their path. Events of
  upstreams are mostly read unchecked: a value of another type raises one of
  ``MALFORMED_EVENT_ERRORS`` (`stream_end.py`). `with_malformed_event_errors` around the pipeline
  converts these to UpstreamMalformedEvent. Code outside of the pipeline that folds, records or
  encodes an answer catches them itself.
- Tables and protocols are shared by all requests and never changed. Objects such as `SseDecoder`,
  `ChoiceSelector`, `ToolCallIndex` and `SignatureCollector` hold the state of one answer.
- Texts that grow stay lists of pieces until they are read, so that the cost of an answer is linear
  (`tests/test_linear_answers.py`).
- Errors of the decoder quote no data. Responses show MCP tools without credentials
  (`tool_secrets.py`).

To add

- a parameter or an API: see `CONTRIBUTING.md`;
- a type of item, part or tool: its converter in `translation`, its row in `item_dispositions.py`,
  its fields in `unread_fields.py`, and a sample in `tests/protocols/test_item_dispositions.py`.
  That test fails for a type of the SDK without a row, a row without a sample, and a row that the
  behaviour contradicts. A call that the client answers needs a row of `CLIENT_CALLS`
  (`input_items.py`) too;
- a vendor's field for the text of reasoning: `REASONING_FIELDS` in `chat_reasoning.py`, `_MERGERS`
  and `build_choice` in `fold.py`, `_NOTE_REASONS` in `unread_fields.py`, and a case in
  `tests/cases`. `tests/translation/test_laws.py` fails if ``fold`` does not join the pieces.
  The field's name is a reasoning style too: `find_reasoning_field` returns it. A test fails until
  `CHAT_REASONING_STYLES` (`chat.py`) has it.
"""
