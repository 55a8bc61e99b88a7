"""Translations: a call of one protocol, worn over a call of the other.

``adapt`` gives a call that speaks the client's protocol over one that speaks the upstream's.
With the same protocol on both sides it is the very call it was given, so passing through loses
nothing.

Pure rooms: plain JSON in, plain JSON out; no openai, flask, os, time, uuid or logging in here.
"""

from __future__ import annotations

from collections.abc import Callable

from forwarder.core.translation_context import Terms
from forwarder.core.types import Call, Json, Stream
from forwarder.protocols.fold import fold_chat, fold_responses
from forwarder.translation import (
    chat_over_responses,
    ollama_embeddings,
    ollama_over_chat,
    responses_over_chat,
)
from forwarder.translation.error_params import dropped_in_its_words, in_its_words
from forwarder.translation.ollama_over_chat.fold import fold_ollama
from forwarder.translation.ollama_over_chat.forms import CHAT, GENERATE, Form

FOLDS: dict[str, Callable[[Stream], Json]] = {
    "chat": fold_chat,
    "responses": fold_responses,
    "ollama": fold_ollama,
    "ollama_generate": fold_ollama,
}
"""Protocol -> the fold of its streams into a whole answer."""


def adapt(call: Call, client: str, upstream: str, terms: Terms) -> Call:
    """Give a call for ``client``'s protocol, served over ``call``, which speaks ``upstream``'s.

    Ollama's two ways of asking are protocols of their own, both over Chat; whatever else is
    beneath is for that call to adapt.
    """
    if client == upstream:
        return call
    return in_its_words(_OVER[client](call, terms), client)


def _responses_over_chat(call: Call, terms: Terms) -> Call:
    def translated(request: Json) -> Stream:
        prepared = responses_over_chat.translate_request(request, terms)
        return responses_over_chat.translate_stream(call(prepared.chat), prepared, terms)

    return translated


def _chat_over_responses(call: Call, terms: Terms) -> Call:
    def translated(request: Json) -> Stream:
        prepared = chat_over_responses.translate_request(request, terms)
        stream = call(prepared.responses)
        return chat_over_responses.translate_stream(stream, prepared, terms)

    return translated


def _ollama_over_chat(form: Form) -> Callable[[Call, Terms], Call]:
    def over(call: Call, terms: Terms) -> Call:
        def translated(request: Json) -> Stream:
            prepared = ollama_over_chat.translate_request(request, terms, form)
            try:
                stream: Stream = iter(()) if prepared.instead else call(prepared.chat)
            finally:
                dropped_in_its_words(terms.ledger, "ollama", request)
            return ollama_over_chat.translate_stream(stream, prepared, terms)

        return translated

    return over


_OVER: dict[str, Callable[[Call, Terms], Call]] = {
    "responses": _responses_over_chat,
    "chat": _chat_over_responses,
    "ollama": _ollama_over_chat(CHAT),
    "ollama_generate": _ollama_over_chat(GENERATE),
    "ollama_embed": ollama_embeddings.embed,
    "ollama_embeddings": ollama_embeddings.embeddings,
}
"""The client's protocol -> what wears it."""
