"""The framings of streams: server-sent events, and newline-delimited JSON for Ollama's clients.

The decoder of server-sent events splits bytes, not text: ``str.splitlines`` would also split inside
a JSON string that holds U+2028 or U+0085.  Decoding and encoding are the forwarder's innermost
loops.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import orjson

from forwarder.core import json_lenient
from forwarder.core.errors import UpstreamProtocolError

DONE = b"data: [DONE]\n\n"
KEEP_ALIVE = b": keep-alive\n\n"

MAX_EVENT_BYTES = 64 * 2**20
"""The largest event in bytes; without a limit, an endless event could fill the memory."""

BOM = b"\xef\xbb\xbf"

_BLOCKS = re.compile(
    # Nearly every block is one data line, with or without an event line before it ...
    rb"(?:event: ([^\n]*+)\n)?data: (\{[^\n]*+)(?:\n\n|\Z)"
    # ... and this matches any other block.
    rb"|(.+?)(?:\n\n|\Z)",
    re.DOTALL,
)


class SseDecoder:
    """Decodes bytes, cut anywhere, into event dicts.

    ``saw_done_marker`` is true once ``[DONE]`` arrived.  Raises UpstreamProtocolError for data that
    is not a JSON object and for an event of more than `MAX_EVENT_BYTES`.
    """

    def __init__(self) -> None:
        self.saw_done_marker = False
        self._rest = bytearray()
        self._after_cr = False

    def feed(self, data: bytes) -> list[dict[str, Any]]:
        """Return the events that ``data`` completes, also those after ``[DONE]``."""
        if not data:
            return []
        if self._after_cr or b"\r" in data:
            data = self._normalize_newlines(data)
        if self._rest or not data.endswith(b"\n\n"):
            data = self._take_complete_blocks(data)
        return self._parse_events(data)

    def flush(self) -> list[dict[str, Any]]:
        """Return the last event if the stream ended without the blank line after it.

        An incomplete event is ignored: `stream_end.py` decides whether a stream may end there.
        """
        block = bytes(self._rest).rstrip(b"\n")
        self._rest.clear()
        try:
            return self._parse_events(block)
        except UpstreamProtocolError:
            return []

    def _take_complete_blocks(self, data: bytes) -> bytes:
        """Return the complete blocks of the buffered rest and ``data``, and buffer the new rest."""
        rest = self._rest
        searched = max(0, len(rest) - 1)
        rest += data
        end = rest.rfind(b"\n\n", searched)
        if end >= 0:
            data = bytes(rest[:end])
            del rest[: end + 2]
            return data
        if len(rest) > MAX_EVENT_BYTES:
            rest.clear()
            raise UpstreamProtocolError(
                f"The upstream sent an event of more than {MAX_EVENT_BYTES} bytes."
            )
        return b""

    def _normalize_newlines(self, data: bytes) -> bytes:
        """Convert CR and CRLF to newlines; a CRLF may be cut in the middle."""
        text = data.removeprefix(b"\n") if self._after_cr else data
        self._after_cr = data.endswith(b"\r")
        return text.replace(b"\r\n", b"\n").replace(b"\r", b"\n")

    def _parse_events(self, blocks: bytes) -> list[dict[str, Any]]:
        events, small = [], json_lenient.ALWAYS_SHALLOW_BYTES
        for name, payload, other in _BLOCKS.findall(blocks):
            if other:
                name, payload = read_fields(other)
                if not self._check_object(payload):
                    continue
            try:
                event = orjson.loads(payload)
            except orjson.JSONDecodeError:
                event = parse_payload(payload)
            if len(payload) > small and json_lenient.is_too_deep(payload, event):
                raise UpstreamProtocolError("The upstream sent an event that is nested too deeply.")
            if name and "type" not in event and (name.startswith(b"response.") or name == b"error"):
                event["type"] = name.decode(errors="replace")  # some vendors send it only there
            events.append(event)
        return events

    def _check_object(self, payload: bytes) -> bool:
        """Return whether the data is an object, and record ``[DONE]``.

        Empty data and null are allowed.  Raises UpstreamProtocolError for any other data.
        """
        if payload.startswith(b"[DONE]"):
            self.saw_done_marker = True
        elif payload and payload != b"null" and not payload.startswith(b"{"):
            raise UpstreamProtocolError("The upstream sent an event that is not a JSON object.")
        return payload.startswith(b"{")


def encode_responses(batch: Sequence[dict[str, Any]]) -> bytes:
    """Encode Responses events, each with its type as event name."""
    pieces: list[bytes] = []
    for event in batch:
        pieces += encode_event_head(event.get("type")), orjson.dumps(event), b"\n\n"
    return b"".join(pieces)


def encode_chat(batch: Sequence[dict[str, Any]]) -> bytes:
    """Encode chat chunks, without the final ``[DONE]``."""
    if not batch:
        return b""
    return b"data: " + b"\n\ndata: ".join([orjson.dumps(chunk) for chunk in batch]) + b"\n\n"


def read_fields(block: bytes) -> tuple[bytes, bytes]:
    """Return the event name of a block and its data lines as one payload."""
    name, payload = b"", []
    for line in block.removeprefix(BOM).split(b"\n"):
        field, _, value = line.partition(b":")
        if field == b"data":
            payload.append(value)
        elif field == b"event":
            name = value.strip()
    return name, b"\n".join(payload).strip()


def parse_payload(payload: bytes) -> dict[str, Any]:
    try:
        event: dict[str, Any] = json_lenient.parse_lenient(payload)
    except ValueError:
        raise UpstreamProtocolError("The upstream sent an event that is not JSON.") from None
    return event


@lru_cache(maxsize=256)
def encode_event_head(kind: object) -> bytes:
    """Return the bytes before an event's JSON; a line end in the type would forge an event."""
    if not isinstance(kind, str) or not kind.isprintable():
        return b"data: "
    return f"event: {kind}\ndata: ".encode()


# -- newline-delimited JSON ---------------------------------------------------------------------

LINE_KEEP_ALIVE = b" "
"""Keeps newline-delimited JSON alive.  The format has no comments, and clients parse every line as
JSON, even an empty one; but white space may precede the object of the next line."""


def encode_lines(events: Sequence[dict[str, Any]]) -> bytes:
    """Encode each event as one line; raises TypeError for values that are not JSON."""
    return b"".join([orjson.dumps(event, option=orjson.OPT_APPEND_NEWLINE) for event in events])
