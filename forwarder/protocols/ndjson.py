"""Newline-delimited JSON, the framing of Ollama's streams: one line for each event."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson

KEEP_ALIVE = b" "
"""Keeps the connection alive.  The format has no comments, and clients parse every line as JSON,
even an empty one; but white space may precede the object of the next line."""


def encode_lines(events: Sequence[dict[str, Any]]) -> bytes:
    """Encode each event as one line; raises TypeError for values that are not JSON."""
    return b"".join([orjson.dumps(event, option=orjson.OPT_APPEND_NEWLINE) for event in events])
