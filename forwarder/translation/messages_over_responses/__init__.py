"""A client of the Messages API served over a Responses upstream.

It shares four modules with `messages_over_chat`. The guide there describes them, the order of the
request, and the places to change for a new block, tool or parameter; this one has the differences.
The handler below is the Responses pipeline, so hosted tools run there. The Responses API has no
stop sequences and no token limit below ``MIN_OUTPUT_TOKENS``. So the stage
`messages_stop_and_token_limit.py` of `middleware` cuts the answer outside of this translation,
which validates ``stop_sequences`` but does not send them.

`ResponsesConversationBuilder` (`history.py`) builds the input, and converts the Chat parts that it
gets from the shared modules by `translation/content_parts.py`.

    Messages (request, then answer)         Responses
    system                                  instructions
    system messages                         message items, role developer
    results of calls                        function_call_output items
    turn of the assistant                   one item for each block, in their order
    thinking block with an own seal         the upstream's reasoning item, as it was received
    other thinking                          reasoning_text if the upstream takes it, else noted
    web_search tool                         web_search, with its filters and location
    max_uses of the search                  max_tool_calls
    a forced web_search                     tool_choice allowed_tools, mode required
    max_tokens                              max_output_tokens, at least MIN_OUTPUT_TOKENS

    text block                              output_text or refusal; images as Markdown
    thinking block                          the first form that an item has: text or summary
    signature                               a seal of the item if it has encrypted_content, else of
                                            the text that the client does not see
    redacted_thinking                       an item with encrypted_content and no text
    server_tool_use, web_search_tool_result web_search_call of a search: its query and sources
    stop_reason refusal                     a refusal, or incomplete with content_filter
    stop_reason max_tokens                  incomplete with another reason, except steered

The answer (`stream.py`) is read as in `chat_over_responses`: a table of handlers, events without a
handler ignored, and characters counted for each place, so that done events add only the rest of
texts, reasoning and calls, and the terminal event only items without a done event. `BlockWriter`
puts interleaved items in order; the done events of texts and items tell it that a block is done. If
the upstream streams without output indexes, the terminal event adds nothing, because items that
were sent cannot be recognized.

State during the stream: one block and a count of characters for each place; the form of each
reasoning item that is shown, and a count for each of its parts; finished output indexes; texts with
sent citations; ids of calls; the refusal; the number of searches, which usage reports.

Rules:

- Encrypted reasoning is requested if ``context.can_summarize`` is set, since seals need it. A
  summary is requested only for clients that see thinking.
- A sealed item goes back only to the upstream and model that made it, and is sent unchanged.
- A turn is sent without reasoning at its end, which OpenAI refuses.
- The upstream stores nothing. Functions always have ``strict``; without it the API tries strict
  mode.
- Calls that the provider has answered (``context.server_calls``) are left out of the answer.
- The answer ends with the terminal event; without one UpstreamProtocolError is raised.

To add an event, add a handler to `EVENT_HANDLERS`; to add an output item, add a branch to
`_finish_item`, which serves streams and whole answers; in both cases add a case
``messages_over_responses`` in `tests/cases`. The package's `test_stream.py` fails for an event of
the SDK without a handler, unless the test lists it as ignored. The streams of the cases
``chat_over_responses`` are translated for Messages clients too, by
`tests/translation/test_messages_laws.py`.
"""

from forwarder.translation.messages_over_responses.request import translate_request
from forwarder.translation.messages_over_responses.stream import translate_stream

__all__ = ["translate_request", "translate_stream"]
