"""A Chat client served over a Responses upstream.

Stages outside do the work of ``n``, ``stop`` and token limits below ``MIN_OUTPUT_TOKENS``
(`multiple_choices.py`, `stop_sequences.py`, `token_limit.py` of `middleware`), and give reasoning
the client's style (`reasoning_style.py`). Below the translation, `middleware/reasoning_cache`
inserts earlier encrypted reasoning, which Chat clients cannot send back, and `hosted_tools` runs
the tools that the upstream does not run. The rules for all translations are in
`translation/__init__.py`.

The request (`request.py`): `validate_parameters` yields the parameters, also those in
``context.extensions``, which this upstream takes beyond its API. Mappers write into the new
request. `ChatHistoryReader` (`history.py`) converts ``messages``. Then follow the steps that need
several parameters: modalities, tools, reasoning, log probabilities. `unread_fields` reports fields
that were not read. The result also says whether the answer uses the legacy ``function_call``, has
log probabilities, and is cut by a stage outside.

The answer (`stream.py`): a table maps types of events to methods of `ChatCompletionBuilder`; events
without a handler are ignored. For each place (output index and index of the part) the builder
counts the characters that were sent. The done events of a text, a call or an item add only the
rest, and the terminal event adds only items that were not streamed. So a whole answer, which is
only a terminal event, takes the same path.

    Chat (request, then answer)             Responses
    system, developer, user messages        message items with input parts
    assistant message                       a message item, images, one item for each call
    tool message                            the output item of the type of its call
    function_call, function messages        function_call items and outputs with ids made here
    images of the assistant                 image_generation_call with its id, else a user's image
    max_tokens, max_completion_tokens       max_output_tokens, at least MIN_OUTPUT_TOKENS
    reasoning_effort                        reasoning.effort
    (not requested)                         reasoning.summary auto, if an effort is set or the model
                                            reasons; not with the effort none
    response_format, verbosity              text.format, text.verbosity
    logprobs, top_logprobs                  a value of include, top_logprobs
    web_search_options, modalities          the tools web_search and image_generation

    content, refusal                        texts and refusals of message items
    reasoning_content                       reasoning text, else summary; a paragraph for each part
    metadata.reasoning_summary              the summary of an item that also has a text
    tool_calls, numbered as they open       calls of the client's tools
    images, metadata.partial_images         finished images, drafts
    annotations, metadata.files             citations of URLs, citations of files
    finish_reason                           terminal event, reason of an incomplete response
    usage, in a chunk without choices       usage of the terminal event
    (UpstreamError)                         response.failed, error

State during the stream: characters sent for each text, call (`calls.py`) and part of reasoning
(`reasoning.py`); images that were sent (`images.py`); annotations and files
(`citations_and_files.py`); texts with sent log probabilities. All of it is kept by output
index, because items may interleave.

Losses: `validate_parameters` and `unread_fields` report most of them; `history.py` reports the
``name`` and ``audio`` of messages. Earlier reasoning is sent as text if the upstream has the
extension ``reasoning_text``, otherwise noted.

Rules:

- Annotations are sent in one delta before the finish reason, because the SDK cannot merge lists of
  several deltas.
- If a stage outside cuts the answer, the position of the cut is unknown here. After each annotation
  and each item the builder sends all annotations and files with their positions in an internal
  field of a delta (`SIDE_DATA`). `middleware/annotations_of_cut_answers.py` removes it. Both call
  `is_answer_cut`, so no stage before the translation may remove ``stop`` or the token limit.
- The upstream stores nothing unless the client sets ``store``; the Responses API stores by default.
  Functions always have ``strict``; without it that API tries strict mode.
- The provider has answered calls with an id that begins with one of ``context.server_calls``. The
  client does not get them, and they do not make the finish reason ``tool_calls``.
- A stream without a terminal event raises UpstreamProtocolError.

To add

- an event: a handler in `EVENT_HANDLERS`. `tests/translation/chat_over_responses/test_stream.py`
  fails for an event of the SDK without a handler, unless the test lists it as ignored;
- an output item: `_emit_item_rest`, which serves the item's done event and whole answers;
- a role or part of the history: `_ROLE_READERS` in `history.py` or `content_parts.py`, and its row
  in `protocols/item_dispositions.py`, which a test compares with the behaviour;
- in each case a folder ``chat_over_responses`` in `tests/cases`; for a parameter see
  `CONTRIBUTING.md`.
"""

from forwarder.translation.chat_over_responses.request import translate_request
from forwarder.translation.chat_over_responses.stream import translate_stream

__all__ = ["translate_request", "translate_stream"]
