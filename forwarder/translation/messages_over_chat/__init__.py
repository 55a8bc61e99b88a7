"""A client of the Messages API served over a Chat upstream.

Most of the translation is in modules beside this package, which `messages_over_responses` shares:
`messages_parameters.py`, `messages_history.py`, `messages_request_content.py` and
`messages_answer_blocks.py`. A conversion that both upstream APIs need belongs there; here is only
its Chat form. Errors, ``fold`` and lists of models are in `protocols/messages.py`. Features of the
Chat pipeline (media, hosted search, single calls …) apply to the translated request, because the
handler below is that pipeline. The rules for all translations are in `translation/__init__.py`.

The request: `request.py` calls `copy_parameters`, which validates all parameters and returns those
that keep their names, and then the readers of `messages_parameters.py` for the others.
`read_conversation` (`messages_history.py`) joins messages of one role to turns, checks that calls
and results match, and calls a `ConversationBuilder` for each turn: `ChatConversationBuilder` of
`history.py`. Content of the user reaches it as Chat parts with their paths; a turn of the assistant
as a list of texts, `Thinking` (text and decrypted seal) and `ToolCall`. The result has the Chat
request and, for the answer, the client's name of the model, the settings of thinking and the stop
sequences.

    Messages (request, then answer)         Chat
    system, system messages                 system messages, without Claude Code's billing block
    results in a turn of the user           tool messages, before the rest of the turn
    is_error of a result                    a note at the start of the tool message
    documents, search results               file and text parts
    turn of the assistant                   one message: texts joined, reasoning, all calls
    thinking, output_config.effort          reasoning_effort
    custom, bash, text editor, memory tools functions; schemas of the last three are in KNOWN_TOOLS
    web_search tool                         web_search_options if a search can run, else dropped
    max_tokens, stop_sequences              max_completion_tokens, stop
    output_config.format                    response_format; strict only if the schema allows it
    metadata.user_id, cache_control         user (hashed if too long), prompt_cache_key

    thinking block                          reasoning fields, thinking parts, <think> at the start
    signature, redacted_thinking            sealed signatures of the provider
    tool_use block                          a call
    citations                               annotations of URLs
    text block with Markdown                images
    stop_reason refusal                     a refusal, or finish_reason content_filter
    stop_reason stop_sequence               a sequence that the upstream names (vLLM, SGLang)

The answer: `ChatToMessagesBuilder` (`stream.py`) reads the chunks, `BlockWriter`
(`messages_answer_blocks.py`) writes the events. Blocks follow each other strictly, but calls may
interleave. So the writer streams the open block and holds back later ones until the earlier are
done. When a block begins, the one before it is done, except a call with arguments that are not yet
a JSON object; that call stays open until the end of the answer. Further state: calls with possibly
incomplete names, signatures, a possible beginning of ``<think>``, images that were sent, the
refusal, the usage.

Thinking: without it in the request the client gets no thinking blocks, and signatures reach the
next turn only through the signature cache. A seal contains the provider's signature fields, the
reasoning that ``display: omitted`` hides, and the origin. It is sent when its block closes.
Signatures without reasoning come in a ``redacted_thinking`` block: before the text or the first
call if they precede it or come with it, else at the end. In the next turn signatures go only to the
same origin; another model gets the text.

Losses: `messages_parameters.py` reports parameters, fields and tools; blocks are reported with the
reasons of `protocols/messages_dispositions.py`, foreign signatures by `check_origin`. `request.py`
reports settings of the search; `stream.py` notes signatures that are neither sent nor cached.

Rules:

- ``message_start`` is sent with the first batch that is not empty; its token counts are 0, since
  Chat sends usage last. ``message_delta`` has the real ones, without cached tokens in the input.
- An answer without a finish reason or a call without a name raises UpstreamProtocolError.
- The cache key depends only on user and system prompt, so that it stays the same in a conversation.
- `middleware/usage_estimate.py` calls ``translate_request`` to count tokens.

To add

- a block of requests: a converter in `USER_BLOCKS` or `_ASSISTANT_BLOCKS`; a kind of tool:
  `read_tools` or `KNOWN_TOOLS`; both with a row in `protocols/messages_dispositions.py`.
  `tests/protocols/test_messages.py` fails for a block, tool or parameter of the SDK without a row;
- a parameter: see `CONTRIBUTING.md`; `_COPIED` in `messages_parameters.py` if it keeps its name,
  else a reader there that both modules `request.py` call;
- in each case a folder ``messages_over_chat`` in `tests/cases`, which
  `tests/translation/test_messages_laws.py` checks with Anthropic's types and accumulator.
"""

from forwarder.translation.messages_over_chat.request import translate_request
from forwarder.translation.messages_over_chat.stream import translate_stream

__all__ = ["translate_request", "translate_stream"]
