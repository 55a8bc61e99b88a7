"""``stop`` for upstreams that know no stop sequences: the answer is cut here.

Only the text counts, never reasoning or tool arguments.  Text that may turn out to be the
beginning of a stop sequence is held back until it is certain, and never lost.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from forwarder.core.errors import ForwarderError, InvalidRequest
from forwarder.core.types import Batch, Call, Event, Json, Stream
from forwarder.middleware.chat_chunks import (
    CALLS,
    TEXTS,
    Logprobs,
    choice_of,
    close,
    ending,
    has_notes,
    with_choice,
    with_usage,
)
from forwarder.middleware.usage_estimate import estimated

MOST = 4
"""How many stop sequences the API takes."""


def with_stop(call: Call, drain: bool) -> Call:
    """Wrap a chat call that gives one choice, so that it honours ``stop``.

    After the cut the upstream is closed at once, which saves its tokens, and usage is estimated;
    so it is asked for a stream.  ``drain`` reads it to its end instead, which costs them and gives
    exact usage, whichever way the answer comes.
    """

    def stopping(request: Json) -> Stream:
        if "stop" not in request:
            return call(request)
        stops = _stops(request["stop"])
        if not stops:
            return call({k: v for k, v in request.items() if k != "stop"})
        # They stay in the request: who answers it learns from them that it will be cut.
        asked = request if drain else {**request, "stream": True}
        return _stopped(call(asked), _Answer(stops), drain, request)

    return stopping


def _stops(value: Any) -> list[str]:
    stops = [value] if isinstance(value, str) else value or []
    if not isinstance(stops, list) or not all(isinstance(s, str) and s for s in stops):
        raise InvalidRequest(
            "Invalid type for 'stop': expected a string or an array of non-empty strings.",
            param="stop",
            code="invalid_type",
        )
    if len(stops) > MOST:
        raise InvalidRequest(
            f"Invalid 'stop': array too long. Expected at most {MOST} sequences.",
            param="stop",
            code="array_above_max_length",
        )
    return stops


def _stopped(stream: Stream, answer: _Answer, drain: bool, request: Json) -> Stream:
    try:
        for batch in stream:
            out = answer.take(batch)
            if answer.hit:
                break
            if out or not batch:
                yield out
        else:
            return
    except ForwarderError:
        if rest := answer.flush():  # what a broken answer has said is told before that it broke
            yield rest
        raise
    if answer.usage is None and drain:
        *said, end = out
        yield said
        out = [end]  # what comes late of the text before the cut is told before the end
        yield from _drained(stream, answer)
    close(stream)
    usage = answer.usage or estimated(request, answer.written)
    yield [*out, with_usage(answer.last, usage)]


def _drained(stream: Stream, answer: _Answer) -> Iterator[Batch]:
    """Read on for usage and notes alone; the answer is over, and no failure the client's."""
    try:
        for batch in stream:
            answer.note_usage(batch)
            late = list(filter(has_notes, batch))
            if late or not batch:
                yield late
    except ForwarderError:
        return


class Cutter:
    """Finds the first of several sequences in a text that comes in pieces."""

    def __init__(self, stops: list[str]) -> None:
        self._stops = stops
        self._held = ""
        self.hit = False

    def feed(self, text: str) -> str:
        """What of the text so far is certain to come before any stop sequence."""
        held = self._held + text
        found = [at for at in (held.find(stop) for stop in self._stops) if at >= 0]
        # A stop that began earlier goes before one that is complete already.
        open_at = len(held) - max(_overlap(held, stop) for stop in self._stops)
        if found and min(found) <= open_at:
            self.hit, self._held = True, ""
            return held[: min(found)]
        self._held = held[open_at:]
        return held[:open_at]

    def flush(self) -> str:
        """What was held back, when no more text comes; it may hold a stop that is complete."""
        held, self._held = self._held, ""
        found = [at for at in (held.find(stop) for stop in self._stops) if at >= 0]
        self.hit = bool(found)
        return held[: min(found)] if found else held


def _overlap(text: str, stop: str) -> int:
    """How many characters at the end of ``text`` could be the beginning of ``stop``."""
    start = text.find(stop[0], max(0, len(text) - len(stop) + 1))
    while start >= 0 and not stop.startswith(text[start:]):
        start = text.find(stop[0], start + 1)
    return len(text) - start if start >= 0 else 0


class _Answer:
    """One choice on its way to the client, up to the first stop sequence."""

    def __init__(self, stops: list[str]) -> None:
        self.usage: Json | None = None
        self.written: list[str] = []
        self.last: Event = {}
        self._cutter = Cutter(stops)
        self._logprobs = Logprobs()

    @property
    def hit(self) -> bool:
        return self._cutter.hit

    def take(self, batch: Batch) -> Batch:
        """What of a batch may go out now; once a stop is hit, it ends with the finish."""
        out: Batch = []
        for i, chunk in enumerate(batch):
            out += self._taken(chunk)
            if self.hit:
                self.note_usage(batch[i:])
                return [*out, *filter(has_notes, batch[i + 1 :]), ending(self.last, "stop")]
        return out

    def note_usage(self, batch: Batch) -> None:
        """Keep the usage if one of these chunks has it."""
        self.usage = next((c["usage"] for c in batch if c.get("usage")), self.usage)

    def flush(self) -> Batch:
        """What was held back, when nothing follows it."""
        rest = self._cutter.flush()
        return [self._saying(self.last, {}, rest)] if rest else []

    def _taken(self, chunk: Event) -> Batch:
        choice = choice_of(chunk)
        if not choice or has_notes(chunk):
            return [chunk]
        delta = choice.get("delta") or {}
        self.last = chunk
        self.written += [delta[name] for name in TEXTS if delta.get(name)]
        text = delta.get("content")
        if text:
            return self._fed(chunk, choice, delta)
        if choice.get("finish_reason") or any(delta.get(name) for name in (*CALLS, "refusal")):
            rest = self.flush()
            return rest if self.hit else [*rest, self._with_logprobs(chunk, choice)]
        return [self._with_logprobs(chunk, choice)]

    def _with_logprobs(self, chunk: Event, choice: Json) -> Event:
        """A chunk without text; log probabilities may come after theirs, or be left at the end."""
        self._logprobs.feed(choice.get("logprobs"))
        ends = choice.get("finish_reason")
        given = self._logprobs.rest() if ends else self._logprobs.give("")
        if given is None and not choice.get("logprobs"):
            return chunk
        return with_choice(chunk, {**choice, "logprobs": given})

    def _fed(self, chunk: Event, choice: Json, delta: Json) -> Batch:
        """A chunk with text; what else its delta says comes after the text."""
        self._logprobs.feed(choice.get("logprobs"))
        certain = self._cutter.feed(delta["content"])
        if not self.hit and (choice.get("finish_reason") or any(map(delta.get, CALLS))):
            certain += self._cutter.flush()
        other = {k: v for k, v in delta.items() if k != "content"}
        if self.hit:
            other = {k: v for k, v in other.items() if k not in CALLS}
        if not (certain or other) and (self.hit or not choice.get("finish_reason")):
            return []
        finish = None if self.hit else choice.get("finish_reason")
        return [self._saying(chunk, other, certain, finish)]

    def _saying(self, chunk: Event, other: Json, text: str, finish: str | None = None) -> Event:
        choice = {**choice_of(chunk), "delta": {**other, "content": text}, "finish_reason": finish}
        if choice.get("logprobs") or text:
            choice["logprobs"] = self._logprobs.give(text)
        return with_choice(chunk, choice)
