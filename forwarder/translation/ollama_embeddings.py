"""Ollama's two ways of asking for embeddings, over OpenAI's.

The upstream's stream is one event, its whole answer, and so is the client's.
"""

from __future__ import annotations

from typing import Any

from forwarder.core.errors import UpstreamProtocolError
from forwarder.core.translation_context import TranslationContext
from forwarder.core.types import EventStream, Handler, Json
from forwarder.core.validate import STR, check_type, require_field
from forwarder.protocols.ollama_parameters import OLLAMA_EMBED, OLLAMA_EMBEDDINGS, flatten_options
from forwarder.protocols.parameters import validate_parameters


def with_embed_translation(handler: Handler, context: TranslationContext) -> Handler:
    """``/api/embed``: several texts, and vectors of length one."""

    def handle_request(request: Json) -> EventStream:
        began = context.id_source.monotonic_ns()
        model = require_field(request, "model", STR, "model")
        asked = dict(
            validate_parameters(flatten_options(request), OLLAMA_EMBED, context.loss_report)
        )
        texts = asked.get("input") or []
        for i, text in enumerate(texts if isinstance(texts, list) else ()):
            check_type(text, STR, f"input[{i}]")
        return translate_embed_answer(
            request_embeddings(handler, asked) if texts else iter(()), model, began, context
        )

    return handle_request


def translate_embed_answer(
    stream: EventStream, model: str, began: int, context: TranslationContext
) -> EventStream:
    answer = read_answer(stream)
    vectors = [normalize_vector(vector) for vector in read_vectors(answer)] if answer else []
    counted: Any = (answer.get("usage") or {}).get("prompt_tokens")
    line: Json = {
        "model": model,
        "embeddings": vectors,
        "total_duration": context.id_source.monotonic_ns() - began,
        "load_duration": 0,
    }
    yield [{**line, "prompt_eval_count": counted} if type(counted) is int else line]


def with_embeddings_translation(handler: Handler, context: TranslationContext) -> Handler:
    """``/api/embeddings``, the older one: one text, and its vector as the upstream has it."""

    def handle_request(request: Json) -> EventStream:
        require_field(request, "model", STR, "model")
        asked = dict(
            validate_parameters(flatten_options(request), OLLAMA_EMBEDDINGS, context.loss_report)
        )
        prompt = asked.pop("prompt", None)
        return translate_embeddings_answer(
            request_embeddings(handler, {**asked, "input": prompt}) if prompt else iter(())
        )

    return handle_request


def translate_embeddings_answer(stream: EventStream) -> EventStream:
    answer = read_answer(stream)
    yield [{"embedding": read_vectors(answer)[0] if answer else []}]


def request_embeddings(handler: Handler, asked: Json) -> EventStream:
    return handler({**asked, "encoding_format": "float"})


def read_answer(stream: EventStream) -> Json:
    """The upstream's answer; empty when nobody was asked."""
    events = [event for batch in stream for event in batch]
    return events[-1] if events else {}


def read_vectors(answer: Json) -> list[list[float]]:
    """The vectors, in the order of the texts."""
    entries = sorted(answer["data"], key=lambda entry: entry.get("index") or 0)
    vectors = [entry["embedding"] for entry in entries]
    if not vectors or not all(isinstance(vector, list) and vector for vector in vectors):
        raise UpstreamProtocolError("The upstream's answer holds no embeddings that can be read.")
    return vectors


def normalize_vector(vector: list[float]) -> list[float]:
    """Ollama promises so; most providers do too."""
    length = sum(x * x for x in vector) ** 0.5
    return vector if abs(length - 1) < 1e-6 or not length else [x / length for x in vector]
