"""Translations between the client's protocol and the upstream's.

``translate_handler`` turns a handler of the upstream's protocol into a handler of the client's.
If both protocols are the same, it returns the handler itself, so requests pass through unchanged.

This package is pure: JSON in, JSON out.  Its modules never import the SDK, Flask, ``os``,
``time``, ``uuid`` or ``logging``.
"""

from __future__ import annotations

from collections.abc import Callable
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
from forwarder.translation.error_parameter_names import call_carrier, with_client_parameter_names
from forwarder.translation.ollama_over_chat.endpoints import (
    CHAT_ENDPOINT,
    GENERATE_ENDPOINT,
    OllamaEndpoint,
)

Translation = Callable[[Handler, TranslationContext], Handler]
"""Wraps a handler of the upstream's protocol; returns a handler of the client's protocol."""


def translate_handler(
    handler: Handler, client: str, upstream: str, context: TranslationContext
) -> Handler:
    """Return a handler of the ``client`` protocol over ``handler``, which speaks ``upstream``'s.

    Ollama's chat and generate endpoints are protocols of their own.  Both need a ``handler`` that
    speaks Chat; over a Responses upstream, the caller passes one that is already translated.
    """
    if client == upstream:
        return handler
    wrap = TRANSLATIONS[client, upstream]
    return with_client_parameter_names(wrap(handler, context), client)


def with_responses_translation(handler: Handler, context: TranslationContext) -> Handler:
    def handle_request(request: Json) -> EventStream:
        translated = responses_over_chat.translate_request(request, context)
        return responses_over_chat.translate_stream(
            handler(translated.chat_request), translated, context
        )

    return handle_request


def with_chat_translation(handler: Handler, context: TranslationContext) -> Handler:
    def handle_request(request: Json) -> EventStream:
        translated = chat_over_responses.translate_request(request, context)
        stream = handler(translated.responses_request)
        return chat_over_responses.translate_stream(stream, translated, context)

    return handle_request


def make_ollama_translation(endpoint: OllamaEndpoint) -> Translation:
    def with_ollama_translation(handler: Handler, context: TranslationContext) -> Handler:
        def handle_request(request: Json) -> EventStream:
            translated = ollama_over_chat.translate_request(request, context, endpoint)
            stream: EventStream = iter(())
            if not translated.load_action:
                stream = call_carrier(
                    handler, translated.chat_request, "ollama", request, context.loss_report
                )
            return ollama_over_chat.translate_stream(stream, translated, context)

        return handle_request

    return with_ollama_translation


def make_messages_translation(translation: ModuleType) -> Translation:
    def with_messages_translation(handler: Handler, context: TranslationContext) -> Handler:
        def handle_request(request: Json) -> EventStream:
            translated = translation.translate_request(request, context)
            stream = call_carrier(
                handler, translated.upstream_request, "messages", request, context.loss_report
            )
            answer: EventStream = translation.translate_stream(stream, translated, context)
            return answer

        return handle_request

    return with_messages_translation


TRANSLATIONS: dict[tuple[str, str], Translation] = {
    ("responses", "chat"): with_responses_translation,
    ("chat", "responses"): with_chat_translation,
    ("ollama", "chat"): make_ollama_translation(CHAT_ENDPOINT),
    ("ollama_generate", "chat"): make_ollama_translation(GENERATE_ENDPOINT),
    ("ollama_embed", "embeddings"): ollama_embeddings.with_embed_translation,
    ("ollama_embeddings", "embeddings"): ollama_embeddings.with_embeddings_translation,
    ("messages", "chat"): make_messages_translation(messages_over_chat),
    ("messages", "responses"): make_messages_translation(messages_over_responses),
}
"""The client's protocol and the upstream's -> the wrapper that translates."""
