"""One exchange as JSON, when it is over: what was asked, of whom, what came, and when.

    {"exchange": {id, request_id, time, route, model, upstream, status, error, duration_ms, whole,
                  redacted},
     "client": {"request": {method, path, query, headers, body}, "resumed": {body},
                "answer": {status, headers, events …}},
     "upstream": [{upstream, provider, protocol, model, url, at, request: {body},
                   answer: {at, status, headers, events …}, error}, …],
     "dropped": {name: reason}, "usage", "failed", "retries", "left"}

A body that is no JSON stands as ``text``; answers are as `frames` has them.  ``resumed`` is the
request with what it stands on, where something that was stored may be a part of it.  What was left
out because it was too much has its bytes in ``left_out``, and ``whole`` is false then.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import orjson

from forwarder.context.recorder import (
    AttemptCapture,
    ByteTrack,
    CapturedBody,
    HeaderPairs,
    Recorder,
)
from forwarder.context.redaction import Redactor, collect_client_key, collect_upstream_secrets
from forwarder.context.request_context import RequestContext
from forwarder.core.types import Json
from forwarder.observability.capture import serialize

RECORD_HEAD = b'{"exchange":'


def encode_record(
    name: str,
    tape: Recorder,
    exchange: RequestContext,
    seconds: float,
    redaction: Redactor,
    limit: int,
) -> bytes:
    """The record as it is kept: its summary on the first line, so that a list need not read on.

    No longer than ``limit`` bytes; what that takes is left out.
    """
    redaction.found_secrets |= collect_client_key(exchange.client_key)
    for attempt in tape.attempts:
        redaction.found_secrets |= collect_upstream_secrets(attempt.upstream)
    record = RecordBuilder(redaction).build_record(name, tape, exchange, seconds)
    said = redaction.redact_everywhere(write_record(record), write_record)
    for part in iterate_droppable_parts(record):
        if len(said) <= limit:
            break
        drop_part(record, part)
        said = redaction.redact_everywhere(write_record(record), write_record)
    return said


def parse_summary(said: bytes) -> Json:
    """The summary of a record as it is kept, or of its first line; ValueError when it is none."""
    line = said.partition(b"\n")[0]
    if not (line.startswith(RECORD_HEAD) and line.endswith(b",")):
        raise ValueError("This is no record of an exchange.")
    return dict(orjson.loads(line[len(RECORD_HEAD) : -1]))


def write_record(record: Json) -> bytes:
    rest = {name: value for name, value in record.items() if name != "exchange"}
    summary = orjson.dumps(record["exchange"])
    return RECORD_HEAD + summary + b",\n" + orjson.dumps(rest)[1:] + b"\n"


class RecordBuilder:
    """Makes one record, blotted part by part."""

    def __init__(self, redaction: Redactor) -> None:
        self._redaction = redaction
        self._is_complete = True

    def build_record(
        self, name: str, tape: Recorder, exchange: RequestContext, seconds: float
    ) -> Json:
        client = {
            "request": self._make_request(tape),
            **({"resumed": self._resumed(tape.resumed_body)} if tape.resumed_body else {}),
            "answer": self._make_answer(tape.status, tape.headers, None, tape.answer),
        }
        upstream = [self._make_attempt(attempt) for attempt in tape.attempts]
        record = {
            "client": drop_nulls(client),
            "upstream": upstream,
            "dropped": dict(exchange.loss_report.losses),
            "usage": exchange.usage,
            "failed": exchange.failed_upstreams or None,
            "retries": exchange.retries or None,
            "left": exchange.is_cancelled or None,
        }
        summary = self._make_summary(name, tape, exchange, seconds)
        return {"exchange": drop_nulls(summary), **drop_nulls(record)}

    def _make_summary(
        self, name: str, tape: Recorder, exchange: RequestContext, seconds: float
    ) -> Json:
        return {
            "id": name,
            "request_id": exchange.id,
            "time": format_time(tape.time),
            "route": exchange.route,
            "model": exchange.model,
            "upstream": exchange.upstream,
            "status": exchange.status,
            "error": exchange.error,
            "duration_ms": serialize.to_milliseconds(seconds),
            "whole": self._is_complete,
            "redacted": self._redaction.redaction_count > 0,
        }

    def _make_request(self, tape: Recorder) -> Json:
        asked = tape.request_head
        return {
            "method": asked.method,
            "path": asked.path,
            "query": self._redaction.redact_pairs(asked.query),
            "headers": self._redaction.redact_pairs(asked.headers),
            **self._make_body(tape.body),
        }

    def _resumed(self, body: CapturedBody) -> Json:
        return self._make_body(body)

    def _make_body(self, body: CapturedBody | None) -> Json:
        if body is None:
            return {}
        self._is_complete &= body.is_complete
        left_out = {} if body.is_complete else {"left_out": body.size - len(body.data or b"")}
        if body.data is None:
            return left_out
        said = serialize.parse_answer([(0.0, body.data)])
        said.pop("at", None)
        if "body" not in said:  # lines of JSON are no body either
            said = {"text": body.data.decode(errors="replace")}
        return {**self._redact_parsed(said), **left_out}

    def _make_attempt(self, attempt: AttemptCapture) -> Json:
        request = self._make_body(attempt.body)
        return drop_nulls(
            {
                "upstream": attempt.upstream.name,
                "provider": attempt.provider,
                "protocol": attempt.protocol,
                "model": read_model(request.get("body")),
                "url": attempt.url,
                "at": serialize.to_milliseconds(attempt.started_at),
                "request": request,
                "answer": self._make_answer(
                    attempt.status, attempt.headers, attempt.head_at, attempt.answer
                ),
                "error": attempt.error,
            }
        )

    def _make_answer(
        self, status: int | None, headers: HeaderPairs, at: float | None, track: ByteTrack
    ) -> Json | None:
        if status is None and not track.pieces:
            return None
        self._is_complete &= not track.dropped_bytes
        said = self._redact_parsed(serialize.parse_answer(track.pieces, not track.dropped_bytes))
        head = {
            "status": status,
            "headers": self._redaction.redact_pairs(headers),
            "head_at": None if at is None else serialize.to_milliseconds(at),
            "left_out": track.dropped_bytes or None,
        }
        return {**drop_nulls(head), **said}

    def _redact_parsed(self, said: Json) -> Json:
        """What was read of bytes, blotted where it is data and where it is text."""
        blotted = dict(said)
        for name in ("body", "data"):
            if name in said:
                blotted[name] = self._redaction.redact_value(said[name])
        for name in ("text", "latin1"):
            if name in said:
                blotted[name] = self._redaction.redact_text(said[name])
        for name in ("events", "lines"):
            if name in said:
                blotted[name] = [self._redact_parsed(each) for each in said[name]]
        return blotted


def drop_nulls(given: Json) -> Json:
    return {name: value for name, value in given.items() if value is not None}


def read_model(body: Any) -> str | None:
    model = body.get("model") if isinstance(body, dict) else None
    return model if isinstance(model, str) else None


def format_time(seconds: float) -> str:
    at = datetime.fromtimestamp(seconds, UTC)
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


# -- what is too long ---------------------------------------------------------------------------

CONTENT_FIELDS = ("body", "events", "lines", "text", "latin1", "at")


def iterate_droppable_parts(record: Json) -> Iterator[Json]:
    """The parts that may be left out, in the order in which they can be done without."""
    client, attempts = record["client"], record["upstream"]
    parts = [client.get("answer"), *(attempt["request"] for attempt in attempts)]
    parts += [client.get("resumed"), *(attempt.get("answer") for attempt in attempts)]
    yield from (part for part in [*parts, client["request"]] if part)


def drop_part(record: Json, part: Json) -> None:
    size = sum(len(orjson.dumps(part.pop(name))) for name in CONTENT_FIELDS if name in part)
    part["left_out"] = part.get("left_out", 0) + size
    record["exchange"]["whole"] = False
