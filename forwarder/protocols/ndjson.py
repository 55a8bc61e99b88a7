"""Newline-delimited JSON, in which Ollama streams: framing only, a line for an event."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson

KEEP_ALIVE = b" "
"""Says that the answer is not over.  There are no comments, and clients read every line as JSON, an
empty one too; but space may stand before the object of the next line."""


def encode_lines(events: Sequence[dict[str, Any]]) -> bytes:
    """A line for each event; raises TypeError for what is no JSON."""
    return b"".join([orjson.dumps(event, option=orjson.OPT_APPEND_NEWLINE) for event in events])
