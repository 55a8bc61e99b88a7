"""Translations between the client's protocol and the upstream's.

``translate_handler`` turns a handler of the upstream's protocol into a handler of the client's.
If both protocols are the same, it returns the handler itself, so passthrough loses nothing.

This package is pure: JSON in, JSON out.  Its modules never import the SDK, Flask, ``os``,
``time``, ``uuid`` or ``logging``.
"""

from __future__ import annotations

from collections.abc import Callable

from forwarder.core.translation_context import TranslationContext
from forwarder.core.types import EventStream, Handler, Json
from forwarder.translation import (
    chat_over_responses,
    ollama_embeddings,
    ollama_over_chat,
    responses_over_chat,
)
from forwarder.translation.error_params import rename_losses, with_client_parameter_names
from forwarder.translation.ollama_over_chat.forms import (
    CHAT_ENDPOINT,
    GENERATE_ENDPOINT,
    OllamaEndpoint,
)


def translate_handler(
    handler: Handler, client: str, upstream: str, context: TranslationContext
) -> Handler:
    """Return a handler of the ``client`` protocol over ``handler``, which speaks ``upstream``'s.

    Ollama's chat and generate endpoints are protocols of their own.  Both need a ``handler`` that
    speaks Chat; over a Responses upstream, the caller passes one that is already translated.
    """
    if client == upstream:
        return handler
    return with_client_parameter_names(TRANSLATIONS[client](handler, context), client)


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


def make_ollama_translation(
    endpoint: OllamaEndpoint,
) -> Callable[[Handler, TranslationContext], Handler]:
    def with_ollama_translation(handler: Handler, context: TranslationContext) -> Handler:
        def handle_request(request: Json) -> EventStream:
            translated = ollama_over_chat.translate_request(request, context, endpoint)
            try:
                stream: EventStream = (
                    iter(()) if translated.load_action else handler(translated.chat_request)
                )
            finally:
                rename_losses(context.loss_report, "ollama", request)
            return ollama_over_chat.translate_stream(stream, translated, context)

        return handle_request

    return with_ollama_translation


TRANSLATIONS: dict[str, Callable[[Handler, TranslationContext], Handler]] = {
    "responses": with_responses_translation,
    "chat": with_chat_translation,
    "ollama": make_ollama_translation(CHAT_ENDPOINT),
    "ollama_generate": make_ollama_translation(GENERATE_ENDPOINT),
    "ollama_embed": ollama_embeddings.with_embed_translation,
    "ollama_embeddings": ollama_embeddings.with_embeddings_translation,
}
"""The client's protocol -> the wrapper that serves it."""
