"""Log probabilities of Responses texts -> those of chat choices.

The deltas of a Responses stream leave out what a token is in bytes; chat clients count on it.
"""

from __future__ import annotations

import re

from forwarder.core.types import Batch, Json

_BYTES_TOKEN = re.compile(r"bytes:((?:\\x[0-9a-f]{2})+)")
"""How OpenAI writes a token that is only a part of a character."""


def attach_logprobs(chunks: Batch, entries: list[Json]) -> Batch:
    """The chunks, of which there is at least one, with log probabilities on the last."""
    *before, last = chunks
    content = [convert_token(entry) for entry in entries]
    choice = {**last["choices"][0], "logprobs": {"content": content, "refusal": None}}
    return [*before, {**last, "choices": [choice]}]


def convert_token(entry: Json) -> Json:
    others = [convert_alternative(other) for other in entry.get("top_logprobs") or ()]
    return {**convert_alternative(entry), "top_logprobs": others}


def convert_alternative(entry: Json) -> Json:
    token = entry.get("token") or ""
    given = entry.get("bytes")
    spelled = list(encode_token(token)) if given is None else given
    return {"token": token, "logprob": entry.get("logprob"), "bytes": spelled}


def encode_token(token: str) -> bytes:
    part = _BYTES_TOKEN.fullmatch(token)
    return bytes.fromhex(part[1].replace("\\x", "")) if part else token.encode(errors="replace")
