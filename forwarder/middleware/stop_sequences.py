"""Emulates ``stop`` for upstreams without stop sequences by cutting the answer.

Stop sequences apply to the text, not to reasoning or tool arguments. Text that may be the start
of a stop sequence is held back until the next text decides; if it is none, it is sent.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from forwarder.core.errors import ForwarderError, InvalidRequest
from forwarder.core.types import Batch, Event, EventStream, Handler, Json
from forwarder.middleware.chat_chunks import (
    CALL_DELTA_FIELDS,
    TEXT_FIELDS,
    LogprobBuffer,
    close_stream,
    has_side_data,
    make_final_chunk,
    make_usage_chunk,
    read_first_choice,
    replace_choice,
)
from forwarder.middleware.usage_estimate import estimate_usage

MAX_STOP_SEQUENCES = 4
"""The API's limit of stop sequences in a request."""


def with_stop_sequences(handler: Handler, drain: bool) -> Handler:
    """Wrap a chat handler that gives one choice, so that it honours ``stop``.

    Without ``drain`` the upstream's answer is always streamed and closed at the cut, which saves
    tokens; usage is then estimated. With ``drain`` the answer is read to its end, which costs
    tokens but gives exact usage.
    """

    def handle_request(request: Json) -> EventStream:
        if "stop" not in request:
            return handler(request)
        stops = read_stop_sequences(request["stop"])
        if not stops:
            return handler({k: v for k, v in request.items() if k != "stop"})
        # "stop" stays in the request: it tells the translator that the answer will be cut.
        inner = request if drain else {**request, "stream": True}
        return cut_stream(handler(inner), StopSequenceFilter(stops), drain, request)

    return handle_request


def read_stop_sequences(value: Any) -> list[str]:
    stops = [value] if isinstance(value, str) else value or []
    if not isinstance(stops, list) or not all(isinstance(s, str) and s for s in stops):
        raise InvalidRequest(
            "Invalid type for 'stop': expected a string or an array of non-empty strings.",
            param="stop",
            code="invalid_type",
        )
    if len(stops) > MAX_STOP_SEQUENCES:
        raise InvalidRequest(
            f"Invalid 'stop': array too long. Expected at most {MAX_STOP_SEQUENCES} sequences.",
            param="stop",
            code="array_above_max_length",
        )
    return stops


def cut_stream(
    stream: EventStream, answer: StopSequenceFilter, drain: bool, request: Json
) -> EventStream:
    try:
        for batch in stream:
            out = answer.filter_batch(batch)
            if answer.is_hit:
                break
            if out or not batch:
                yield out
        else:
            return
    except ForwarderError:
        if rest := answer.flush():  # the client gets the received text before the error
            yield rest
        raise
    if answer.usage is None and drain:
        *text_chunks, final = out
        yield text_chunks
        out = [final]  # late side data of the text before the cut precedes the final chunk
        yield from drain_stream(stream, answer)
    close_stream(stream)
    usage = answer.usage or estimate_usage(request, answer.texts)
    yield [*out, make_usage_chunk(answer.last_chunk, usage)]


def drain_stream(stream: EventStream, answer: StopSequenceFilter) -> Iterator[Batch]:
    """Read the rest for usage and side data; errors are ignored because the answer is complete."""
    try:
        for batch in stream:
            answer.record_usage(batch)
            late = list(filter(has_side_data, batch))
            if late or not batch:
                yield late
    except ForwarderError:
        return


class StopSequenceFinder:
    """Finds the first of several stop sequences in a text that arrives in pieces."""

    def __init__(self, stops: list[str]) -> None:
        self._stops = stops
        self._pending = ""
        self.hit: str | None = None
        """The stop sequence that was found."""

    @property
    def is_hit(self) -> bool:
        return self.hit is not None

    def feed(self, text: str) -> str:
        """Add a piece; return the text that certainly precedes any stop sequence."""
        pending = self._pending + text
        at, hit = self._find_first(pending)
        # A partial stop sequence that starts earlier takes precedence over a complete one.
        partial_at = len(pending) - max(count_overlap(pending, stop) for stop in self._stops)
        if hit is not None and at <= partial_at:
            self.hit, self._pending = hit, ""
            return pending[:at]
        self._pending = pending[partial_at:]
        return pending[:partial_at]

    def flush(self) -> str:
        """Return the held-back text at the end, up to a complete stop sequence if it has one."""
        pending, self._pending = self._pending, ""
        at, self.hit = self._find_first(pending)
        return pending[:at]

    def _find_first(self, text: str) -> tuple[int, str | None]:
        """Return position and text of the first stop sequence; without one, the text's length."""
        places = ((text.find(stop), stop) for stop in self._stops)
        found = [(at, stop) for at, stop in places if at >= 0]
        return min(found, key=lambda each: each[0]) if found else (len(text), None)


def count_overlap(text: str, stop: str) -> int:
    """Return how many characters at the end of ``text`` could be the start of ``stop``."""
    start = text.find(stop[0], max(0, len(text) - len(stop) + 1))
    while start >= 0 and not stop.startswith(text[start:]):
        start = text.find(stop[0], start + 1)
    return len(text) - start if start >= 0 else 0


class StopSequenceFilter:
    """Filters the chunks of one choice up to the first stop sequence."""

    def __init__(self, stops: list[str]) -> None:
        self.usage: Json | None = None
        self.texts: list[str] = []
        self.last_chunk: Event = {}
        self._finder = StopSequenceFinder(stops)
        self._logprobs = LogprobBuffer()

    @property
    def is_hit(self) -> bool:
        return self._finder.is_hit

    def filter_batch(self, batch: Batch) -> Batch:
        """Return the chunks that can be sent now; after a hit the last one is the final chunk."""
        out: Batch = []
        for i, chunk in enumerate(batch):
            out += self._filter_chunk(chunk)
            if self.is_hit:
                self.record_usage(batch[i:])
                return [
                    *out,
                    *filter(has_side_data, batch[i + 1 :]),
                    make_final_chunk(self.last_chunk, "stop"),
                ]
        return out

    def record_usage(self, batch: Batch) -> None:
        """Record the usage if one of these chunks has it."""
        self.usage = next((c["usage"] for c in batch if c.get("usage")), self.usage)

    def flush(self) -> Batch:
        """Return the held-back text as a chunk, at the end of the text."""
        rest = self._finder.flush()
        return [self._make_text_chunk(self.last_chunk, {}, rest)] if rest else []

    def _filter_chunk(self, chunk: Event) -> Batch:
        choice = read_first_choice(chunk)
        if not choice or has_side_data(chunk):
            return [chunk]
        delta = choice.get("delta") or {}
        self.last_chunk = chunk
        self.texts += [delta[name] for name in TEXT_FIELDS if delta.get(name)]
        text = delta.get("content")
        if text:
            return self._filter_text(chunk, choice, delta)
        if choice.get("finish_reason") or any(
            delta.get(name) for name in (*CALL_DELTA_FIELDS, "refusal")
        ):
            rest = self.flush()
            return rest if self.is_hit else [*rest, self._attach_logprobs(chunk, choice)]
        return [self._attach_logprobs(chunk, choice)]

    def _attach_logprobs(self, chunk: Event, choice: Json) -> Event:
        """Return a chunk without text, with log probabilities that come later than their text."""
        self._logprobs.feed(choice.get("logprobs"))
        is_last = choice.get("finish_reason")
        logprobs = self._logprobs.pop_rest() if is_last else self._logprobs.pop_for_text("")
        if logprobs is None and not choice.get("logprobs"):
            return chunk
        return replace_choice(chunk, {**choice, "logprobs": logprobs})

    def _filter_text(self, chunk: Event, choice: Json, delta: Json) -> Batch:
        """Filter a chunk with text; other content of its delta counts as following the text."""
        self._logprobs.feed(choice.get("logprobs"))
        certain = self._finder.feed(delta["content"])
        if not self.is_hit and (
            choice.get("finish_reason") or any(map(delta.get, CALL_DELTA_FIELDS))
        ):
            certain += self._finder.flush()
        other = {k: v for k, v in delta.items() if k != "content"}
        if self.is_hit:
            other = {k: v for k, v in other.items() if k not in CALL_DELTA_FIELDS}
        if not (certain or other) and (self.is_hit or not choice.get("finish_reason")):
            return []
        finish = None if self.is_hit else choice.get("finish_reason")
        return [self._make_text_chunk(chunk, other, certain, finish)]

    def _make_text_chunk(
        self, chunk: Event, other: Json, text: str, finish: str | None = None
    ) -> Event:
        choice = {
            **read_first_choice(chunk),
            "delta": {**other, "content": text},
            "finish_reason": finish,
        }
        if choice.get("logprobs") or text:
            choice["logprobs"] = self._logprobs.pop_for_text(text)
        return replace_choice(chunk, choice)
