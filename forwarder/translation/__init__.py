"""Translations between the client's protocol and the upstream's.

``translate_handler`` turns a handler of the upstream's protocol into a handler of the client's.
If both protocols are the same, it returns the handler itself, so requests pass through unchanged.

A `Translation` reads the client's request, so its errors and losses have the client's names. All
later ones have the upstream's, and `error_parameter_names.py` renames them.

This package is pure: JSON in, JSON out.  Its modules never import the SDK, Flask, ``os``,
``time``, ``uuid`` or ``logging``.
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


def translate_responses_request(
    request: Json, context: TranslationContext
) -> tuple[Json, StreamTranslation]:
    translated = responses_over_chat.translate_request(request, context)
    translate_stream = responses_over_chat.translate_stream
    return translated.chat_request, partial(
        translate_stream, translated=translated, context=context
    )


def translate_chat_request(
    request: Json, context: TranslationContext
) -> tuple[Json, StreamTranslation]:
    translated = chat_over_responses.translate_request(request, context)
    translate_stream = chat_over_responses.translate_stream
    return translated.responses_request, partial(
        translate_stream, translated=translated, context=context
    )


def translate_ollama_request(
    endpoint: OllamaEndpoint, request: Json, context: TranslationContext
) -> tuple[Json | None, StreamTranslation]:
    translated = ollama_over_chat.translate_request(request, context, endpoint)
    translate_stream = ollama_over_chat.translate_stream
    return None if translated.load_action else translated.chat_request, partial(
        translate_stream, translated=translated, context=context
    )


def translate_messages_request(
    package: ModuleType, request: Json, context: TranslationContext
) -> tuple[Json, StreamTranslation]:
    translated = package.translate_request(request, context)
    return translated.upstream_request, partial(
        package.translate_stream, translated=translated, context=context
    )


TRANSLATIONS: dict[tuple[str, str], Translation] = {
    ("responses", "chat"): translate_responses_request,
    ("chat", "responses"): translate_chat_request,
    ("ollama", "chat"): partial(translate_ollama_request, CHAT_ENDPOINT),
    ("ollama_generate", "chat"): partial(translate_ollama_request, GENERATE_ENDPOINT),
    ("ollama_embed", "embeddings"): ollama_embeddings.translate_embed_request,
    ("ollama_embeddings", "embeddings"): ollama_embeddings.translate_embeddings_request,
    ("messages", "chat"): partial(translate_messages_request, messages_over_chat),
    ("messages", "responses"): partial(translate_messages_request, messages_over_responses),
}
"""The client's protocol and the upstream's -> the translation."""
