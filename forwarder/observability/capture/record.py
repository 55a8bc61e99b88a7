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

from forwarder.context.recorder import Attempt, Body, Pairs, Tape, Track
from forwarder.context.redaction import Redaction, keys_of, secrets_of_upstream
from forwarder.context.request_context import Exchange
from forwarder.core.types import Json
from forwarder.observability.capture import serialize

_HEAD = b'{"exchange":'


def encoded(
    name: str, tape: Tape, exchange: Exchange, seconds: float, redaction: Redaction, limit: int
) -> bytes:
    """The record as it is kept: its summary on the first line, so that a list need not read on.

    No longer than ``limit`` bytes; what that takes is left out.
    """
    redaction.found |= keys_of(exchange.client_key)
    for attempt in tape.attempts:
        redaction.found |= secrets_of_upstream(attempt.upstream)
    record = _Record(redaction).made(name, tape, exchange, seconds)
    said = redaction.everywhere(_written(record), _written)
    for part in _heaviest(record):
        if len(said) <= limit:
            break
        _leave_out(record, part)
        said = redaction.everywhere(_written(record), _written)
    return said


def summary_of(said: bytes) -> Json:
    """The summary of a record as it is kept, or of its first line; ValueError when it is none."""
    line = said.partition(b"\n")[0]
    if not (line.startswith(_HEAD) and line.endswith(b",")):
        raise ValueError("This is no record of an exchange.")
    return dict(orjson.loads(line[len(_HEAD) : -1]))


def _written(record: Json) -> bytes:
    rest = {name: value for name, value in record.items() if name != "exchange"}
    summary = orjson.dumps(record["exchange"])
    return _HEAD + summary + b",\n" + orjson.dumps(rest)[1:] + b"\n"


class _Record:
    """Makes one record, blotted part by part."""

    def __init__(self, redaction: Redaction) -> None:
        self._redaction = redaction
        self._whole = True

    def made(self, name: str, tape: Tape, exchange: Exchange, seconds: float) -> Json:
        client = {
            "request": self._asked(tape),
            **({"resumed": self._resumed(tape.resumed)} if tape.resumed else {}),
            "answer": self._answer(tape.status, tape.headers, None, tape.answer),
        }
        upstream = [self._attempt(attempt) for attempt in tape.attempts]
        record = {
            "client": _present(client),
            "upstream": upstream,
            "dropped": dict(exchange.ledger.dropped),
            "usage": exchange.usage,
            "failed": exchange.failed or None,
            "retries": exchange.retries or None,
            "left": exchange.left or None,
        }
        summary = self._summary(name, tape, exchange, seconds)
        return {"exchange": _present(summary), **_present(record)}

    def _summary(self, name: str, tape: Tape, exchange: Exchange, seconds: float) -> Json:
        return {
            "id": name,
            "request_id": exchange.id,
            "time": _iso(tape.time),
            "route": exchange.route,
            "model": exchange.model,
            "upstream": exchange.upstream,
            "status": exchange.status,
            "error": exchange.error,
            "duration_ms": serialize.ms(seconds),
            "whole": self._whole,
            "redacted": self._redaction.blots > 0,
        }

    def _asked(self, tape: Tape) -> Json:
        asked = tape.asked
        return {
            "method": asked.method,
            "path": asked.path,
            "query": self._redaction.pairs(asked.query),
            "headers": self._redaction.pairs(asked.headers),
            **self._body(tape.body),
        }

    def _resumed(self, body: Body) -> Json:
        return self._body(body)

    def _body(self, body: Body | None) -> Json:
        if body is None:
            return {}
        self._whole &= body.whole
        left_out = {} if body.whole else {"left_out": body.size - len(body.data or b"")}
        if body.data is None:
            return left_out
        said = serialize.read([(0.0, body.data)])
        said.pop("at", None)
        if "body" not in said:  # lines of JSON are no body either
            said = {"text": body.data.decode(errors="replace")}
        return {**self._blotted(said), **left_out}

    def _attempt(self, attempt: Attempt) -> Json:
        request = self._body(attempt.body)
        return _present(
            {
                "upstream": attempt.upstream.name,
                "provider": attempt.provider,
                "protocol": attempt.protocol,
                "model": _model(request.get("body")),
                "url": attempt.url,
                "at": serialize.ms(attempt.began),
                "request": request,
                "answer": self._answer(
                    attempt.status, attempt.headers, attempt.head_at, attempt.answer
                ),
                "error": attempt.error,
            }
        )

    def _answer(
        self, status: int | None, headers: Pairs, at: float | None, track: Track
    ) -> Json | None:
        if status is None and not track.pieces:
            return None
        self._whole &= not track.left_out
        said = self._blotted(serialize.read(track.pieces, not track.left_out))
        head = {
            "status": status,
            "headers": self._redaction.pairs(headers),
            "head_at": None if at is None else serialize.ms(at),
            "left_out": track.left_out or None,
        }
        return {**_present(head), **said}

    def _blotted(self, said: Json) -> Json:
        """What was read of bytes, blotted where it is data and where it is text."""
        blotted = dict(said)
        for name in ("body", "data"):
            if name in said:
                blotted[name] = self._redaction.value(said[name])
        for name in ("text", "latin1"):
            if name in said:
                blotted[name] = self._redaction.text(said[name])
        for name in ("events", "lines"):
            if name in said:
                blotted[name] = [self._blotted(each) for each in said[name]]
        return blotted


def _present(given: Json) -> Json:
    return {name: value for name, value in given.items() if value is not None}


def _model(body: Any) -> str | None:
    model = body.get("model") if isinstance(body, dict) else None
    return model if isinstance(model, str) else None


def _iso(seconds: float) -> str:
    at = datetime.fromtimestamp(seconds, UTC)
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


# -- what is too long ---------------------------------------------------------------------------

_SAID = ("body", "events", "lines", "text", "latin1", "at")


def _heaviest(record: Json) -> Iterator[Json]:
    """The parts that may be left out, in the order in which they can be done without."""
    client, attempts = record["client"], record["upstream"]
    parts = [client.get("answer"), *(attempt["request"] for attempt in attempts)]
    parts += [client.get("resumed"), *(attempt.get("answer") for attempt in attempts)]
    yield from (part for part in [*parts, client["request"]] if part)


def _leave_out(record: Json, part: Json) -> None:
    size = sum(len(orjson.dumps(part.pop(name))) for name in _SAID if name in part)
    part["left_out"] = part.get("left_out", 0) + size
    record["exchange"]["whole"] = False
