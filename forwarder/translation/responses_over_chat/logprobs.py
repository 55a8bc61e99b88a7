"""Log probabilities as chat upstreams send them -> as a Responses part has them.

Vendors leave out what they please; the types require all of it.
"""

from __future__ import annotations

import itertools
from typing import Any

from forwarder.core.types import Json

_UNKNOWN_LOGPROB = -9999.0
"""What stands for a log probability that is not known."""


def read_entries(logprobs: Any) -> list[Json]:
    """The entries of a choice's ``logprobs`` for its text, as a part has them."""
    content = logprobs.get("content") if isinstance(logprobs, dict) else None
    return [convert_entry(entry) for entry in select_objects(content)]


def select_text_entries(entries: list[Json], thought: str, text: str, last: bool) -> list[Json]:
    """The entries of a text that came together with its thought and with calls.

    Of a text that is the ``last`` that was said, with what ends it.
    """
    written = b"".join(bytes(entry["bytes"]) for entry in entries)
    before, said = (part.encode(errors="replace") for part in (thought, text))
    behind = written.find(before) + len(before) if before in written else 0
    start = written.find(said, behind)
    if start < 0:  # there is no telling
        return entries
    end = len(written) if last else start + len(said)
    ends = itertools.accumulate(len(entry["bytes"]) for entry in entries)
    return [e for e, at in zip(entries, ends, strict=True) if start < at <= end]


def select_last_entries(entries: list[Json], text: str) -> list[Json]:
    """The entries of the tokens that lie wholly within this text, with which they all end."""
    room = len(text.encode(errors="replace"))
    first = len(entries)
    while first and (room := room - len(entries[first - 1]["bytes"])) >= 0:
        first -= 1
    return entries[first:]


def convert_entry(entry: Json) -> Json:
    return {
        **convert_token(entry),
        "top_logprobs": [*map(convert_token, select_objects(entry.get("top_logprobs")))],
    }


def convert_token(entry: Json) -> Json:
    token, written, logprob = entry.get("token") or "", entry.get("bytes"), entry.get("logprob")
    return {
        "token": token,
        "bytes": written if isinstance(written, list) else [*token.encode(errors="replace")],
        "logprob": _UNKNOWN_LOGPROB if logprob is None else logprob,
    }


def select_objects(entries: Any) -> list[Json]:
    return [e for e in entries if isinstance(e, dict)] if isinstance(entries, list) else []
