"""A Responses client served over a Chat upstream.

Stages outside emulate the parameters and items that Chat lacks: earlier turns and item references
(`storage`), compaction (`middleware/compaction`), hosted tools (`hosted_tools`), media that the
upstream does not take (`middleware/media`). The translator refuses references, compaction items,
images by file id and files by URL that still reach it. ``truncation`` is emulated below the
translation. The rules for all translations are in `translation/__init__.py`.

The request (`request.py`): `validate_parameters` yields the parameters; `_PARAMETER_MAPPERS`
converts those that change. A `Toolbox` (`tools.py`) takes ``tools``; `client_tool_kinds.py`
converts each kind. `ResponsesHistoryReader` (`history.py`) reads ``input``, and adds the tools of
``additional_tools`` and ``tool_search_output`` items to the toolbox. Then ``configuration_update``
items override parameters. ``tool_choice`` follows, because it may name a tool of the history.
`unread_fields` reports fields that were not read. `storage/items.py` checks items that clients
store with the same readers (`check_item`).

The result has the Chat request, the toolbox and the client's request. The answer needs the toolbox
to return calls under the client's names and kinds, and the request for the fields that a Response
echoes (`response_skeleton.py`). `ResponseBuilder` (`stream.py`) reads the chunks; the items of
`items.py` and `images.py` make their own events; `calls.py` writes the calls.

    Responses (request, then answer)        Chat
    instructions                            first message, role developer
    a turn's text, reasoning, calls         one assistant message
    *_call, *_call_output                   an entry of tool_calls, a tool message
    image_generation_call                   a user message after the turn
    custom, shell, apply_patch … tools      functions; custom stays if the provider has custom tools
    tools of a namespace                    functions named namespace__tool
    web_search                              web_search_options, if the model searches itself
    text.format, reasoning.effort           response_format, reasoning_effort

    reasoning item                          reasoning fields, thinking parts, <think> at the start
    message item, its annotations           content, refusal, annotations
    image_generation_call                   image by value; one by URL becomes Markdown in the text
    response.incomplete with a reason       finish_reason length, content_filter and their variants
    response.completed                      every other finish_reason that is not a failure

State during the stream: the one open message, reasoning or image item; all calls, which may
interleave and so stay open until the end; log probabilities and annotations that wait for a text; a
possible beginning of ``<think>``; white space that may begin reasoning; signatures.

If ``include`` names encrypted reasoning or the answer is stored, reasoning items have
``encrypted_content``: a seal of the text, the provider's signatures and their origin. Signatures
without reasoning get an item of their own. A seal that only the store needs is only in the terminal
event, and `storage` hides it from the client. `history.py` decrypts the forwarder's seals, leaves
out signatures of another origin, and sends the visible text of other reasoning.

Losses are reported by `validate_parameters`, `unread_fields`, `request.py` (settings and values of
``include``), `tools.py` (hosted tools, settings of the search) and `history.py` (foreign encrypted
reasoning, records of hosted tools). `stream.py` notes signatures that are neither sent nor cached.

Rules:

- A chat history must have the tool messages directly after their assistant message. So
  `AssistantTurn` holds back messages between a call and its output.
- ``instructions`` stay a message of their own; the prompt begins with the same bytes every turn.
- `number_events` alone sets sequence numbers. Only the last item may be incomplete. The output has
  at least one item, since clients read the first.
- The end of the chunks ends the answer: `require_complete_chat_stream`, next to the upstream,
  raises if it came too early.

To add

- a kind of tool that the client runs: a `ClientToolKind` and its row in `TOOL_KINDS`;
  `_INPUT_EVENTS` in `items.py` if its input streams; `is_hosted` in `tools.py` if a server may run
  it too; its rows in `protocols/item_dispositions.py`, which a test compares with the behaviour;
  its fields in `protocols/unread_fields.py`; the types of its items in `CLIENT_CALLS` of
  `protocols/input_items.py`, which a test checks;
- another input item: a reader in `_ITEM_READERS` of `history.py`, its row and its fields;
- a vendor's form of an image or annotation: `_SOURCE_READERS` in `images.py`, `_ANNOTATION_FIELDS`
  in `citations.py`;
- in each case a folder ``responses_over_chat`` in `tests/cases`; `tests/translation/test_laws.py`
  checks all of them.
"""

from forwarder.translation.responses_over_chat.request import translate_request
from forwarder.translation.responses_over_chat.stream import translate_stream

__all__ = ["translate_request", "translate_stream"]
