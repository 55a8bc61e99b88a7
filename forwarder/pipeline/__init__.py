"""The path of a request: the order of the stages, and the gateway that drives it.

This package makes the decisions that need the whole request: which routes are tried, which stages
apply to an attempt, in which order, and with which objects. The stages themselves are in
`middleware`, `hosted_tools`, `storage` and `translation`. `models/router.py` finds the routes of a
model, `upstream/resilience` chooses among them, and `server` has HTTP.

**A request**: `Gateway.stream` (`gateway.py`) makes the recorder of the answer (`storage`), which
may lock the conversation, and calls `UpstreamCalls.open_stream` (`upstream_calls.py`):

1. `find_routes` checks that the client's key allows the model. It returns a `Route` for the
   upstream and each fallback, or for each member of a group. `find_affinity` (`affinity.py`) adds
   the key of the conversation and the endpoint that stores the objects of the request.
2. `Resilience.open_first_available` chooses a route and calls `_stream_from_route` for it, and for
   another route if the attempt fails.
3. `_stream_from_route` makes an `Attempt` (`attempt.py`): the request, the route, and facts that
   are derived from both, such as the profile, the tools that run here, and the inputs of the
   translators. `media_io.py` and `file_search.py` build its functions for media and file search.
4. `build_handler` (`pipeline.py`) limits the JSON Schemas (`schema_size.py`) and wraps the terminal
   handler in the stages. The terminal handler is that of the upstream, wrapped by the observers
   and then by the retries. So a stage that calls its handler several times has each call retried
   separately, and a fallback runs all stages again.
5. When the stream comes back, the upstream has begun to answer. The recorder and `convert_errors`
   wrap the stream.

For a protocol with a carrier, `build_carried_handler` puts `CARRIED_PIPELINE` and the translation
around a handler that builds the pipeline of the carrier for each translated request, as if a client
had sent it.

**Other entries** use the same `UpstreamCalls`: `Gateway.compact`, whose attempts have
`make_compact_handler` in the place of compaction; `Gateway.embed`, whose attempts have only
metering and translation; `background_work.py` for background responses, also those of workers that
have stopped; `own_upstream_requests.py` and `text_embedder.py` for requests of hosted tools and
vector stores. Lower packages do not import this one, so `Gateway` and `build_vector_stores` hand
these objects down. `dry_run.py` is the preview: the same stages, with placeholders for media and a
terminal handler that raises `DryRunFinished`.

The order of `PIPELINE`:

- Metering is inside the reasoning style, which removes usage chunks that the client did not
  request, and outside compaction and hosted tools: it counts the client's answer, not each round.
- History is outside media, so images of earlier turns are converted too. Media come before the
  translation, so that errors name paths of the client's request.
- Choices are outside ``stop`` and the token limit, because each choice is cut by itself. Cut
  annotations are outside both, because they need the length of the text that is sent.
- Reasoning caches, single calls, JSON schemas and truncation are inside the translation, because
  they work on the upstream's request. So do the hosted tools of a Chat client over a Responses
  upstream. The upstream's defaults come last.

Rules:

- `AttemptKind` has the facts that select stages; `select_wraps` caches the selection by them. A
  ``wrap_…`` function sees the whole attempt, and may return the handler unchanged.
- A stage copies what it changes, because the next route gets the same request.
- Each attempt starts with a new loss report and without the reply headers and the added memory of
  the one before (`RequestContext.start_attempt`). A stage that sends several requests sets
  ``is_answer_composed``, also of the attempt: they are sent without the client's Idempotency-Key.
  State that must survive a fallback is in the context, such as ``tool_memory``.
- A stage reaches the network through its handler or through `MediaIO`. If it needs another way, it
  checks ``is_preview``, because a preview calls nothing.
- While the stream is read, `MALFORMED_EVENT_ERRORS` such as KeyError become a 502 for a malformed
  event, and the traceback is logged. The cause may be a bug of a stage.
- If `Gateway.stream` raises, it has closed everything that it opened.

To add a stage:

1. Write its ``with_…`` function in `middleware`; `tests/test_imports.py` fails if it has no tests.
2. Add a ``wrap_…`` function and a row to `PIPELINE`, or to `CARRIED_PIPELINE` for protocols with a
   carrier. If a new fact selects it, add a field to `AttemptKind`.
3. If it emulates a parameter, set its disposition in `protocols/parameters.py` to ``emulated``. If
   that depends on the value or the profile, add a row to ``_EMULATIONS`` in `dry_run.py`.
4. Test its place in `tests/pipeline/test_pipeline.py`: no test compares the whole order. Add it to
   the drawing in `docs/architecture.md` and to the table in `middleware/__init__.py`.
"""
