"""Middleware that emulates features which an API or a provider lacks.

Each middleware is a function ``Handler -> Handler``, made by a ``with_…`` function from its
settings. `forwarder.pipeline.pipeline` declares the order and the attempts that each applies to;
this package knows neither attempts nor routes. Related stages are elsewhere: history in `storage`,
tools in `hosted_tools`, defaults of models in `protocols/model_defaults.py`. Quirks of providers
are handled in `providers`.

Before the translation, on the request of the client or of its carrier:

    Chat and Responses clients                 media
    Chat clients                               `reasoning_style.py`; `multiple_choices.py` if tools
                                               run here over a Chat upstream
    Responses clients                          compaction
    Chat clients over Responses upstreams      `multiple_choices.py`,
                                               `annotations_of_cut_answers.py`,
                                               `stop_sequences.py`, `token_limit.py`
    Messages clients over Responses upstreams  `messages_stop_and_token_limit.py`

After the translation, on the upstream's request:

    Responses upstreams                        for Chat clients reasoning_cache;
                                               `single_tool_call_responses.py`, unless the upstream
                                               stores a Responses client's answer
    Chat upstreams                             `reasoning_cache/signatures.py`,
                                               `single_tool_call_chat.py`, `json_schema.py`; for
                                               Responses clients `truncation.py`

`item_reference_cache.py` is no stage of its own: `storage` uses it if there is no database.

**How they work together**:

- The inner function `handle_request` of a ``with_…`` function reads its parameter, changes a copy
  of the request, calls the inner handler, and returns a generator over the stream.
- Cut answers: `stop_sequences.py` and `token_limit.py` cut the chunks of one choice, each with its
  `LogprobBuffer` (`chat_chunks.py`). During an answer that will be cut, the translator sends the
  annotations so far as side data; both pass it on, and `annotations_of_cut_answers.py` replaces it
  by the annotations of the text that was sent. `messages_stop_and_token_limit.py` uses the same
  finder and token budget for Messages events.
- Several upstream requests for one answer: `multiple_choices.py` sends them at the same time,
  `json_schema.py` (the answer does not match), `truncation.py` (the conversation is too long), the
  reasoning caches (the upstream refuses cached reasoning) and compaction (first the summary) one
  after the other.
- Usage: `usage_estimate.py` adds up the usages of several answers, and estimates the usage of an
  answer that is not read to its end. `EstimatedUsage` marks estimates for `usage/counter.py`.
- Losses: an answer that does not match its schema has the reason in ``metadata.schema_error``;
  signatures that the upstream refuses are in the loss report.

Rules:

- If the request does not use the parameter, the middleware returns the inner handler's stream
  itself. It then costs nothing per event.
- A mistake in a parameter is raised before the inner handler is called, and not by the generator:
  only then does the client get an HTTP status.
- The request is copied, never changed. The parameter is removed (``n``, ``response_format``) unless
  a later stage or the upstream needs it: ``stop`` and token limits announce the cut to the
  translator, and the upstream may honour ``parallel_tool_calls``.
- Empty batches are heartbeats and are passed on. A batch that becomes empty is left out:
  ``if out or not batch: yield out``.
- The stages of a Chat client over a Responses upstream get chunks even for a whole answer. A whole
  answer of a Chat upstream is one event: its choices have ``message`` instead of ``delta``.
- If reading stops early, `close_stream` closes the stream and thereby the upstream's response. Text
  that is held back is sent before an error is raised.
- State of an answer is in objects that each request makes. Objects that requests share (recent
  items, caches) have locks, because requests may run in threads.
- Schemas of clients and texts of models may be hostile: `json_schema_validation.py` counts steps,
  pauses for other requests, and runs no regular expression. Its libraries are loaded on first use.

To add a middleware, see `forwarder/pipeline/__init__.py`. Test it with `Scripted` handlers
(`tests/middleware/chatting.py`): unused parameter, heartbeats, whole answer, a failure in the
stream, and that the SDK accepts each chunk (`tests/helpers/sdk.py`).
"""
