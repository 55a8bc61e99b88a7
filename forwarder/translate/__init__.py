"""Translations: a call of one protocol, worn over a call of the other.

``adapt`` gives a call that speaks the client's protocol over one that speaks the upstream's.
With the same protocol on both sides it is the very call it was given, so passing through loses
nothing.

Pure rooms: plain JSON in, plain JSON out; no openai, flask, os, time, uuid or logging in here.
"""

from __future__ import annotations

from collections.abc import Callable

from forwarder.translate import chat_over_responses, responses_over_chat
from forwarder.translate.call import Call, Json, Stream
from forwarder.translate.fold import fold_chat, fold_responses
from forwarder.translate.refusals import in_its_words
from forwarder.translate.terms import Terms

FOLDS: dict[str, Callable[[Stream], Json]] = {"chat": fold_chat, "responses": fold_responses}
"""Protocol -> the fold of its streams into a whole answer."""


def adapt(call: Call, client: str, upstream: str, terms: Terms) -> Call:
    """Give a call for ``client``'s protocol, served over ``call``, which speaks ``upstream``'s."""
    if client == upstream:
        return call
    over = _responses_over_chat if client == "responses" else _chat_over_responses
    return in_its_words(over(call, terms), client)


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
