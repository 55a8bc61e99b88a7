"""Log probabilities as chat upstreams send them, in the two shapes that Responses clients get.

A part of a message has the bytes of every token, its events have none.  Vendors leave out what
they please; the types require all of it.
"""

from __future__ import annotations

from typing import Any

from forwarder.translate.call import Json

_UNLIKELY = -9999.0
"""What stands for a log probability that is not known."""


def read(logprobs: Any) -> list[Json]:
    """The entries of a choice's ``logprobs`` for its text, as a part has them."""
    content = logprobs.get("content") if isinstance(logprobs, dict) else None
    return [_entry(entry) for entry in _objects(content)]


def without_bytes(entries: list[Json]) -> list[Json]:
    """The same entries, as events have them."""
    return [{**_bare(e), "top_logprobs": [*map(_bare, e["top_logprobs"])]} for e in entries]


def _entry(entry: Json) -> Json:
    return {**_token(entry), "top_logprobs": [*map(_token, _objects(entry.get("top_logprobs")))]}


def _token(entry: Json) -> Json:
    token, written, logprob = entry.get("token") or "", entry.get("bytes"), entry.get("logprob")
    return {
        "token": token,
        "bytes": written if isinstance(written, list) else [*token.encode(errors="replace")],
        "logprob": _UNLIKELY if logprob is None else logprob,
    }


def _bare(entry: Json) -> Json:
    return {"token": entry["token"], "logprob": entry["logprob"]}


def _objects(entries: Any) -> list[Json]:
    return [e for e in entries if isinstance(e, dict)] if isinstance(entries, list) else []
