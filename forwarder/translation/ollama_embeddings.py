"""Ollama's two ways of asking for embeddings, over OpenAI's.

The upstream's stream is one event, its whole answer, and so is the client's.
"""

from __future__ import annotations

from typing import Any

from forwarder.core.errors import UpstreamBroken
from forwarder.core.translation_context import Terms
from forwarder.core.types import Call, Json, Stream
from forwarder.core.validate import STR, expect, require
from forwarder.protocols.ollama_parameters import OLLAMA_EMBED, OLLAMA_EMBEDDINGS, flat
from forwarder.protocols.parameters import settle


def embed(call: Call, terms: Terms) -> Call:
    """``/api/embed``: several texts, and vectors of length one."""

    def translated(request: Json) -> Stream:
        began = terms.mint.clock()
        model = require(request, "model", STR, "model")
        asked = dict(settle(flat(request), OLLAMA_EMBED, terms.ledger))
        texts = asked.get("input") or []
        for i, text in enumerate(texts if isinstance(texts, list) else ()):
            expect(text, STR, f"input[{i}]")
        return _lines(_asked(call, asked) if texts else iter(()), model, began, terms)

    return translated


def _lines(stream: Stream, model: str, began: int, terms: Terms) -> Stream:
    answer = _last(stream)
    vectors = [_of_length_one(vector) for vector in _vectors(answer)] if answer else []
    counted: Any = (answer.get("usage") or {}).get("prompt_tokens")
    line: Json = {
        "model": model,
        "embeddings": vectors,
        "total_duration": terms.mint.clock() - began,
        "load_duration": 0,
    }
    yield [{**line, "prompt_eval_count": counted} if type(counted) is int else line]


def embeddings(call: Call, terms: Terms) -> Call:
    """``/api/embeddings``, the older one: one text, and its vector as the upstream has it."""

    def translated(request: Json) -> Stream:
        require(request, "model", STR, "model")
        asked = dict(settle(flat(request), OLLAMA_EMBEDDINGS, terms.ledger))
        prompt = asked.pop("prompt", None)
        return _line(_asked(call, {**asked, "input": prompt}) if prompt else iter(()))

    return translated


def _line(stream: Stream) -> Stream:
    answer = _last(stream)
    yield [{"embedding": _vectors(answer)[0] if answer else []}]


def _asked(call: Call, asked: Json) -> Stream:
    return call({**asked, "encoding_format": "float"})


def _last(stream: Stream) -> Json:
    """The upstream's answer; empty when nobody was asked."""
    events = [event for batch in stream for event in batch]
    return events[-1] if events else {}


def _vectors(answer: Json) -> list[list[float]]:
    """The vectors, in the order of the texts."""
    entries = sorted(answer["data"], key=lambda entry: entry.get("index") or 0)
    vectors = [entry["embedding"] for entry in entries]
    if not vectors or not all(isinstance(vector, list) and vector for vector in vectors):
        raise UpstreamBroken("The upstream's answer holds no embeddings that can be read.")
    return vectors


def _of_length_one(vector: list[float]) -> list[float]:
    """Ollama promises so; most providers do too."""
    length = sum(x * x for x in vector) ** 0.5
    return vector if abs(length - 1) < 1e-6 or not length else [x / length for x in vector]
