"""Translates for Ollama clients in tests, and checks lines with Ollama's own package."""

from __future__ import annotations

from typing import Any

from forwarder.core.translation_context import TranslationContext
from forwarder.core.types import Batch, Event
from forwarder.translation import ollama_over_chat
from forwarder.translation.ollama_over_chat.endpoints import CHAT_ENDPOINT, OllamaEndpoint
from forwarder.translation.ollama_over_chat.request import TranslatedOllamaRequest
from tests.helpers.packages import import_client
from tests.helpers.translating import collect_events, make_translator_context

Json = dict[str, Any]

USER: Json = {"role": "user", "content": "Hi."}
CHAT_REQUEST: Json = {"model": "m", "messages": [USER], "stream": True}


def translate_ollama_request(
    translator_context: TranslationContext | None = None,
    form: OllamaEndpoint = CHAT_ENDPOINT,
    **request: Any,
) -> TranslatedOllamaRequest:
    """Translate a request, by default one that says hello."""
    body = (
        CHAT_REQUEST if form is CHAT_ENDPOINT else {"model": "m", "prompt": "Hi.", "stream": True}
    )
    return ollama_over_chat.translate_request(
        {**body, **request}, translator_context or make_translator_context(), form
    )


def chat(**request: Any) -> Json:
    """Return the chat request that a request becomes."""
    return translate_ollama_request(**request).upstream_request


def translate_lines(
    batches: list[Batch], form: OllamaEndpoint = CHAT_ENDPOINT, **request: Any
) -> list[Event]:
    """Return the lines of an answer."""
    translator_context = make_translator_context()
    translated = translate_ollama_request(translator_context, form, **request)
    return collect_events(
        ollama_over_chat.translate_stream(iter(batches), translated, translator_context)
    )


def make_chunk(finish: str | None = None, **delta: Any) -> Event:
    """Return a chat chunk."""
    return {"id": "c", "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}


def list_mistakes(line: Json) -> list[str]:
    """Return the mistakes of a line, by the types of Ollama's package; skips without it."""
    ollama = import_client("ollama")
    kind = ollama.ChatResponse if "message" in line else ollama.GenerateResponse
    read = kind.model_validate(line, strict=True).model_dump(exclude_none=True)
    missing = line.keys() - read.keys()
    return sorted(missing)
