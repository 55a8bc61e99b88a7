"""Translations: a call of one protocol, worn over a call of the other.

``translate_handler`` gives a call that speaks the client's protocol over one that speaks the upstream's.
With the same protocol on both sides it is the very call it was given, so passing through loses
nothing.

Pure rooms: plain JSON in, plain JSON out; no openai, flask, os, time, uuid or logging in here.
"""

from __future__ import annotations

from collections.abc import Callable

from forwarder.core.translation_context import TranslationContext
from forwarder.core.types import EventStream, Handler, Json
from forwarder.protocols.fold import fold_chat, fold_responses
from forwarder.translation import (
    chat_over_responses,
    ollama_embeddings,
    ollama_over_chat,
    responses_over_chat,
)
from forwarder.translation.error_params import rename_losses, with_client_parameter_names
from forwarder.translation.ollama_over_chat.fold import fold_ollama
from forwarder.translation.ollama_over_chat.forms import (
    CHAT_ENDPOINT,
    GENERATE_ENDPOINT,
    OllamaEndpoint,
)

FOLDS: dict[str, Callable[[EventStream], Json]] = {
    "chat": fold_chat,
    "responses": fold_responses,
    "ollama": fold_ollama,
    "ollama_generate": fold_ollama,
}
"""Protocol -> the fold of its streams into a whole answer."""


def translate_handler(
    handler: Handler, client: str, upstream: str, context: TranslationContext
) -> Handler:
    """Give a call for ``client``'s protocol, served over ``handler``, which speaks ``upstream``'s.

    Ollama's two ways of asking are protocols of their own, both over Chat; whatever else is
    beneath is for that call to adapt.
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
"""The client's protocol -> what wears it."""
