"""Log probabilities as chat upstreams send them -> as a Responses part has them.

Vendors leave out what they please; the types require all of it.
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


def _entry(entry: Json) -> Json:
    return {**_token(entry), "top_logprobs": [*map(_token, _objects(entry.get("top_logprobs")))]}


def _token(entry: Json) -> Json:
    token, written, logprob = entry.get("token") or "", entry.get("bytes"), entry.get("logprob")
    return {
        "token": token,
        "bytes": written if isinstance(written, list) else [*token.encode(errors="replace")],
        "logprob": _UNLIKELY if logprob is None else logprob,
    }


def _objects(entries: Any) -> list[Json]:
    return [e for e in entries if isinstance(e, dict)] if isinstance(entries, list) else []
