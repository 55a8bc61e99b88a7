"""The JSON record of one exchange: client request, upstream attempts and answers.

    {"exchange": {id, request_id, time, route, client, model, upstream, status, error, duration_ms,
                  whole, redacted},
     "client": {"request": {method, path, query, headers, body}, "resumed": {body},
                "answer": {status, headers, events …}},
     "upstream": [{upstream, provider, protocol, model, url, at, request: {body},
                   answer: {at, status, headers, events …}, error}, …],
     "dropped": {name: reason}, "usage", "failed", "retries", "left"}

A body that is not JSON is recorded as ``text``; answers have the format of `serialize`. ``resumed``
is the request body together with the stored history that it refers to. A part that exceeds the
size limit has its number of omitted bytes in ``left_out``, and ``whole`` is false. ``left`` is
true if the client disconnected before the end of its answer. Times (``at``) are in milliseconds
since the start of the exchange. The record of an exchange that has not ended has ``running`` in
``exchange``, and neither ``status`` nor ``error``; its answers may stop at any point.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import orjson

from forwarder.context.capture_recorder import (
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

MAX_RECORD_DEPTH = 8
"""Maximum number of JSON levels that a record adds around a body or answer."""

FINAL_FIELDS = ("status", "error", "whole", "redacted")
"""Fields of a summary that are unknown until the exchange has ended."""


def encode_record(
    name: str,
    recorder: Recorder,
    context: RequestContext,
    seconds: float,
    redactor: Redactor,
    limit: int,
) -> bytes:
    """Encode a redacted record as JSON of at most ``limit`` bytes.

    The first line holds the summary, so that listing records does not parse whole files. Parts
    are dropped until the record fits.
    """
    redactor.found_secrets |= collect_client_key(context.sent_key or context.client_key)
    for attempt in recorder.attempts:
        redactor.found_secrets |= collect_upstream_secrets(attempt.upstream)
    exchange = name, recorder, context, seconds
    try:
        record = RecordBuilder(redactor).build_record(*exchange)
        encoded = redactor.redact_everywhere(serialize_record(record), serialize_record)
    except (TypeError, RecursionError):  # orjson parses deeper JSON than it can write
        record = RecordBuilder(redactor, omits_deep_json=True).build_record(*exchange)
        encoded = redactor.redact_everywhere(serialize_record(record), serialize_record)
    for part in iterate_droppable_parts(record):
        if len(encoded) <= limit:
            break
        drop_part(record, part)
        encoded = redactor.redact_everywhere(serialize_record(record), serialize_record)
    return encoded


def encode_running_summary(
    name: str, recorder: Recorder, context: RequestContext, seconds: float, redactor: Redactor
) -> bytes:
    """Encode the redacted summary of an exchange that has not ended."""
    redactor.found_secrets |= collect_client_key(context.sent_key or context.client_key)
    builder = RecordBuilder(redactor)
    summary = builder.build_summary(name, recorder, context, seconds, is_running=True)
    return redactor.redact_everywhere(orjson.dumps(summary))


def parse_summary(encoded: bytes) -> Json:
    """Parse the summary of an encoded record, or of its first line; raises ValueError."""
    line = encoded.partition(b"\n")[0]
    if not (line.startswith(RECORD_HEAD) and line.endswith(b",")):
        raise ValueError("This is not a record of an exchange.")
    return dict(orjson.loads(line[len(RECORD_HEAD) : -1]))


def serialize_record(record: Json) -> bytes:
    """Return a record as JSON, with its summary in the first line."""
    rest = {name: value for name, value in record.items() if name != "exchange"}
    summary = orjson.dumps(record["exchange"])
    return RECORD_HEAD + summary + b",\n" + orjson.dumps(rest)[1:] + b"\n"


class RecordBuilder:
    """Builds one record and redacts each of its parts.

    With ``omits_deep_json``, parts that could not be written are left out. They are not recorded as
    text either, because fields can only be redacted in parsed JSON.
    """

    def __init__(self, redactor: Redactor, omits_deep_json: bool = False) -> None:
        self._redactor = redactor
        self._omits_deep_json = omits_deep_json
        self._is_complete = True

    def build_record(
        self, name: str, recorder: Recorder, context: RequestContext, seconds: float
    ) -> Json:
        client = {
            "request": self._make_request(recorder),
            **(
                {"resumed": self._make_body(recorder.resumed_body)} if recorder.resumed_body else {}
            ),
            "answer": self._make_answer(recorder.status, recorder.headers, None, recorder.answer),
        }
        upstream = [self._make_attempt(attempt) for attempt in recorder.attempts]
        record = {
            "client": drop_nulls(client),
            "upstream": upstream,
            "dropped": dict(context.loss_report.losses),
            "usage": None if self._omit_if_too_deep(context.usage) else context.usage,
            "failed": context.failed_upstreams or None,
            "retries": context.retries or None,
            "left": context.is_cancelled or None,  # the client disconnected
        }
        summary = self.build_summary(name, recorder, context, seconds, recorder.is_partial)
        return {"exchange": summary, **drop_nulls(record)}

    def build_summary(
        self,
        name: str,
        recorder: Recorder,
        context: RequestContext,
        seconds: float,
        is_running: bool,
    ) -> Json:
        """Build the summary, which has fewer fields for a running exchange."""
        summary = drop_nulls(self._make_summary(name, recorder, context, seconds))
        if not is_running:
            return summary
        known = {k: v for k, v in summary.items() if k not in FINAL_FIELDS}
        return {**known, "running": True}

    def _make_summary(
        self, name: str, recorder: Recorder, context: RequestContext, seconds: float
    ) -> Json:
        return {
            "id": name,
            "request_id": context.id,
            "time": format_time(recorder.time),
            "route": context.route,
            "client": context.client_name,
            "model": context.model,
            "upstream": context.upstream,
            "status": context.status,
            "error": context.error,
            "duration_ms": serialize.to_milliseconds(seconds),
            "whole": self._is_complete,
            "redacted": self._redactor.redaction_count > 0,
        }

    def _make_request(self, recorder: Recorder) -> Json:
        head = recorder.request_head
        return {
            "method": head.method,
            "path": head.path,
            "query": self._redactor.redact_pairs(head.query),
            "headers": self._redactor.redact_pairs(head.headers),
            **self._make_body(recorder.body),
        }

    def _make_body(self, body: CapturedBody | None) -> Json:
        if body is None:
            return {}
        self._is_complete &= body.is_complete
        left_out = {} if body.is_complete else {"left_out": body.size - len(body.data or b"")}
        if body.data is None:
            return left_out
        parsed = serialize.parse_answer([(0.0, body.data)])
        parsed.pop("at", None)
        if "body" not in parsed:  # events and JSON lines are not valid request bodies
            parsed = {"text": body.data.decode(errors="replace")}
        if self._omit_if_too_deep(parsed):
            return {"left_out": body.size}
        return {**self._redact_parsed(parsed), **left_out}

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
        is_whole = not (track.dropped_bytes or track.is_partial)
        parsed = serialize.parse_answer(track.pieces, is_whole)
        left_out = track.dropped_bytes
        if self._omit_if_too_deep(parsed):
            parsed, left_out = {}, left_out + sum(len(piece) for _, piece in track.pieces)
        head = {
            "status": status,
            "headers": self._redactor.redact_pairs(headers),
            "head_at": None if at is None else serialize.to_milliseconds(at),
            "left_out": left_out or None,
        }
        return {**drop_nulls(head), **self._redact_parsed(parsed)}

    def _omit_if_too_deep(self, value: Any) -> bool:
        """Return whether a value must be left out; the record is then marked as incomplete."""
        if not self._omits_deep_json or is_writable(value):
            return False
        self._is_complete = False
        return True

    def _redact_parsed(self, parsed: Json) -> Json:
        redacted = dict(parsed)
        for name in ("body", "data"):
            if name in parsed:
                redacted[name] = self._redactor.redact_value(parsed[name])
        for name in ("text", "latin1"):
            if name in parsed:
                redacted[name] = self._redactor.redact_text(parsed[name])
        for name in ("events", "lines"):
            if name in parsed:
                redacted[name] = [self._redact_parsed(each) for each in parsed[name]]
        return redacted


def is_writable(value: Any) -> bool:
    """Return whether a value can be written as JSON anywhere in a record."""
    for _ in range(MAX_RECORD_DEPTH):
        value = [value]
    try:
        orjson.dumps(value)
    except (TypeError, RecursionError):
        return False
    return True


def drop_nulls(fields: Json) -> Json:
    return {name: value for name, value in fields.items() if value is not None}


def read_model(body: Any) -> str | None:
    model = body.get("model") if isinstance(body, dict) else None
    return model if isinstance(model, str) else None


def format_time(seconds: float) -> str:
    at = datetime.fromtimestamp(seconds, UTC)
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


# -- size limit ---------------------------------------------------------------------------------

CONTENT_FIELDS = ("body", "events", "lines", "text", "latin1", "at")


def iterate_droppable_parts(record: Json) -> Iterator[Json]:
    """Iterate over the parts that may be dropped, the least important first."""
    client, attempts = record["client"], record["upstream"]
    parts = [client.get("answer"), *(attempt["request"] for attempt in attempts)]
    parts += [client.get("resumed"), *(attempt.get("answer") for attempt in attempts)]
    yield from (part for part in [*parts, client["request"]] if part)


def drop_part(record: Json, part: Json) -> None:
    size = sum(len(orjson.dumps(part.pop(name))) for name in CONTENT_FIELDS if name in part)
    part["left_out"] = part.get("left_out", 0) + size
    record["exchange"]["whole"] = False
