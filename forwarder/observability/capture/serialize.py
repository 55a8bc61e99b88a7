"""Answers as bytes, cut anywhere, and as JSON: for people who read them, and back for a playback.

What is read here is written again so that whoever reads it finds the same: data that is JSON comes
as JSON, and whatever else was said word for word.

    {"at", "body"}                                 one JSON value
    {"events": [{"at", "event"?, "data"}, …]}      server-sent events, and in place of one …
               {"at", "text"}                      … what is none: comments, [DONE], half an event
    {"lines": [{"at", "data"}, …]}                 one JSON value a line
    {"at", "text"}                                 anything else

``find_time`` is in milliseconds since the exchange began.  ``latin1`` stands for ``text`` where that was
no UTF-8, ``open`` says of an event that it did not end.
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
    """What was said in these pieces, of which each has its seconds.

    When they are not ``whole``, what stands at the cut is left out: it may be half a secret.
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
    """When which byte was there."""

    def __init__(self, pieces: TimedPieces) -> None:
        self._ends = list(accumulate(len(piece) for _, piece in pieces))
        self._seconds = [seconds for seconds, _ in pieces]

    def find_time(self, end: int) -> float:
        return to_milliseconds(self._seconds[bisect_left(self._ends, end)])


def to_milliseconds(seconds: float) -> float:
    """Milliseconds, for people."""
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
        said, ended = block[1], bool(block[2])
        if not said or not (ended or whole):
            continue
        event = parse_event(said)
        yield {"at": times.find_time(block.end()), **event, **({} if ended else {"open": True})}


def parse_event(said: bytes) -> Json:
    frame = SSE_EVENT.fullmatch(said)
    value = parse_json(frame[2]) if frame else None
    if frame is None or value is None:
        return decode_text(said)
    name = {} if frame[1] is None else {"event": frame[1].decode()}
    return {**name, "data": value}


def parse_lines(data: bytes, times: ArrivalTimes) -> Iterator[Json]:
    """The lines; none of them when one is no JSON, but for the last, which may be cut off."""
    found, end = [], 0
    for line in data.splitlines(keepends=True):
        end += len(line)
        value = parse_json(line)
        if value is not None:
            found.append({"at": times.find_time(end), "data": value})
        elif line.strip() and end < len(data):
            return
    yield from found


def encode_answer(answer: Json) -> list[bytes]:
    """The bytes of an answer that was read; what came together is together."""
    if "body" in answer:
        return [orjson.dumps(answer["body"])]
    if "events" in answer:
        together = groupby(answer["events"], lambda event: event["at"])
        return [b"".join(map(encode_event, events)) for _, events in together]
    if "lines" in answer:
        return [orjson.dumps(line["data"]) + b"\n" for line in answer["lines"]]
    return [encode_text(answer)]


def encode_event(event: Json) -> bytes:
    end = b"" if event.get("open") else b"\n\n"
    if "data" not in event:
        return encode_text(event) + end
    name = f"event: {event['event']}\n".encode() if "event" in event else b""
    return name + b"data: " + orjson.dumps(event["data"]) + end


def encode_text(said: Json) -> bytes:
    if "latin1" in said:
        return str(said["latin1"]).encode("latin-1", "replace")
    return str(said.get("text", "")).encode()
