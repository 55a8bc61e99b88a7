"""Log probabilities of Responses texts -> log probabilities of chat choices.

Responses deltas omit the bytes of a token, but chat clients rely on them.
"""

from __future__ import annotations

import re

from forwarder.core.types import Batch, Json

_BYTES_TOKEN = re.compile(r"bytes:((?:\\x[0-9a-f]{2})+)")
"""OpenAI's notation for a token that is only part of a character."""


def attach_logprobs(chunks: Batch, entries: list[Json]) -> Batch:
    """Attach log probabilities to the last of ``chunks``, which must not be empty."""
    *before, last = chunks
    content = [convert_token(entry) for entry in entries]
    choice = {**last["choices"][0], "logprobs": {"content": content, "refusal": None}}
    return [*before, {**last, "choices": [choice]}]


def convert_token(entry: Json) -> Json:
    """Return a token with its alternatives in the form of Chat: ``{token, …, top_logprobs}``."""
    others = [convert_alternative(other) for other in entry.get("top_logprobs") or ()]
    return {**convert_alternative(entry), "top_logprobs": others}


def convert_alternative(entry: Json) -> Json:
    """Return ``{token, logprob, bytes}``; missing bytes are derived from the token."""
    token = entry.get("token") or ""
    token_bytes = entry.get("bytes")
    if token_bytes is None:
        token_bytes = list(encode_token(token))
    return {"token": token, "logprob": entry.get("logprob"), "bytes": token_bytes}


def encode_token(token: str) -> bytes:
    part = _BYTES_TOKEN.fullmatch(token)
    return bytes.fromhex(part[1].replace("\\x", "")) if part else token.encode(errors="replace")
