"""Ollama's two ways of asking for embeddings, over OpenAI's.

The upstream's stream is one event, its whole answer, and so is the client's.
"""

from __future__ import annotations

from typing import Any

from forwarder.errors import UpstreamBroken
from forwarder.translate.call import Call, Json, Stream
from forwarder.translate.check import STR, expect, require
from forwarder.translate.fates import settle
from forwarder.translate.fates_of_ollama import OLLAMA_EMBED, OLLAMA_EMBEDDINGS, flat
from forwarder.translate.terms import Terms


def embed(call: Call, terms: Terms) -> Call:
    """``/api/embed``: several texts, and vectors of length one."""

    def translated(request: Json) -> Stream:
        began = terms.mint.clock()
        model = require(request, "model", STR, "model")
        asked = dict(settle(flat(request), OLLAMA_EMBED, terms.ledger))
        texts = asked.get("input") or []
        for i, text in enumerate(texts if isinstance(texts, list) else ()):
            expect(text, STR, f"input[{i}]")
        answer = _asked(call, asked) if texts else {}
        vectors = [_of_length_one(vector) for vector in _vectors(answer)] if texts else []
        counted: Any = (answer.get("usage") or {}).get("prompt_tokens")
        line = {
            "model": model,
            "embeddings": vectors,
            "total_duration": terms.mint.clock() - began,
            "load_duration": 0,
        }
        return iter([[{**line, "prompt_eval_count": counted} if type(counted) is int else line]])

    return translated


def embeddings(call: Call, terms: Terms) -> Call:
    """``/api/embeddings``, the older one: one text, and its vector as the upstream has it."""

    def translated(request: Json) -> Stream:
        require(request, "model", STR, "model")
        asked = dict(settle(flat(request), OLLAMA_EMBEDDINGS, terms.ledger))
        prompt = asked.pop("prompt", None)
        vectors = _vectors(_asked(call, {**asked, "input": prompt})) if prompt else [[]]
        return iter([[{"embedding": vectors[0]}]])

    return translated


def _asked(call: Call, asked: Json) -> Json:
    """The upstream's answer."""
    events = [event for batch in call({**asked, "encoding_format": "float"}) for event in batch]
    return events[-1]


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
