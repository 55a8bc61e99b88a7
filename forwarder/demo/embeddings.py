"""Embeddings of the demo: deterministic vectors of length 1.

The vector of a text is the normalized sum of its word vectors, so texts with common words are
similar.
"""

from __future__ import annotations

import hashlib

from forwarder.core.errors import InvalidRequest
from forwarder.core.types import Json

_MAX_DIMENSIONS = 16


def embed_texts(request: Json) -> Json:
    """Return the response to an embeddings request; raises InvalidRequest."""
    texts = read_texts(request.get("input"))
    size = request.get("dimensions") or _MAX_DIMENSIONS
    if request.get("encoding_format", "float") != "float":
        raise InvalidRequest(
            "Invalid value for 'encoding_format': the demo upstream supports only 'float'.",
            param="encoding_format",
        )
    if type(size) is not int or not 0 < size <= _MAX_DIMENSIONS:
        raise InvalidRequest(
            f"Invalid value for 'dimensions': expected an integer from 1 to {_MAX_DIMENSIONS}.",
            param="dimensions",
        )
    words = sum(len(text.split()) for text in texts)
    return {
        "object": "list",
        "model": request.get("model"),
        "data": [
            {"object": "embedding", "index": i, "embedding": make_vector(text, size)}
            for i, text in enumerate(texts)
        ],
        "usage": {"prompt_tokens": words, "total_tokens": words},
    }


def read_texts(value: object) -> list[str]:
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not texts or not all(isinstance(t, str) and t for t in texts):
        raise InvalidRequest(
            "Invalid value for 'input': expected a non-empty string, or an array of them.",
            param="input",
        )
    return texts


def make_vector(text: str, size: int) -> list[float]:
    sums = [0] * size
    for word in text.lower().split() or [text]:
        digest = hashlib.sha256(word.encode("utf-8", "replace")).digest()
        sums = [total + digest[i] - 127 for i, total in enumerate(sums)]
    length: float = sum(x * x for x in sums) ** 0.5 or 1
    return [x / length for x in sums]
