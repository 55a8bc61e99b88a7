"""Embeddings of the demo: the same text always gets the same vector, of length one.

A text is the sum of its words, so texts that share words point into about the same direction.
"""

from __future__ import annotations

import hashlib

from forwarder.core.errors import InvalidRequest
from forwarder.demo.reading import JSON

_MAX_DIMENSIONS = 16


def embed_texts(request: JSON) -> JSON:
    """The answer to a request for embeddings; raises InvalidRequest when it is none."""
    texts = read_texts(request.get("input"))
    size = request.get("dimensions") or _MAX_DIMENSIONS
    if request.get("encoding_format", "float") != "float":
        raise InvalidRequest("The demo embeds in floats alone.", param="encoding_format")
    if type(size) is not int or not 0 < size <= _MAX_DIMENSIONS:
        raise InvalidRequest(f"The demo has {_MAX_DIMENSIONS} dimensions.", param="dimensions")
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


def read_texts(given: object) -> list[str]:
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, list) or not texts or not all(isinstance(t, str) and t for t in texts):
        raise InvalidRequest("'input' has to be a text, or an array of texts.", param="input")
    return texts


def make_vector(text: str, size: int) -> list[float]:
    sums = [0] * size
    for word in text.lower().split() or [text]:
        digest = hashlib.sha256(word.encode("utf-8", "replace")).digest()
        sums = [total + digest[i] - 127 for i, total in enumerate(sums)]
    length: float = sum(x * x for x in sums) ** 0.5 or 1
    return [x / length for x in sums]
