"""Ollama's two embeddings endpoints over OpenAI's ``/embeddings``.

The streams of both sides have one event, the whole answer.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from forwarder.core.errors import UpstreamProtocolError
from forwarder.core.translation_context import TranslationContext
from forwarder.core.types import EventStream, Json
from forwarder.core.validate import STR, check_type, require_field
from forwarder.protocols.ollama import OLLAMA_EMBED, OLLAMA_EMBEDDINGS, flatten_options
from forwarder.protocols.parameters import validate_parameters


def translate_embed_request(
    request: Json, context: TranslationContext
) -> tuple[Json | None, Callable[[EventStream], EventStream]]:
    """Translate ``/api/embed``: several texts, and vectors normalized to length one."""
    started_at = context.id_source.monotonic_ns()
    model = require_field(request, "model", STR, "model")
    parameters = dict(
        validate_parameters(flatten_options(request), OLLAMA_EMBED, context.loss_report)
    )
    texts = parameters.get("input") or []
    for i, text in enumerate(texts if isinstance(texts, list) else ()):
        check_type(text, STR, f"input[{i}]")
    translate_answer = partial(
        translate_embed_answer, model=model, started_at=started_at, context=context
    )
    return {**parameters, "encoding_format": "float"} if texts else None, translate_answer


def translate_embed_answer(
    stream: EventStream, model: str, started_at: int, context: TranslationContext
) -> EventStream:
    answer = read_answer(stream)
    vectors = [normalize_vector(vector) for vector in read_vectors(answer)] if answer else []
    prompt_tokens: Any = (answer.get("usage") or {}).get("prompt_tokens")
    line: Json = {
        "model": model,
        "embeddings": vectors,
        "total_duration": context.id_source.monotonic_ns() - started_at,
        "load_duration": 0,
    }
    yield [{**line, "prompt_eval_count": prompt_tokens} if type(prompt_tokens) is int else line]


def translate_embeddings_request(
    request: Json, context: TranslationContext
) -> tuple[Json | None, Callable[[EventStream], EventStream]]:
    """Translate the older ``/api/embeddings``: one text, and its vector unchanged."""
    require_field(request, "model", STR, "model")
    parameters = dict(
        validate_parameters(flatten_options(request), OLLAMA_EMBEDDINGS, context.loss_report)
    )
    prompt = parameters.pop("prompt", None)
    body = {**parameters, "input": prompt, "encoding_format": "float"}
    return body if prompt else None, translate_embeddings_answer


def translate_embeddings_answer(stream: EventStream) -> EventStream:
    answer = read_answer(stream)
    yield [{"embedding": read_vectors(answer)[0] if answer else []}]


def read_answer(stream: EventStream) -> Json:
    """Return the upstream's answer; empty if there was no text to embed."""
    events = [event for batch in stream for event in batch]
    return events[-1] if events else {}


def read_vectors(answer: Json) -> list[list[float]]:
    """Return the vectors in the order of the texts."""
    entries = sorted(answer["data"], key=lambda entry: entry.get("index") or 0)
    vectors = [entry["embedding"] for entry in entries]
    if not vectors or not all(isinstance(vector, list) and vector for vector in vectors):
        raise UpstreamProtocolError("The upstream's answer contains no readable embeddings.")
    return vectors


def normalize_vector(vector: list[float]) -> list[float]:
    """Scale to length one, which Ollama guarantees and most providers already send."""
    length = sum(x * x for x in vector) ** 0.5
    return vector if abs(length - 1) < 1e-6 or not length else [x / length for x in vector]
