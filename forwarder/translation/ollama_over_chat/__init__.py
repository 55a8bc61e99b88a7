"""An Ollama client served over a Chat handler, which may itself be a translation.

The handler is the Chat pipeline (see *carrier* in `docs/architecture.md`). Over a Responses
upstream that pipeline contains `chat_over_responses`, so this package knows only Chat. The pipeline
gets the reasoning style ``reasoning_content``. Embeddings are in
`translation/ollama_embeddings.py`; tables of parameters and ``fold`` in `protocols/ollama.py`;
models (``/api/tags``, ``/api/show`` …) in `server/ollama.py` and `models`. The rules for all
translations are in `translation/__init__.py`.

``/api/chat`` and ``/api/generate`` are two protocols with one translation. An `OllamaEndpoint`
(`endpoints.py`) holds their differences: the table of parameters, the reader of the input, and the
form of a line. `translate_ollama_request` (`translation/__init__.py`) passes it to
``translate_request``.

The request: `request.py` moves ``options`` to the top level, as ``options.<name>``, and validates
all parameters. Mappers convert; an option that the upstream takes beyond its API is sent under the
upstream's name. The endpoint's reader then makes the messages, for ``/api/chat`` with
`OllamaHistoryReader` (`history.py`). Without a message or a prompt the request only loads or
unloads the model: no upstream is called, and the answer is one line. The result has the Chat
request, the endpoint, the client's name of the model, the time of arrival, and whether the client
wants reasoning and log probabilities.

    Ollama (request, then answer)           Chat
    prompt, system, images (generate)       a user message after a system message
    images, as base64 or URL                image_url parts after the text
    thinking of a message                   reasoning_content
    tool_calls, arguments as an object      tool_calls, arguments as JSON
    tool_name, order of results             tool_call_id
    options.num_predict                     max_completion_tokens; 0 or less is no limit
    think                                   reasoning_effort: true is medium, false is none
    format                                  response_format: json, or a schema
    keep_alive                              not sent; 0 unloads in a request without messages

    message.content, response               content and refusal; images as Markdown at the end
    message.thinking, thinking              reasoning fields, thinking parts, <think> at the start
    message.tool_calls                      calls, whole and after the text
    done_reason                             finish_reason: length, content_filter, else stop
    prompt_eval_count, eval_count           usage; left out if the upstream sends none
    durations                               measured here, from the arrival of the request

State during the stream (`stream.py`): calls (`calls.py`), because arguments are sent as an object
and so have to be complete; images by index, because a later one replaces an earlier; a possible
beginning of ``<think>``; the usage; the finish reason; the time of the first output.

Losses: `validate_parameters` reports parameters and options, `history.py` fields that a role does
not have.

Rules:

- The last line, and only this one, has ``done: true``. It is sent only after a finish reason, so a
  broken answer is never ``done``.
- Most clients drop the ids of calls. Missing ids are counted from the start of the history, so that
  they stay the same when it grows; an id that the client sent is not used for another call. A
  result finds its call by id, then by the name of the tool, then by order; the last two only in the
  assistant's last turn.
- Chat requires all results directly after their calls, Ollama does not. So each call gets a tool
  message with a note, which its result replaces, wherever it is in the history.
- A call without a name, or with arguments that are not a JSON object, raises
  UpstreamProtocolError. If the answer was cut by the token limit, such calls, and those without
  arguments, are left out instead.

To add

- a parameter or option: its row in `protocols/ollama.py`, and there in `_PARAMETER_NAMES` if
  errors may name it; in `request.py` `_PARAMETER_MAPPERS` if it is mapped, `_EXTENSION_NAMES` if
  upstreams have other names for it; then `python -m tools.docgen --write`.
  `tests/protocols/test_ollama.py` fails for a parameter of the `ollama` package without a row, and
  for a dropped, offered or refused one that behaves otherwise;
- a field of messages: `_ROLE_FIELDS` in `history.py`, and the method that reads it;
- a field of lines: `stream.py`, and ``fold_ollama`` if its pieces have to be joined.
  `tests/translation/test_ollama_laws.py` translates the streams of the cases and fails if a whole
  answer and its stream differ.
"""

from forwarder.translation.ollama_over_chat.request import translate_request
from forwarder.translation.ollama_over_chat.stream import translate_stream

__all__ = ["translate_request", "translate_stream"]
