"""Translations between the client's protocol and the upstream's.

`translate_handler` turns a handler of the upstream's protocol into a handler of the client's. If
both protocols are the same, it returns the handler itself, so requests pass through unchanged. Not
here: parameters and items that have no counterpart (stages of `middleware`, `storage` and
`hosted_tools` emulate them), differences between providers (`providers`), and mappings of single
values that other packages need too (`protocols/chat_responses_mappings.py`).

Each of the five packages has two functions, which a row of `TRANSLATIONS` joins:

1. ``translate_request(request, context)`` returns a tuple: the upstream's request, and the facts
   about the client's request that the answer needs. The `TranslationContext`
   (`core/translation_context.py`) has the ids, the clock, the seals and the loss report;
   `pipeline/attempt.py` makes one for each attempt.
2. The inner handler gets the upstream's request. Between Chat and Responses it is the next stage.
   For Messages and Ollama it is the whole pipeline of the carrier.
3. ``translate_stream(stream, translated, context)`` translates the answer batch by batch. A whole
   answer is a stream with one event, such as a completion with a ``message`` or a terminal event
   (`protocols/unfold.py`), and takes the same path.

``translate_request`` reads the client's request, so its errors and losses have the client's names.
All later ones, of stages, providers and the upstream's stream, have the names of the upstream;
`error_parameter_names.py` renames them by ``parameter_names`` of the client's protocol, which comes
from ``sent_as`` and ``fields`` of the parameters' table. Ollama's embeddings are two functions in
one module, `ollama_embeddings.py`.

Shared modules: `content_parts.py` converts content parts between Chat and Responses, `images.py`
Base64 and data URLs, and the modules `messages_*` are the common part of the two translations of
Messages: `messages_over_chat` describes them.

Rules for all translations:

- ``translate_request`` raises InvalidRequest or Unsupported with the client's path, and changes
  nothing in the request. ``translate_stream`` changes no event that it received or sent
  (`tests/translation/test_laws.py`).
- An empty batch is a heartbeat and is passed on at once. UpstreamError is raised after the events
  of the same batch that precede it. Exceptions of malformed events are converted by the pipeline.
- The package is pure. Ids and times come from ``context.id_source``. No translation imports another
  (`tests/test_imports.py`).
- Loops over the client's lists are paced (`iter_paced`), so that a long request does not stall the
  other requests of a worker (`tests/translation/test_long_requests.py`).
- Ids that are made for a history are counted from its start. They are the same in every turn, so
  that the upstream's prompt cache matches.

To add a translation, see *Add an API for clients* in `CONTRIBUTING.md`. Besides: the tuple
``TRANSLATIONS`` in `tests/test_imports.py`, and the tables of `tests/helpers/cases.py` and
`tests/helpers/translating.py`, which run the cases under `tests/cases`. A case is a folder with the
client's request, the upstream's request and stream, and the client's answer.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import ModuleType

from forwarder.core.translation_context import TranslationContext
from forwarder.core.types import EventStream, Handler, Json
from forwarder.translation import (
    chat_over_responses,
    messages_over_chat,
    messages_over_responses,
    ollama_embeddings,
    ollama_over_chat,
    responses_over_chat,
)
from forwarder.translation.error_parameter_names import rename_parameters
from forwarder.translation.ollama_over_chat.endpoints import (
    CHAT_ENDPOINT,
    GENERATE_ENDPOINT,
    OllamaEndpoint,
)

StreamTranslation = Callable[[EventStream], EventStream]

Translation = Callable[[Json, TranslationContext], tuple[Json | None, StreamTranslation]]
"""Takes a client's request. Returns the upstream's request, None if the upstream is not called, and
the function that translates the stream of its answer."""


def translate_handler(
    handler: Handler, client: str, upstream: str, context: TranslationContext
) -> Handler:
    """Return a handler of the ``client`` protocol over ``handler``, which speaks ``upstream``'s.

    Ollama's chat and generate endpoints are protocols of their own.  Both need a ``handler`` that
    speaks Chat; over a Responses upstream, the caller passes one that is already translated.
    """
    if client == upstream:
        return handler
    translate_request = TRANSLATIONS[client, upstream]

    def handle_request(request: Json) -> EventStream:
        upstream_request, translate_stream = translate_request(request, context)

        def open_stream() -> EventStream:
            stream = iter(()) if upstream_request is None else handler(upstream_request)
            return translate_stream(stream)

        return rename_parameters(open_stream, client, request, context.loss_report)

    return handle_request


def translate_by_package(
    package: ModuleType, request: Json, context: TranslationContext
) -> tuple[Json, StreamTranslation]:
    """Translate with the functions of a translation package."""
    translated = package.translate_request(request, context)
    return translated.upstream_request, partial(
        package.translate_stream, translated=translated, context=context
    )


def translate_ollama_request(
    endpoint: OllamaEndpoint, request: Json, context: TranslationContext
) -> tuple[Json | None, StreamTranslation]:
    """Translate a request of one of Ollama's endpoints; one that only loads a model calls none."""
    translated = ollama_over_chat.translate_request(request, context, endpoint)
    return None if translated.load_action else translated.upstream_request, partial(
        ollama_over_chat.translate_stream, translated=translated, context=context
    )


TRANSLATIONS: dict[tuple[str, str], Translation] = {
    ("responses", "chat"): partial(translate_by_package, responses_over_chat),
    ("chat", "responses"): partial(translate_by_package, chat_over_responses),
    ("ollama", "chat"): partial(translate_ollama_request, CHAT_ENDPOINT),
    ("ollama_generate", "chat"): partial(translate_ollama_request, GENERATE_ENDPOINT),
    ("ollama_embed", "embeddings"): ollama_embeddings.translate_embed_request,
    ("ollama_embeddings", "embeddings"): ollama_embeddings.translate_embeddings_request,
    ("messages", "chat"): partial(translate_by_package, messages_over_chat),
    ("messages", "responses"): partial(translate_by_package, messages_over_responses),
}
"""The client's protocol and the upstream's -> the translation."""
