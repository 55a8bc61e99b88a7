"""Conversion of answer bytes to readable JSON for records, and back to bytes for playback.

Input bytes may be split at any position. Encoding a parsed answer yields equivalent bytes: JSON
data is re-serialized, everything else is copied verbatim.

    {"at", "body"}                                 one JSON value
    {"events": [{"at", "event"?, "data"}, …]}      server-sent events, or in place of an event:
               {"at", "text"}                      a comment, [DONE], an incomplete event
    {"lines": [{"at", "data"}, …]}                 one JSON value per line
    {"at", "text"}                                 anything else

``at`` is in milliseconds since the start of the exchange. ``latin1`` replaces ``text`` for bytes
that are not UTF-8. ``open`` marks an event without its terminating blank line.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterator
from itertools import accumulate, groupby
from typing import Any

import orjson

from forwarder.core.types import Json

TimedPieces = list[tuple[float, bytes]]

SSE_BLOCK = re.compile(rb"(.*?)(\r?\n\r?\n|\r\r|\Z)", re.DOTALL)
SSE_EVENT = re.compile(rb"(?:event: ([\x20-\x7e]*)\r?\n)?data: ?(\{[^\r\n]*)")
SSE_START = re.compile(rb"\s*(data|event|id|retry)?:")


def parse_answer(pieces: TimedPieces, whole: bool = True) -> Json:
    """Parse the pieces ``(seconds, bytes)`` of an answer to JSON (see the module docstring).

    If the answer was truncated (not ``whole``), its incomplete end is dropped: redaction would not
    recognize a partial secret.
    """
    data = b"".join(piece for _, piece in pieces)
    if not data:
        return {}
    times = ArrivalTimes(pieces)
    value = parse_json(data)
    if value is not None:
        return {"at": times.find_time(len(data)), "body": value}
    if SSE_START.match(data):
        return {"events": list(parse_events(data, times, whole))}
    lines = list(parse_lines(data, times))
    if len(lines) > 1:
        return {"lines": lines}
    return {"at": times.find_time(len(data)), **decode_text(data)} if whole else {}


class ArrivalTimes:
    """Maps a byte offset to the arrival time of its piece."""

    def __init__(self, pieces: TimedPieces) -> None:
        self._ends = list(accumulate(len(piece) for _, piece in pieces))
        self._seconds = [seconds for seconds, _ in pieces]

    def find_time(self, end: int) -> float:
        return to_milliseconds(self._seconds[bisect_left(self._ends, end)])


def to_milliseconds(seconds: float) -> float:
    """Convert to milliseconds, rounded to 0.1."""
    return round(seconds * 1000, 1)


def parse_json(data: bytes) -> Any:
    try:
        return orjson.loads(data)
    except ValueError:
        return None


def decode_text(data: bytes) -> Json:
    try:
        return {"text": data.decode()}
    except UnicodeDecodeError:
        return {"latin1": data.decode("latin-1")}


def parse_events(data: bytes, times: ArrivalTimes, whole: bool) -> Iterator[Json]:
    for block in SSE_BLOCK.finditer(data):
        text, is_terminated = block[1], bool(block[2])
        if not text or not (is_terminated or whole):
            continue
        marker = {} if is_terminated else {"open": True}
        yield {"at": times.find_time(block.end()), **parse_event(text), **marker}


def parse_event(text: bytes) -> Json:
    frame = SSE_EVENT.fullmatch(text)
    value = parse_json(frame[2]) if frame else None
    if frame is None or value is None:
        return decode_text(text)
    name = {} if frame[1] is None else {"event": frame[1].decode()}
    return {**name, "data": value}


def parse_lines(data: bytes, times: ArrivalTimes) -> Iterator[Json]:
    """Yield the lines if all are JSON (the last one may be cut off); otherwise yield nothing."""
    lines, end = [], 0
    for line in data.splitlines(keepends=True):
        end += len(line)
        value = parse_json(line)
        if value is not None:
            lines.append({"at": times.find_time(end), "data": value})
        elif line.strip() and end < len(data):
            return
    yield from lines


def encode_answer(answer: Json) -> list[bytes]:
    """Encode a parsed answer as pieces of bytes; events that arrived together form one piece."""
    if "body" in answer:
        return [orjson.dumps(answer["body"])]
    if "events" in answer:
        groups = groupby(answer["events"], lambda event: event["at"])
        return [b"".join(map(encode_event, events)) for _, events in groups]
    if "lines" in answer:
        return [orjson.dumps(line["data"]) + b"\n" for line in answer["lines"]]
    return [encode_text(answer)]


def encode_event(event: Json) -> bytes:
    end = b"" if event.get("open") else b"\n\n"
    if "data" not in event:
        return encode_text(event) + end
    name = f"event: {event['event']}\n".encode() if "event" in event else b""
    return name + b"data: " + orjson.dumps(event["data"]) + end


def encode_text(decoded: Json) -> bytes:
    if "latin1" in decoded:
        return str(decoded["latin1"]).encode("latin-1", "replace")
    return str(decoded.get("text", "")).encode()
